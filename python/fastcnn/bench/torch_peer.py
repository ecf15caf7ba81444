"""PyTorch as the peer: the same convolutions and steps, in each of its modes (NCHW, channels_last, torch.compile)."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F

from . import torch_nets

# Eager modes; torch.compile is tried on the faster one.
LAYOUTS = {"torch NCHW": torch.contiguous_format, "torch channels_last": torch.channels_last}
set_num_threads = torch.set_num_threads


class Conv:
    """The three passes of one layer."""

    def __init__(self, operands):
        self._layer = operands.layer
        self._operands = tuple(torch.from_numpy(a) for a in (operands.x, operands.w, operands.dy))

    def _call(self, name, x, w, dy):
        layer = self._layer
        stride, padding, one = [layer.stride] * 2, [layer.padding] * 2, [1, 1]
        if name == "fwd":
            return lambda: F.conv2d(x, w, None, stride, padding, one, layer.groups)
        mask = [name == "bwd_data", name == "bwd_weights", False]
        which = 0 if name == "bwd_data" else 1
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(dy, x, w, None, stride, padding, one, False, [0, 0], layer.groups, mask)[which]

    def calls(self, name):
        """{mode: function without arguments}."""
        return {
            mode: _no_grad(self._call(name, *(t.contiguous(memory_format=layout) for t in self._operands)))
            for mode, layout in LAYOUTS.items()
        }

    def float64(self, name):
        """The pass in double precision, as a NumPy array: what both sides are measured against."""
        return _no_grad(self._call(name, *(t.double() for t in self._operands)))().numpy()


class _Ops:
    """PyTorch's functions under the names that ``fastcnn.ops`` gives them."""

    def __getattr__(self, name):
        return getattr(F, name, None) or getattr(torch, name)


def op_calls(op, name, arrays, dy):
    """{mode: function without arguments} of a row of ops.py; layouts are one mode where no operand is an image."""
    call, found = op.peer or op.call, {}
    for mode, layout in LAYOUTS.items():
        a = _inputs(arrays, layout)
        g = _inputs([dy], layout)[0]
        if not any(t.ndim == 4 for t in a) and found:
            break
        if name == "fwd":
            found[mode] = _no_grad(lambda a=a: call(_Ops(), *a))
            continue

        def both(a=a, g=g):
            leaves = [t.detach().requires_grad_() for t in a[: 1 + op.weights]]
            y = call(_Ops(), *leaves, *a[1 + op.weights :])
            return y, *torch.autograd.grad(y, leaves, g)

        found[mode] = both
    return found


def optimizer_calls(name, options, values):
    """{mode: function} that takes one step: the fused implementation and, where it is faster, the one over lists."""
    found = {}
    for mode in ("fused", "foreach"):
        parameters = [torch.from_numpy(v.copy()).requires_grad_() for v in values]
        for p in parameters:
            p.grad = torch.full_like(p, 1e-3)
        found[f"torch {mode}"] = getattr(torch.optim, name)(parameters, **options, **{mode: True}).step
    return found


def _no_grad(call):
    def run():
        with torch.no_grad():
            return call()

    return run


def new_state(net, images, seed=0):
    """The first parameters of a net as {name: array}; both sides load them.

    Batch norms hold the statistics of a few of the images: with those of a fresh net the logits of deep nets would
    vanish, and comparing them would prove nothing.
    """
    torch.manual_seed(seed)
    model = torch_nets.BUILDERS[net.name]()
    if net.infer:
        for m in model.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.from_numpy(images[:2]))
    return {k: v.numpy().copy() for k, v in model.state_dict().items()}


def _model(net, state, layout):
    model = torch_nets.BUILDERS[net.name]()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    return model.to(memory_format=layout)


def _inputs(arrays, layout):
    tensors = [torch.from_numpy(a) for a in arrays]
    return [t.contiguous(memory_format=layout) if t.ndim == 4 else t for t in tensors]


def _autocast(precision):
    if precision == "bf16":
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def training_step(net, state, arrays, mode="torch NCHW", precision="f32", compiled=False):
    """A function that does one training step and returns the loss as a tensor."""
    layout = LAYOUTS[mode]
    model = _model(net, state, layout).train()
    inputs = _inputs(arrays, layout)
    if net.name == "dcgan":
        compile_part = torch.compile if compiled else lambda part: part
        return gan_step(model, *inputs, compile_part, lambda: _autocast(precision))
    optimizer = torch.optim.SGD(model.parameters(), lr=net.lr, momentum=0.9, fused=True)
    x, y = inputs

    def loss_of(x, y):
        with _autocast(precision):
            out = model(x)
        return F.cross_entropy(out.float(), y)

    forward = model.loss if net.own_loss else loss_of
    forward = torch.compile(forward) if compiled else forward

    def step():
        loss = forward(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def gan_step(model, real, noise, compile_part, autocast, **adam_options):
    """nets.py's step of a GAN; compile_part: applied to both nets; autocast: gives the context of what they compute."""
    generator, discriminator = model["generator"], model["discriminator"]
    adam = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True, **adam_options}
    opt_g = torch.optim.Adam(generator.parameters(), **adam)
    opt_d = torch.optim.Adam(discriminator.parameters(), **adam)
    g, d = compile_part(generator), compile_part(discriminator)
    bce = F.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(len(real), device=real.device), torch.zeros(len(real), device=real.device)

    def cost(logits, target):
        return bce(logits.flatten().float(), target)

    def step():
        opt_d.zero_grad(set_to_none=True)
        with autocast():
            fake = g(noise)
            of_real, of_fake = d(real), d(fake.detach())
        loss_d = cost(of_real, ones) + cost(of_fake, zeros)
        loss_d.backward()
        opt_d.step()
        opt_g.zero_grad(set_to_none=True)
        with autocast():
            of_fake = d(fake)
        loss_g = cost(of_fake, ones)
        loss_g.backward()
        opt_g.step()
        return loss_d.detach() + loss_g.detach()

    return step


def inference(net, state, arrays, mode="torch NCHW", precision="f32", compiled=False):
    """A function that gives the logits."""
    layout = LAYOUTS[mode]
    model = _model(net, state, layout).eval()
    (x,) = _inputs(arrays[:1], layout)
    if compiled:
        # constants folded, batch norm into the weights, weights packed once
        model = torch.compile(model, options={"freezing": True})

    def run():
        with torch.inference_mode() if not compiled else torch.no_grad(), _autocast(precision):
            return model(x)

    return run
