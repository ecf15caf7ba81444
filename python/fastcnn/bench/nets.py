"""Whole nets: training steps and inference of fastcnn, alone or paired with PyTorch on the same parameters and inputs.

A training step is forward, loss, backward and optimizer (SGD with momentum; Adam on both nets for the GAN), compiled
into one plan. Before a pair is timed both sides do two steps from the same parameters and must agree on both losses
(inference: on the logits); sides that do different work are not compared, an error says so.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

from .. import _core, optim
from .._compile import compile as compile_function
from .._modes import autocast, no_grad
from .._summary import summary
from ..models import create_model
from . import layers, machine, pairing


@dataclass(frozen=True)
class Net:
    """What is measured of one model: batch and image of the training step, batches of inference.

    pixels: a class for each pixel. own_loss: model.loss(images, classes), not cross entropy of what the model gives.
    """

    name: str
    batch: int
    image: tuple
    classes: int = 10
    lr: float = 0.01
    infer: tuple = (1, 16)
    bf16: bool = False
    quick: bool = False
    pixels: bool = False
    own_loss: bool = False


NETS = (
    Net("lenet", 128, (1, 28, 28), quick=True),
    Net("resnet20", 128, (3, 32, 32), bf16=True, quick=True),
    Net("resnet18", 16, (3, 224, 224), classes=1000, bf16=True),
    Net("resnet50", 8, (3, 224, 224), classes=1000, bf16=True),
    Net("mobilenet_v2", 16, (3, 224, 224), classes=1000),
    Net("efficientnet_b0", 16, (3, 224, 224), classes=1000, infer=()),
    Net("unet", 4, (3, 128, 128), classes=2, infer=(), pixels=True),
    Net("capsnet", 64, (1, 28, 28), infer=(), own_loss=True),
    Net("dcgan", 64, (3, 64, 64), infer=()),
)


# What makes a net draw random numbers, which cannot be compared, is off.
NO_CHANCE = {"mobilenet_v2": {"dropout": 0.0}, "efficientnet_b0": {"dropout": 0.0, "stochastic_depth": 0.0}}


@dataclass(frozen=True)
class Task:
    """One row: a net, "train" or "infer", the batch, the precision ("f32" or "bf16")."""

    net: Net
    what: str
    batch: int
    precision: str = "f32"

    @property
    def name(self):
        """For example "train f32 resnet18 b16"."""
        return f"{self.what} {self.precision} {self.net.name} b{self.batch}"


def tasks(nets=NETS, bf16=False):
    """The rows of these nets: training, inference and, if asked for, training with bfloat16 autocast."""
    rows = [Task(net, "train", net.batch) for net in nets]
    rows += [Task(net, "train", net.batch, "bf16") for net in nets if bf16 and net.bf16]
    return rows + [Task(net, "infer", batch) for batch in (1, 16) for net in nets if batch in net.infer]


def arrays_of(task, seed=0):
    """(images, class ids) of a task, or (images, noise) for the GAN."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((task.batch, *task.net.image), dtype=np.float32)
    if task.net.name == "dcgan":
        return np.tanh(images), rng.standard_normal((task.batch, 100, 1, 1), dtype=np.float32)
    shape = (task.batch, *task.net.image[1:]) if task.net.pixels else (task.batch,)
    return images, rng.integers(0, task.net.classes, shape)


def calibration(net):
    """Images whose statistics the batch norms start with."""
    return np.random.default_rng(1).standard_normal((2, *net.image), dtype=np.float32)


def build(net, state=None):
    """fastcnn's model of a net, with the parameters {name: array} if given."""
    if net.name == "dcgan":
        model = create_model("dcgan", in_channels=net.image[0], image_size=net.image[1])
    else:
        options = NO_CHANCE.get(net.name, {})
        model = create_model(net.name, num_classes=net.classes, in_channels=net.image[0], **options)
    if state is not None:
        model.load_state_dict(state)
    return model


def training_step(task, arrays, state=None):
    """A function that does one compiled training step and returns the loss as a Tensor.

    Its .plan is the compiled function, its .inputs are what that is called with.
    """
    model = build(task.net, state).train()
    tensors = tuple(_core.tensor(a).contiguous() for a in arrays)
    plan = compile_function(step_of(model, task))

    def run():
        return plan(*tensors)

    run.plan, run.inputs = plan, tensors
    return run


def _autocast(precision):
    return autocast(dtype=_core.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def step_of(model, task):
    """A function of the arrays' tensors that does one training step of a model on the device of its parameters."""
    return _gan_step(model, task) if task.net.name == "dcgan" else _step(model, task)


def _step(model, task):
    optimizer = optim.SGD(model.parameters(), lr=task.net.lr, momentum=0.9)

    def step(x, y):
        if task.net.own_loss:
            loss = model.loss(x, y)[0]
        else:
            with _autocast(task.precision):
                out = model(x)
            loss = _core.ops.cross_entropy(out.to(_core.float32), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def _gan_step(model, task):
    generator, discriminator = model.generator, model.discriminator
    adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
    opt_g = optim.Adam(generator.parameters(), **adam)
    opt_d = optim.Adam(discriminator.parameters(), **adam)
    bce = _core.ops.binary_cross_entropy_with_logits
    device = next(iter(generator.parameters())).device
    ones, zeros = (make((task.batch,), device=device) for make in (_core.ops.ones, _core.ops.zeros))

    def cost(logits, target):
        return bce(logits.flatten().to(_core.float32), target)

    def step(real, noise):
        with _autocast(task.precision):
            fake = generator(noise)
            of_real, of_fake = discriminator(real), discriminator(fake.detach())
        loss_d = cost(of_real, ones) + cost(of_fake, zeros)
        loss_d.backward()
        opt_d.step()
        opt_d.zero_grad()
        with _autocast(task.precision):
            of_fake = discriminator(fake)
        loss_g = cost(of_fake, ones)
        loss_g.backward()
        opt_g.step()
        opt_g.zero_grad()
        opt_d.zero_grad()
        return loss_d.detach() + loss_g.detach()

    return step


def inference(task, arrays, state=None):
    """A function that gives the logits as a Tensor; .plan and .inputs as above."""
    model = build(task.net, state).eval()
    x = _core.tensor(arrays[0]).contiguous()
    plan = compile_function(model)

    def run():
        with no_grad(), _autocast(task.precision):
            return plan(x)

    run.plan, run.inputs = plan, (x,)
    return run


def profile(task, runs=5):
    """The Profile of a task's plan (see fastcnn.profile), against the limits that the machine has now."""
    peak = machine.measure_peak(0.4)
    call = (training_step if task.what == "train" else inference)(task, arrays_of(task))
    limit = peak["bfloat16_gflops"] if task.precision == "bf16" else 0
    options = {"runs": runs, "peak_gflops": limit or peak["float32_gflops"], "peak_gbs": layers.bandwidth(peak)}
    if task.what == "train":
        return call.plan.profile(*call.inputs, **options)
    with no_grad(), _autocast(task.precision):
        return call.plan.profile(*call.inputs, **options)


def gflop(task):
    """Of one step, counted as the direct algorithms need them: convolutions and linear layers only.

    Training is three times forward, without the gradient of the images. The GAN's step: the discriminator sees three
    batches, two with gradients of its parameters, one with the gradient of its images; the generator one.
    """

    def cost(model, shape):
        rows = [r for r in summary(model, (task.batch, *shape)).rows if r.macs]
        return 2e-9 * sum(r.macs for r in rows), 2e-9 * rows[0].macs

    if task.net.name == "dcgan":
        pair = build(task.net)
        (g, g_first), (d, d_first) = cost(pair.generator, (100, 1, 1)), cost(pair.discriminator, task.net.image)
        return 2 * (3 * d - d_first) + 2 * d + 3 * g - g_first
    forward, first = cost(build(task.net), task.net.image)
    return forward if task.what == "infer" else 3 * forward - first


class DifferentWork(RuntimeError):
    """The two sides do not compute the same."""


# Largest relative differences: of the first loss or the logits, and of the loss after one update.
TOLERANCE = {"f32": (1e-3, 2e-2), "bf16": (5e-2, 2e-1)}


def _compare(task, ours, theirs):
    """Relative differences between the sides; raises DifferentWork where they are too large."""
    first, second = TOLERANCE[task.precision]
    if task.what == "infer":
        found = [layers.relative_error(ours, theirs)]
    else:
        found = [abs(a - b) / max(abs(b), 0.1) for a, b in zip(ours, theirs, strict=True)]
    if not (found[0] <= first and found[-1] <= second):
        raise DifferentWork(f"bench: {task.name}: the sides differ by {found}, allowed are {first} and {second}")
    return found[0]


def run(rows, effort, peer=None, compiled=False, progress=None):
    """Yields one result row per task. peer: torch_peer or None; compiled: torch.compile is among its modes."""
    for task in rows:
        if progress:
            progress(task.name)
        yield _row(task, effort, peer, compiled)


def _first_results(task, call):
    """The logits, or the losses of two steps."""
    if task.what == "infer":
        return np.asarray(call().numpy(), dtype=np.float64)
    return [float(call().item()) for _ in range(2)]


def _row(task, effort, peer, compiled):
    arrays = arrays_of(task)
    state = peer.new_state(task.net, calibration(task.net)) if peer else None
    make = training_step if task.what == "train" else inference
    ours = make(task, arrays, state)
    mine = _first_results(task, ours)
    row = {"kind": "net", "name": task.name, "net": task.net.name, "what": task.what, "precision": task.precision,
           "batch": task.batch, "gflop": gflop(task)}  # fmt: skip
    others = machine.Others()
    peak = machine.measure_peak(0.4)
    if peer is None:
        ours()
        times = [pairing.time_block(ours, effort) for _ in range(effort.pairs)]
        seconds = pairing.median_interval(times).median
    else:
        make_peer = peer.training_step if task.what == "train" else peer.inference
        calls, modes, differences = {}, {}, []

        def try_mode(name, layout, on):
            calls[name] = make_peer(task.net, state, arrays, layout, task.precision, on)
            try:
                found = _first_results(task, calls[name])
            except Exception as error:  # noqa: BLE001 - whatever a peer's compiler raises
                if not on:
                    raise
                row["peer_failed"] = {name: str(error).splitlines()[0][:200]}
            else:
                differences.append(_compare(task, mine, found))
                modes.update(pairing.fastest({name: calls[name]}, effort))
            return min(modes, key=modes.get)

        for layout in peer.LAYOUTS:
            best = try_mode(layout, layout, False)
        if compiled:
            best = try_mode(f"{best} compile", best, True)
        row["difference"] = max(differences)
        others = machine.Others()  # from here on: the peer's compiler ran in processes of its own
        peak = machine.higher(peak, machine.measure_peak(0.2))
        pairs = pairing.time_pairs(ours, calls[best], effort)
        seconds = layers.add_pairs(row, pairs, best, modes)
    peak = machine.higher(peak, machine.measure_peak(0.2))
    limit = peak["bfloat16_gflops"] if task.precision == "bf16" else peak["float32_gflops"]
    row.update(
        ms=1e3 * seconds, images_per_s=task.batch / seconds, gflops=row["gflop"] / seconds,
        percent_of_peak=100 * row["gflop"] / seconds / limit if limit else None,
        arena_mbyte=ours.plan.info()["arena_bytes"] / 1e6, peak=peak, date=machine.now(),
        others=others.share(),
    )  # fmt: skip
    return row
