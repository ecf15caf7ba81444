"""Every op family of fuzz_cases.py on a device against the CPU: values, gradients, and a plan against eager.

What it is not: a comparison with PyTorch (test_fuzz_parity.py does that for the CPU). Used by test_cuda.py on what
device there is and by bench/gpu_check.sh in all dtypes.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from unittest import mock

import fastcnn as fc
import numpy as np
from fuzz_cases import FAMILIES

# Of the largest wanted value; the CPU computes 16-bit floats in float32 too, but adds in another order.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 4e-2, "float16": 6e-3}
NO_KERNEL = re.compile(r"^(\w+): no implementation on cuda")
# Operands that a case has on the CPU in spite of operands_on, and so say the messages.
HOST_OPERAND = re.compile("expected all tensors on one device|compile cannot record a copy from cpu to ")


def listed(y):
    return list(y) if isinstance(y, (tuple, list)) else [y]


def results(call, arrays, dtype, device, weights=None):
    """(values, gradients of all floating operands), as Tensors on `device`; weights: NumPy arrays per value."""
    leaves = []
    for a in arrays:
        t = fc.tensor(np.asarray(a))
        if np.asarray(a).dtype.kind == "f":
            t = t.to(getattr(fc, dtype))
        t = t.to(device)
        leaves.append(t.requires_grad_() if np.asarray(a).dtype.kind == "f" else t)
    values = listed(call(*leaves))
    if weights is None:
        return values, None
    wanted = [x for x in leaves if x.requires_grad]
    pairs = [(y, fc.tensor(w).to(y.dtype).to(device)) for y, w in zip(values, weights, strict=True) if y.requires_grad]
    if not pairs or not wanted:
        return values, []
    return values, list(fc.grad([y for y, _ in pairs], wanted, [w for _, w in pairs], allow_unused=True))


@contextlib.contextmanager
def operands_on(device):
    """Here tensors that a case makes of arrays inside its call lie on the device: each once, a plan records no copy."""
    make, made = fc._core.tensor, {}

    def tensor(data, **options):
        key = id(data), str(options)
        if key not in made:
            made[key] = data, make(data, **options).to(device)  # with the data, whose id is not given away meanwhile
        return made[key][1]

    with mock.patch.object(fc._core, "tensor", tensor):
        yield


def numbers(t):
    t = t.detach().cpu()
    return t.to(fc.float64).numpy() if "float" in str(t.dtype) else t.numpy()


def difference(got, want, tolerance, what):
    """ "" or what is wrong."""
    if (got is None) != (want is None):
        return f"{what}: one side has none"
    if got is None:
        return ""
    if tuple(got.shape) != tuple(want.shape) or str(got.dtype) != str(want.dtype):
        return f"{what}: {tuple(got.shape)} {got.dtype} instead of {tuple(want.shape)} {want.dtype}"
    a, b = numbers(got), numbers(want)
    if b.dtype.kind != "f":
        return "" if np.array_equal(a, b) else f"{what}: whole numbers differ"
    finite = np.abs(b[np.isfinite(b)])
    size = max(1.0, float(finite.max())) if finite.size else 1.0
    close = np.isclose(a, b, rtol=tolerance, atol=tolerance * size, equal_nan=True)
    if close.all():
        return ""
    return f"{what}: off by {float(np.nanmax(np.abs(a - b))) / size:.2e} of the largest"


def differences(got, want, tolerance, what):
    """ "" or what is wrong first."""
    pairs = enumerate(zip(got, want, strict=True))
    return next(filter(None, (difference(x, y, tolerance, f"{what} {i}") for i, (x, y) in pairs)), "")


def refusal(error, label):
    """The verdict on an exception on the device: no kernel, a case that is not for a device, anything else is wrong."""
    if missing := NO_KERNEL.match(str(error)):
        return "missing", missing[1]
    return "skipped" if HOST_OPERAND.search(str(error)) else "wrong", f"{label}: {type(error).__name__}: {error}"


def compare(family, seed, dtype, compiled, device="cuda"):
    """(verdict, text): "ok"; "wrong" with the difference; "missing" with the op; "skipped" with the reason."""
    rng = np.random.default_rng([seed, zlib.crc32(family.encode())])
    case = FAMILIES[family](rng)
    label = f"{family} seed={seed} {dtype} {case.what}"
    tolerance = TOLERANCE[dtype] * max(1, case.scale)
    try:
        weights = [rng.standard_normal(tuple(y.shape)) for y in results(case.ours, case.arrays, dtype, "cpu")[0]]
        want = results(case.ours, case.arrays, dtype, "cpu", weights)
    except (TypeError, ValueError) as error:
        return "skipped", f"{label}: the CPU refuses: {error}"
    what = label
    try:
        with operands_on(device):
            got = results(case.ours, case.arrays, dtype, device, weights)
            fc.cuda.synchronize()
            if text := differences(got[0], want[0], tolerance, f"{label}: value"):
                return "wrong", text
            if text := differences(got[1], want[1], tolerance * 4, f"{label}: gradient"):
                return "wrong", text
            if compiled and case.compiled:
                what = f"{label}: plan"
                planned = plan_values(case, dtype, device)
                if text := differences(planned, got[0], max(tolerance / 4, 1e-12), f"{what}'s value"):
                    return "wrong", text
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cases are still to be compared
        return refusal(error, what)
    return "ok", ""


def plan_values(case, dtype, device):
    """What a plan of the case gives, on the device."""
    plan = fc.compile(case.ours)
    operands = [fc.tensor(np.asarray(a)) for a in case.arrays]
    operands = [t.to(getattr(fc, dtype)) if "float" in str(t.dtype) else t for t in operands]
    with fc.no_grad():
        values = listed(plan(*(t.to(device) for t in operands)))
    fc.cuda.synchronize()
    return values
