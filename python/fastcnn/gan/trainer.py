"""GANTrainer: epochs of adversarial steps, sample grids, FID and mode coverage per epoch, checkpoints and resume.

What happens to one batch is in steps.py, the loop over batches in run.py, reports in report.py. For models with one
loss see Trainer.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from .. import _core, checkpoints
from .._callback_host import CallbackHost
from .._choices import pick_device
from .._compile import compile as compile_function
from .._files import prepare_folder, sole_writer
from .._loop import Interrupted, SignalGuard, describe_resume
from .._modes import evaluating, no_grad
from .._run_files import find_resume, optimizer_to_resume, options_of, restore_callbacks, tell_options
from .._steps import to_tensor
from ..callbacks import picture_of
from ..models.gan import GANPair
from ..nn import Module
from ..trainer import History
from .images import CentredImages, to_unit
from .losses import get_gan_loss
from .report import interpolation, mode_coverage
from .run import GANRun, run_gan_epoch
from .steps import AdversarialSteps, StepOptions

# (lr, betas) where the caller is silent: Radford et al. 2016; Gulrajani et al. 2017; Miyato et al. 2018.
_ADAM = {"wgan-gp": (1e-4, (0.0, 0.9)), "hinge": (2e-4, (0.0, 0.9))}
_ADAM_ELSE = (2e-4, (0.5, 0.999))


class GANTrainer(CallbackHost):
    """Trains a generator and a discriminator against each other.

    Args:
        generator, discriminator: a pair of fastcnn.models (create_model("dcgan"), also as one argument), or Modules:
            generator with the attributes latent_dim, image_size and num_classes (0: no labels), z (N, latent_dim) ->
            images in [-1, 1]; discriminator images -> scores. With num_classes both take class ids (N,) as second
            argument.
        loss: "bce" (Goodfellow et al. 2014), "lsgan" (Mao et al. 2017), "hinge" (Miyato et al. 2018), "wgan-gp"
            (Gulrajani et al. 2017), or a GANLoss.
        n_critic: steps of the discriminator per step of the generator; the last of them trains both.
        lr, betas: of Adam for both nets, default those of the loss's paper. d_lr: of the discriminator, default lr.
            optimizers: (of the generator, of the discriminator) instead.
        gp_weight: of the gradient penalty, default 10 with "wgan-gp", else 0. r1_gamma: weight of R1 (Mescheder et al.
            2018), every r1_every steps and as much stronger.
        label_smoothing: real images count as 1 - that, with "bce" and "lsgan" (Salimans et al. 2016). instance_noise:
            deviation of normal noise on all images that the discriminator sees (Sønderby et al. 2017), which falls to
            0 within noise_steps.
        ema_decay: the samples are of an average of the generator's weights with this decay; None: of the weights.
        fid: f(images (N, C, H, W) in [0, 1]) -> features (N, D): each epoch has a column fid, against the first
            fid_samples images of the data. classifier: f(images in [0, 1]) -> logits: columns confidence and modes, see
            mode_coverage. report_samples: images for both.
        grid: images in the picture of fixed noise that log_dir/samples/ gets each epoch; 0: none.
        precision, device, compile, seed, log_dir, callbacks, batch_size, transform, num_workers, detect_nan, progress,
            metadata, checkpoint_every_seconds: as of Trainer. fast_dev_run: batches of the only epoch; no files.

    log_dir gets metrics.csv, curves.png, samples/epoch-001.png ... and last.safetensors.
    """

    adversarial = True

    def __init__(
        self, generator, discriminator=None, loss="bce", n_critic=1, *, lr=None, betas=None, d_lr=None, optimizers=None,
        gp_weight=None, r1_gamma=0.0, r1_every=1, label_smoothing=0.0, instance_noise=0.0, noise_steps=10_000,
        ema_decay=0.999, fid=None, fid_samples=2048, classifier=None, report_samples=1024, grid=64,
        precision="32-true", device="auto", compile=True, seed=0, log_dir=None, callbacks=(), batch_size=64,
        transform=None, num_workers=0, detect_nan=True, progress=True, metadata=None, checkpoint_every_seconds=60.0,
        fast_dev_run=False,
    ):  # fmt: skip
        generator, discriminator = _two_nets(generator, discriminator)
        found = get_gan_loss(loss)
        gp_weight = (10.0 if loss == "wgan-gp" else 0.0) if gp_weight is None else gp_weight
        _check(
            n_critic=(n_critic, int(n_critic) == n_critic and n_critic >= 1, "an int of at least 1"),
            r1_every=(r1_every, int(r1_every) == r1_every and r1_every >= 1, "an int of at least 1"),
            label_smoothing=(label_smoothing, 0 <= label_smoothing < 1, "in [0, 1)"),
            ema_decay=(ema_decay, ema_decay is None or 0 < ema_decay < 1, "None or between 0 and 1"),
            precision=(precision, precision in ("32-true", "bf16-mixed"), "'32-true' or 'bf16-mixed'"),
            **{
                name: (value, value >= 0, ">= 0")
                for name, value in (
                    ("gp_weight", gp_weight), ("r1_gamma", r1_gamma), ("instance_noise", instance_noise),
                    ("grid", grid), ("fast_dev_run", fast_dev_run),
                )
            },
            noise_steps=(noise_steps, noise_steps >= 1, ">= 1"),
            fid_samples=(fid_samples, fid_samples >= 2, ">= 2"),
            report_samples=(report_samples, report_samples >= 2, ">= 2"),
        )  # fmt: skip
        if label_smoothing and not found.smooth:
            raise ValueError(f"GANTrainer: label_smoothing goes with loss 'bce' or 'lsgan', got {loss!r}")
        for what in ("latent_dim", "image_size"):
            if not hasattr(generator, what):
                raise TypeError(f"GANTrainer: expected a generator with the attribute {what}, as those of fc.models")
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim, self.num_classes = int(generator.latent_dim), int(getattr(generator, "num_classes", 0) or 0)
        self.device, self.precision, self.seed = pick_device(device), precision, int(seed)
        self.n_critic, self.r1_gamma, self.r1_every = int(n_critic), float(r1_gamma), int(r1_every)
        self.instance_noise, self.noise_steps = float(instance_noise), int(noise_steps)
        self.batch_size, self.transform, self.num_workers = int(batch_size), transform, num_workers
        self.fid_samples, self.report_samples, self.grid = int(fid_samples), int(report_samples), int(grid)
        self.classifier, self.detect_nan, self.metadata = classifier, bool(detect_nan), dict(metadata or {})
        self.checkpoint_every_seconds, self.fast_dev_run = checkpoint_every_seconds, int(fast_dev_run)
        self.log_dir = None if log_dir is None or self.fast_dev_run else Path(log_dir)
        for net in (generator, discriminator):
            net.to(self.device)
        self.optimizers = optimizers or self._adams(loss, lr, d_lr, betas)
        self.ema = None
        if ema_decay is not None:
            from ..nn.utils import EMA

            self.ema = EMA(generator, ema_decay, warmup=True)
        options = StepOptions(
            1.0 - label_smoothing, self.instance_noise > 0, float(gp_weight), self.r1_gamma, self.r1_every
        )
        compiler = compile_function if compile else None
        self._steps = AdversarialSteps(
            generator, discriminator, found, self.optimizers, options, self.ema, compiler, precision
        )
        self._sampler = compiler(self._draw) if compiler else self._draw
        self._fid, self._fid_known = _make_fid(fid), None
        self._take_callbacks(callbacks, progress)
        self.history, self.epoch_metrics = History(), {}
        self.max_epochs, self.should_stop, self.train_loader = 0, False, None
        self._run = self._first_options = None

    def _adams(self, loss, lr, d_lr, betas):
        from ..optim import Adam

        usual, moments = _ADAM.get(loss if isinstance(loss, str) else "", _ADAM_ELSE)
        lr = usual if lr is None else lr
        betas = moments if betas is None else betas
        return (
            Adam(self.generator.parameters(), lr=lr, betas=betas),
            Adam(self.discriminator.parameters(), lr=lr if d_lr is None else d_lr, betas=betas),
        )

    # ------------------------------------------------------------ what callbacks read

    @property
    def optimizer(self):
        """The generator's."""
        return self.optimizers[0]

    def running_metrics(self):
        """Losses and mean scores of the epoch so far."""
        return self._run.metrics()

    # ------------------------------------------------------------ fit

    def fit(self, data, max_epochs=10, resume=None):
        """Trains and returns the History: d_loss, g_loss, mean scores d_real and d_fake, penalty, fid, confidence ...

        Args: data: an ImageDataset, whose pixels are scaled to [-1, 1] and bordered up to the generator's size, or a
        loader of images or (images, class ids) with images in [-1, 1] already. Batches that are not whole are left out.
        max_epochs: counted from 0 even after a resume. resume: "last" (log_dir/last.safetensors; from the start if
        there is none), or a checkpoint; the result is the same, bit for bit, as without the interruption. Options of
        the optimizers that are others than the run began with are those it goes on with.

        Ctrl-C ends the step, saves last.safetensors and returns the history with `interrupted` set; SIGTERM does the
        same and then exits with status 143.
        """
        if max_epochs < 1:
            raise ValueError(f"GANTrainer.fit: expected max_epochs >= 1, got {max_epochs}")
        if _core.world_size() > 1:
            raise ValueError(f"GANTrainer.fit: expected one process, got a job of {_core.world_size()}")
        loader = self._loader(data)
        start = find_resume(self, resume, self.log_dir)
        if start is not None and "gan" not in start[1].state:
            raise ValueError(f"{start[0]}: holds no state of a GANTrainer, training cannot be resumed from it")
        if self.log_dir is not None:
            prepare_folder(self.log_dir)  # now, not after an epoch
        self.max_epochs = 1 if self.fast_dev_run else int(max_epochs)
        self.should_stop, self.train_loader = False, loader
        self.history, self.epoch_metrics = History(), {}
        self._run = GANRun(loader)
        if self._first_options is None:
            self._first_options = [options_of(o) for o in self.optimizers]
        if start is None:
            _core.ops.manual_seed(self.seed)
        else:
            self._restore(*start)
        self._steps.prepare()
        self._note_real(loader)
        with sole_writer(self.log_dir), SignalGuard() as signals:
            try:
                self._call("on_fit_start")
                while self._run.epoch < self.max_epochs and not self.should_stop:
                    self._fit_epoch(loader, signals)
                self._call("on_fit_end")
            except (Interrupted, KeyboardInterrupt) as stop:
                self._interrupted(stop, signals)
            except BaseException as error:
                self._call("on_exception", error)
                raise
            finally:
                self._steps.prepare()
        if self.log_dir is not None and self.history:
            picture_of(self.history, self.log_dir / "curves.png")
        self.history.stopped = self.should_stop
        if signals.received == "SIGTERM":
            raise SystemExit(143)
        return self.history

    def _loader(self, data):
        from ..data import DataLoader
        from ..data.base import ImageDataset

        if isinstance(data, ImageDataset):
            data = CentredImages(data, self.generator.image_size)
            return DataLoader(
                data, self.batch_size, shuffle=True, drop_last=True, seed=self.seed, transform=self.transform,
                num_workers=self.num_workers,
            )  # fmt: skip
        if isinstance(data, str) or not hasattr(data, "__iter__"):
            got = f"{data!r}; fc.data.load({data!r}) gives one" if isinstance(data, str) else type(data).__name__
            raise TypeError(f"GANTrainer.fit: expected an ImageDataset or a loader, got {got}")
        return data

    def _fields(self, batch):
        """(images, (class ids,) or ()) of what a loader yields, checked."""
        if isinstance(batch, dict):
            batch = tuple(batch.values())
        fields = batch if isinstance(batch, (tuple, list)) else (batch,)
        x = to_tensor(fields[0], self.device)
        if self._run.batch == 0 and self._run.epoch == 0:
            low, high = float(x.min().item()), float(x.max().item())
            if not (-1.001 <= low and high <= 1.001):
                raise ValueError(
                    f"GANTrainer.fit: expected images in [-1, 1], as the generator's, got {low:.3g} to {high:.3g}; "
                    "pass the dataset itself, or a loader of fc.gan.CentredImages(dataset)"
                )
            if low >= 0 and high > 0:
                warnings.warn(
                    f"GANTrainer.fit: the first images are of {low:.3g} to {high:.3g}, the generator's of -1 to 1; if "
                    "they are of 0 to 1, scale them: 2 * x - 1",
                    stacklevel=2,
                )
        if not self.num_classes:
            return x, ()
        if len(fields) < 2:
            raise ValueError("GANTrainer.fit: expected batches (images, class ids) for nets with num_classes")
        labels = fields[1].to("cpu").numpy() if isinstance(fields[1], _core.Tensor) else np.asarray(fields[1])
        self._check_labels(labels, int(x.shape[0]), "fit")
        return x, (to_tensor(fields[1], self.device),)

    def _train_step(self, x, labels):
        step = self._run.global_step
        left = max(0.0, 1.0 - step / self.noise_steps)
        std = _core.tensor(np.float32(self.instance_noise * left)).to(self.device)
        r1 = self.r1_gamma > 0 and step % self.r1_every == 0
        which = self._steps.both if (step + 1) % self.n_critic == 0 else self._steps.critic
        return which(x, labels, std, r1)

    def _fit_epoch(self, loader, signals):
        run = self._run
        if not run.trained:
            if run.batch == 0:
                self.epoch_metrics = {}
            # Within an epoch a loader's own state tells where it is.
            if hasattr(loader, "set_epoch") and (run.batch == 0 or not hasattr(loader, "load_state_dict")):
                loader.set_epoch(run.epoch)
            self.generator.train()
            self.discriminator.train()
            self._call("on_train_epoch_start")
            run_gan_epoch(self, run, loader, signals, self.fast_dev_run or None)
            if not run.trained:  # a callback said stop in the middle
                self._save_last()
                return
            self._call("on_train_epoch_end")
            if signals.received:
                raise Interrupted
        row = self.epoch_metrics
        row.update(run.metrics())
        self._call("on_validation_start")
        self._report(row)
        self._call("on_validation_end")
        row["lr"] = float(self.optimizer.param_groups[0]["lr"])
        row["images_per_second"], row["seconds"] = run.rate(), run.seconds
        if self.log_dir is not None and self.grid:
            self.save_grid(self.log_dir / "samples" / f"epoch-{run.epoch + 1:03d}.png")
        self._call("on_epoch_end")
        self.history.append(row)
        run.next_epoch()
        self._save_last()

    def _interrupted(self, stop, signals):
        name = signals.received or "SIGINT"
        self.history.interrupted = name
        self._call("on_fit_end")
        if self._run.in_step:
            raise stop  # the weights are between two states: what is on disk is the newest whole one
        where = self._save_last()
        self.message(describe_resume(name, self._run, where))

    # ------------------------------------------------------------ samples and reports

    @property
    def sampled_generator(self):
        """The generator that samples are of: the average of its weights, or itself."""
        return self.generator if self.ema is None else self.ema.module

    def _draw(self, z, labels):
        return self.sampled_generator(z, *labels)

    def generate(self, z, labels=None):
        """Images (N, C, H, W) in [0, 1], float32, of z (N, latent_dim) and, for nets with num_classes, ids (N,)."""
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != self.latent_dim or not len(z):
            raise ValueError(f"GANTrainer.generate: expected z (N, {self.latent_dim}), N >= 1, got {z.shape}")
        if self.num_classes:
            labels = np.arange(len(z)) % self.num_classes if labels is None else np.asarray(labels)
            self._check_labels(labels, len(z), "generate")
            labels = labels.astype(np.int64)
        elif labels is not None:
            raise ValueError("GANTrainer.generate: labels go with a conditional generator, this one takes none")
        net, size = self.sampled_generator, self.batch_size
        images = []
        with evaluating(net), no_grad():
            for start in range(0, len(z), size):
                part = np.resize(z[start : start + size], (size, self.latent_dim))  # whole batches: one plan
                ids = (np.resize(labels[start : start + size], size),) if self.num_classes else ()
                out = self._sampler(to_tensor(part, self.device), tuple(to_tensor(i, self.device) for i in ids))
                images.append(np.array(out.to("cpu").to("float32").numpy()))
        return to_unit(np.concatenate(images)[: len(z)])

    def _check_labels(self, labels, n, what):
        where = f"GANTrainer.{what}: expected class ids ({n},) of 0 to {self.num_classes - 1}"
        if labels.shape != (n,):
            raise ValueError(f"{where}, got shape {labels.shape}")
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{where}, got {labels.dtype}")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            got = f"{labels.min()} to {labels.max()}"
            raise ValueError(f"{where}, got {got}; the nets have num_classes={self.num_classes}")

    def latents(self, n, seed=0):
        """z (n, latent_dim) of a seed, float32; does not touch the random state of training."""
        if n < 1:
            raise ValueError(f"GANTrainer: expected at least one sample, got {n}")
        return np.random.default_rng(seed).standard_normal((int(n), self.latent_dim), dtype=np.float32)

    def sample(self, n, seed=0, labels=None):
        """n images (n, C, H, W) in [0, 1], the same for the same seed. labels: class ids (n,); default 0, 1, 2 ..."""
        return self.generate(self.latents(n, seed), labels)

    def interpolate(self, rows=8, columns=10, seed=0, labels=None):
        """Images (rows * columns, C, H, W): each row walks from one random point to another along a great circle.

        labels: a class id per row for conditional nets; default 0, 1, 2 ...
        """
        z = interpolation(self.latent_dim, rows, columns, seed)
        if self.num_classes:
            labels = np.arange(rows) % self.num_classes if labels is None else np.asarray(labels)
            self._check_labels(labels, rows, "interpolate")
            labels = np.repeat(labels, columns)
        return self.generate(z, labels)

    def save_grid(self, path, seed=None, columns=None):
        """Draws `grid` samples of fixed noise as one picture, written whole or not at all; None without matplotlib."""
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            return None
        from ..viz import image_grid

        images = self.sample(self.grid or 64, self.seed if seed is None else seed)
        image_grid(images, columns=columns or self.num_classes or None, limit=len(images), path=path)
        return Path(path)

    def coverage(self, n=None, seed=1, names=None):
        """The ModeCoverage of n samples (default report_samples) by the trainer's classifier."""
        if self.classifier is None:
            raise ValueError("GANTrainer.coverage: expected a GANTrainer with classifier=")
        images = self.sample(n or self.report_samples, seed)
        return mode_coverage(images, self.classifier, names, self.batch_size)

    def _note_real(self, loader):
        """Features of real images, once."""
        if self._fid is None or self._fid_known is loader:
            return
        data = getattr(loader, "dataset", None)
        if not isinstance(data, CentredImages):
            raise ValueError("GANTrainer.fit: fid needs the dataset: pass an ImageDataset or a loader of CentredImages")
        self._fid.real = type(self._fid.real)()
        for start in range(0, min(self.fid_samples, len(data)), self.batch_size):
            stop = min(start + self.batch_size, self.fid_samples, len(data))
            self._fid.update(data.unit_pixels(np.arange(start, stop)), real=True)
        self._fid_known = loader

    def _report(self, row):
        if self._fid is None and self.classifier is None:
            return
        images = self.sample(self.report_samples, self.seed + 1)
        if self._fid is not None:
            self._fid.reset()
            for start in range(0, len(images), self.batch_size):
                self._fid.update(images[start : start + self.batch_size], real=False)
            row["fid"] = self._fid.compute()
        if self.classifier is not None:
            coverage = mode_coverage(images, self.classifier, batch_size=self.batch_size)
            row["confidence"], row["modes"] = coverage.confidence, coverage.covered

    # ------------------------------------------------------------ files

    def _weights(self):
        nets = {"generator": self.sampled_generator, "discriminator": self.discriminator}
        return {f"{part}.{k}": t for part, net in nets.items() for k, t in net.state_dict().items()}

    def _metadata(self):
        row = {k: v for k, v in self.epoch_metrics.items() if isinstance(v, (int, float))}
        return {**self.metadata, "epoch": self.current_epoch, "metrics": row}

    def save(self, path):
        """Writes the weights of the pair (the averaged generator if there is one): create_model(pretrained=path)."""
        checkpoints.save_checkpoint(path, self._weights(), metadata=self._metadata())

    def save_checkpoint(self, path, keep_previous=False):
        """Writes everything that resume= needs. `path` also works wherever weights are expected."""
        tensors, packed = {"random": _core.ops.random_state()}, []
        if self.ema is not None:
            tensors.update({f"raw.{k}": t for k, t in self.generator.state_dict().items()})
            tensors["ema.updates"] = self.ema.updates
        for i, (prefix, optimizer) in enumerate(zip(("g.", "d."), self.optimizers, strict=True)):
            own, numbers = checkpoints.pack_optimizer(optimizer)
            tensors.update({prefix + k: t for k, t in own.items()})
            packed.append({**numbers, "options": self._first_options and self._first_options[i]})
        state = {
            "gan": 1, "run": self._run.state_dict(), "optimizers": packed, "history": dict(self.history),
            "epoch_metrics": self.epoch_metrics, "max_epochs": self.max_epochs, "seed": self.seed,
            "callbacks": [[type(c).__name__, c.state_dict()] for c in self.callbacks if hasattr(c, "state_dict")],
        }  # fmt: skip
        checkpoints.save_checkpoint(path, self._weights(), tensors, state, self._metadata(), keep_previous)
        return Path(path)

    def _save_last(self):
        if self.log_dir is None:
            return None
        self._run.saved()
        return self.save_checkpoint(self.log_dir / "last.safetensors", keep_previous=True)

    def load(self, path):
        """Takes over the weights of a checkpoint, for sampling."""
        for net, values in self._nets_of(checkpoints.load_weights(path)):
            net.load_state_dict(values)

    def _nets_of(self, weights):
        """[(net, its state)] of the weights of a checkpoint."""
        nets = {"generator.": self.sampled_generator, "discriminator.": self.discriminator}
        return [(net, _part(weights, prefix)) for prefix, net in nets.items()]

    def _restore(self, path, found):
        state, tensors = found.state, found.tensors
        try:
            if (self.ema is not None) != ("ema.updates" in tensors):
                raise ValueError("one of the checkpoint and this GANTrainer has averaged weights (ema_decay)")
            states, told = self._nets_of(found.weights), []
            if self.ema is not None:
                states.append((self.generator, _part(tensors, "raw.")))
            parts = zip(("g.", "d."), self.optimizers, state["optimizers"], self._first_options, strict=True)
            for prefix, optimizer, packed, options in parts:
                own, changed = optimizer_to_resume(optimizer, _part(tensors, prefix), packed, options)
                states.append((optimizer, own))
                told += [f"{c} ({prefix[0]})" for c in changed]
            for target, values in states:  # what may refuse comes first: then all is as it was
                target._fit_state(values)
            self._run.load_state_dict(state["run"])
            restore_callbacks(self, state["callbacks"])
            for target, values in states:
                target.load_state_dict(values)
            if self.ema is not None:
                self.ema.updates.copy_(tensors["ema.updates"])
            self.history.update({k: list(v) for k, v in state["history"].items()})
            self.epoch_metrics = dict(state["epoch_metrics"])
            _core.ops.random_state().copy_(tensors["random"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: cannot resume from it: {error}") from error
        self.message(f"resumed from {path}: epoch {self._run.epoch + 1}, step {self._run.global_step}")
        tell_options(self, told)


def _part(tensors, prefix):
    """Those under a prefix, without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _two_nets(generator, discriminator):
    """Both, of two arguments or of a pair as one."""
    if discriminator is None and isinstance(generator, (GANPair, tuple, list)):
        generator, discriminator = generator
    for what, net in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(net, Module):
            raise TypeError(
                f"GANTrainer: expected a {what} as a Module, got {type(net).__name__}; GANTrainer(generator, "
                "discriminator) takes both, or a pair of fc.models.create_model"
            )
    return generator, discriminator


def _check(**values):
    for name, (value, good, expected) in values.items():
        if not good:
            raise ValueError(f"GANTrainer: expected {name} {expected}, got {value!r}")


def _make_fid(fid):
    """A FID metric that keeps the real images, or None."""
    from ..metrics import FID

    if fid is None:
        return None
    if isinstance(fid, FID):
        if fid.reset_real_features:
            raise ValueError("GANTrainer: expected FID(feature_net, reset_real_features=False), or the network itself")
        return fid
    return FID(fid, reset_real_features=False)
