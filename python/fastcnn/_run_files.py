"""What a Trainer writes of its state into a checkpoint, and how it takes it back. The file is checkpoints.py's."""

from __future__ import annotations

from pathlib import Path

from . import _core, checkpoints
from .optim.optimizer import as_option


def save_run(trainer, path, keep_previous=False):
    """Writes weights, optimizer, averages, schedule, history, callbacks and random state; gives the Path."""
    weights, tensors = trainer.model.state_dict(), {}
    if trainer.ema is not None:
        tensors = {f"raw.{k}": t for k, t in weights.items()}
        weights = trainer.ema.module.state_dict()
        tensors["ema.updates"] = trainer.ema.updates
    packed_tensors, packed = checkpoints.pack_optimizer(trainer.optimizer)
    packed["options"] = trainer._first_options
    tensors.update(packed_tensors)
    tensors["random"] = _core.ops.random_state()
    state = {
        "run": trainer._run.state_dict(), "optimizer": packed, "history": dict(trainer.history),
        "epoch_metrics": trainer.epoch_metrics, "best": [trainer.best_score, trainer.best_epoch],
        "scheduler": None if trainer.scheduler is None else trainer.scheduler.state_dict(),
        "scheduler_name": _name_of(trainer.scheduler),
        "callbacks": [[type(c).__name__, c.state_dict()] for c in trainer.callbacks if hasattr(c, "state_dict")],
        "max_epochs": trainer.max_epochs, "seed": trainer.seed,
        "scaler": None if trainer.scaler is None else trainer.scaler.state_dict(),
    }  # fmt: skip
    checkpoints.save_checkpoint(path, weights, tensors, state, trainer._metadata(), keep_previous)
    return Path(path)


def _last_of(folder):
    """The newest checkpoint of a run: where last.safetensors has been removed, the one before it."""
    path = folder / "last.safetensors"
    previous = checkpoints.previous_path(path)
    return previous if previous.exists() and not path.exists() else path


def find_resume(trainer, resume, folder):
    """(path, Checkpoint) to continue from, read and verified, or None. See Trainer.fit(resume=...)."""
    kind = type(trainer).__name__
    if resume is None:
        return None
    if resume == "last":
        if folder is None:
            raise ValueError(f"{kind}.fit: resume='last' needs a {kind} with log_dir")
        path = _last_of(folder)
        if not path.exists():
            trainer.message(f"no {path} to resume from: starting from the beginning")
            return None
    else:
        path = Path(resume)
        if path.is_dir():
            path = _last_of(path)
    found = checkpoints.load_checkpoint(path)
    if found.state is None:
        raise ValueError(f"{path}: holds weights only, training cannot be resumed from it")
    return path, found


def restore_run(trainer, start, loader):
    """Takes over what find_resume gave. Raises: ValueError where this Trainer is another than the one that saved."""
    path, found = start
    try:
        told = _restore(trainer, found, loader)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: cannot resume from it: {error}") from error
    trainer.message(f"resumed from {path}: epoch {trainer._run.epoch + 1}, step {trainer._run.global_step}")
    tell_options(trainer, told)


def _weights(trainer, found):
    """[(module, its state)]: of the model, and of its average where there is one."""
    averaged = "ema.updates" in found.tensors
    if averaged and trainer.ema is None:
        raise ValueError("the checkpoint has averaged weights, and this Trainer has no ema_decay")
    if trainer.ema is None:
        return [(trainer.model, found.weights)]
    if not averaged:
        raise ValueError("the checkpoint has no averaged weights, and this Trainer has ema_decay")
    raw = {k.removeprefix("raw."): t for k, t in found.tensors.items() if k.startswith("raw.")}
    return [(trainer.ema.module, found.weights), (trainer.model, raw)]


def restore_callbacks(trainer, saved):
    """Gives each callback the state of the first one of its kind and monitor that is left; tells of states that nobody
    takes."""
    left = [tuple(entry) for entry in saved]
    for callback in trainer.callbacks:
        if not hasattr(callback, "state_dict"):
            continue
        at = next((i for i, (kind, values) in enumerate(left) if _is_of(callback, kind, values)), None)
        if at is not None:
            values = left.pop(at)[1]
            if values:
                callback.load_state_dict(values)
    lost = [kind for kind, values in left if values]
    if lost:
        trainer.message(f"the checkpoint has states of callbacks that are not there: {', '.join(lost)}")


def _is_of(callback, kind, values):
    """Whether a saved state may be this callback's: a best value of another metric would mean nothing to it."""
    if kind != type(callback).__name__:
        return False
    if not isinstance(values, dict) or "monitor" not in values or not hasattr(callback, "monitor"):
        return True
    return values["monitor"] == callback.monitor


def options_of(optimizer, scheduled=False):
    """Options of each group, as they are now: what a run begins with is what a resumed one is compared with.

    scheduled: a schedule has moved the rates already; then those it has them from.
    """
    found = [{k: v for k, v in g.items() if k not in ("params", "initial_lr")} for g in optimizer.param_groups]
    for options, group in zip(found, optimizer.param_groups, strict=True):
        options["lr"] = group.get("initial_lr", group["lr"]) if scheduled else group["lr"]
    return found


def optimizer_to_resume(optimizer, tensors, packed, options):
    """(state_dict to go on from, what is told of options that have changed) of a packed optimizer.

    Where `options`, those of this run, are others than the run before began with, they win. A rate that a schedule has
    moved since keeps its share. Files of before do not tell what they began with: all is theirs.
    """
    state, told = checkpoints.unpack_optimizer(tensors, packed, optimizer), []
    before = packed.get("options")
    if before is None or len(before) != len(options) or len(before) != len(state["param_groups"]):
        return state, told
    groups = []
    for own, old, saved, group in zip(options, before, state["param_groups"], optimizer.param_groups, strict=True):
        new = {k: v for k, v in own.items() if k not in old or as_option(old[k]) != as_option(v)}
        told += [f"{k} {v} instead of {old.get(k)}" for k, v in new.items()]
        if "lr" in new:
            new["lr"] = own["lr"] * (saved["lr"] / old["lr"]) if old["lr"] else own["lr"]
            new["initial_lr"] = group.get("initial_lr", own["lr"])
        groups.append({**saved, **new})
    return {**state, "param_groups": groups}, list(dict.fromkeys(told))


def tell_options(trainer, told):
    """Tells of the options that optimizer_to_resume has changed."""
    if told:
        trainer.message(f"the optimizer goes on with {', '.join(told)}")


def _schedule_to_resume(scheduler, saved, rates):
    """The state of a schedule; where rates of the optimizer have changed, with those that `scheduler` begins with.

    rates: [(before, now)] of the groups.
    """
    if all(a == b for a, b in rates):
        return saved
    state = dict(saved)
    if "base_lrs" in state:
        state["base_lrs"] = list(scheduler.base_lrs)
    if "lrs" in state:  # of ReduceLROnPlateau
        state["lrs"] = [now * (lr / old) if old else now for lr, (old, now) in zip(state["lrs"], rates, strict=True)]
    if "schedulers" in state:
        parts = zip(scheduler.schedulers, state["schedulers"], strict=True)
        state["schedulers"] = [_schedule_to_resume(part, own, rates) for part, own in parts]
    return state


def _name_of(scheduler):
    return "none" if scheduler is None else type(scheduler).__name__


def _check_scheduler(trainer, state):
    own = _name_of(trainer.scheduler)
    saved = state.get("scheduler_name", "none" if state["scheduler"] is None else None)
    if saved is None and own != "none":  # a file of before, which does not tell
        return
    if saved != own:
        raise ValueError(f"this Trainer's scheduler is {own}, that of the checkpoint {saved or 'another'}")


def _restore(trainer, found, loader):
    """Returns what is to be told of changed options."""
    # What may refuse comes first: a checkpoint that does not fit leaves weights and optimizer as they were.
    state, tensors = found.state, found.tensors
    weights = _weights(trainer, found)
    for module, values in weights:
        module._fit_state(values)
    packed, options = state["optimizer"], trainer._first_options
    optimizer, told = optimizer_to_resume(trainer.optimizer, tensors, packed, options)
    trainer.optimizer._fit_state(optimizer)
    _check_scheduler(trainer, state)
    if trainer.scheduler is not None:
        rates = [(old["lr"], own["lr"]) for old, own in zip(packed.get("options") or options, options, strict=True)]
        schedule = _schedule_to_resume(trainer.scheduler, state["scheduler"], rates)
        trainer.scheduler.load_state_dict(schedule)
    history, metrics, random = state["history"], dict(state["epoch_metrics"]), tensors["random"]
    trainer.best_score, trainer.best_epoch = state["best"]
    trainer._run.load_state_dict(state["run"], loader)
    if trainer.scaler is not None and state.get("scaler"):
        trainer.scaler.load_state_dict(state["scaler"])
    restore_callbacks(trainer, state["callbacks"])

    for module, values in weights:
        module.load_state_dict(values)
    if trainer.ema is not None:
        trainer.ema.updates.copy_(tensors["ema.updates"])
    trainer.optimizer.load_state_dict(optimizer)
    if trainer.scheduler is not None:
        trainer.scheduler.load_state_dict(schedule)  # its rates, after those of the optimizer
    trainer.history.update({k: list(v) for k, v in history.items()})
    trainer.epoch_metrics = metrics
    _core.ops.random_state().copy_(random)
    return told
