"""Normalisation: PyTorch and finite differences, training, running statistics, inference, second order."""

import fastcnn
import numpy as np
import pytest
from nn_check import (
    array,
    assert_close,
    check_against_torch,
    check_finite_differences,
    core,
    each_backend,
    each_isa,
    ops,
    randn,
    tensor,
    torch,
    use_isa,
)

F = torch.nn.functional

CHANNELS = [(6, 5), (4, 3, 7), (3, 4, 5, 6), (2, 33, 3, 3), (2, 3, 2, 3, 4), (1, 2, 1, 3)]
# Statistics of few values amplify rounding: float32 gets a wider bound.
WIDE = {"float32": 3e-4, "bfloat16": 6e-2}


def affine(c):
    return [1 + 0.3 * randn((c,), 5), 0.5 * randn((c,), 6)]


@each_backend
@pytest.mark.parametrize("shape", CHANNELS)
def test_batch_norm_training(shape, dtype, isa):
    c = shape[1]
    for weight, bias in (affine(c), (None, None)):
        extra = [] if weight is None else [weight, bias]
        check_against_torch(
            lambda x, *wb: ops.batch_norm(x, None, None, *wb, training=True),
            lambda x, *wb: F.batch_norm(x, None, None, *wb, training=True),
            [2 * randn(shape) + 1, *extra],
            dtype,
            isa,
            tolerance=WIDE.get(dtype),
        )


@each_backend
@pytest.mark.parametrize("shape", CHANNELS)
def test_batch_norm_inference(shape, dtype, isa):
    c = shape[1]
    mean, var = randn((c,), 8), np.abs(randn((c,), 9)) + 0.5
    rounded = [array(tensor(v, "float32" if dtype == "bfloat16" else dtype)) for v in (mean, var)]
    state = [tensor(v, "float32" if dtype == "bfloat16" else dtype) for v in (mean, var)]
    tstate = [torch.tensor(v) for v in rounded]
    check_against_torch(
        lambda x, *wb: ops.batch_norm(x, *state, *wb),
        lambda x, *wb: F.batch_norm(x, *tstate, *wb),
        [randn(shape), *affine(c)],
        dtype,
        isa,
    )
    check_against_torch(
        lambda x, w, b: ops.batch_norm(x, *state, w, b),
        lambda x, w, b: F.batch_norm(x, *tstate, w, b),
        [randn(shape), *affine(c)],
        dtype,
        isa,
        needs_grad=[True, False, True],
    )


@each_isa
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 5)])
def test_running_statistics(shape, momentum, isa):
    with use_isa(isa):
        ref = (
            torch.nn.BatchNorm2d(3, momentum=momentum)
            if len(shape) == 4
            else torch.nn.BatchNorm1d(3, momentum=momentum)
        )
        mean, var = tensor(np.zeros(3), "float32"), tensor(np.ones(3), "float32")
        for step in range(3):
            x = (randn(shape, step) * (step + 1) + step).astype(np.float32)
            ref(torch.tensor(x))
            tracked = core.tensor(np.int64(step + 1))
            ops.batch_norm(
                tensor(x, "float32"), mean, var, training=True, momentum=momentum, num_batches_tracked=tracked
            )
            assert_close(array(mean), ref.running_mean.numpy(), 1e-5, "running_mean")
            assert_close(array(var), ref.running_var.numpy(), 1e-5, "running_var")
        # Inference leaves them alone.
        kept = array(mean)
        ops.batch_norm(tensor(x, "float32"), mean, var)
        np.testing.assert_array_equal(array(mean), kept)


@pytest.mark.parametrize("kind", ["BatchNorm2d", "SyncBatchNorm"])
@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_that_are_not_tracked_for_a_while_stay(kind, compiled):
    ours = getattr(fastcnn.nn, kind)(3)
    theirs = torch.nn.BatchNorm2d(3)
    call = fastcnn.compile(lambda x: ours(x)) if compiled else ours
    rng = np.random.default_rng(4)
    for t in range(6):
        ours.track_running_stats = theirs.track_running_stats = t not in (2, 3)
        for m in (ours, theirs):
            m.train(t != 3)
        x = rng.standard_normal((4, 3, 5, 5)).astype(np.float32)
        y = call(fastcnn.tensor(x))
        np.testing.assert_allclose(y.detach().numpy(), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
        for name, buffer in theirs.named_buffers():
            np.testing.assert_allclose(getattr(ours, name).numpy(), buffer.numpy(), rtol=1e-5, err_msg=f"{name} {t}")


def test_running_statistics_stay_where_training_fails():
    mean, var = tensor(np.zeros(3), "float32"), tensor(np.ones(3), "float32")
    with pytest.raises(
        ValueError,
        match=r"more than 1 value per channel when training, got x of shape \(1, 3, 1, 1\)",
    ):
        ops.batch_norm(tensor(np.ones((1, 3, 1, 1)), "float32"), mean, var, training=True)
    assert not array(mean).any()


def test_empty_batch_in_training_keeps_the_statistics():
    mean, var = tensor(np.zeros(3), "float32"), tensor(np.ones(3), "float32")
    x = tensor(np.zeros((0, 3, 4, 4)), "float32", True)
    y = ops.batch_norm(x, mean, var, training=True)
    assert y.shape == (0, 3, 4, 4) and not array(mean).any() and (array(var) == 1).all()
    assert core.grad([y], [x], [y.detach()])[0].shape == x.shape


def test_large_mean_does_not_cancel():
    """The variance of values near 1e4 must not come out of a difference of squares."""
    x = (1e4 + randn((8, 2, 16, 16))).astype(np.float32)
    want = F.batch_norm(torch.tensor(x).double(), None, None, training=True).numpy()
    for isa in core.available_isas():
        with use_isa(isa):
            assert_close(
                array(ops.batch_norm(tensor(x, "float32"), None, None, training=True)), want, 2e-3, isa
            )


LAYER = [
    ((4, 6), (6,)),
    ((2, 3, 5), (3, 5)),
    ((2, 3, 5), (5,)),
    ((2, 3, 4, 5), (3, 4, 5)),
    ((2, 3, 4, 5), (5,)),
    ((2, 3, 4, 5), (4, 5)),
    ((3, 97), (97,)),
    ((2, 2, 2, 3, 4), (3, 4)),
    ((7,), (7,)),
]


@each_backend
@pytest.mark.parametrize("shape, normalized", LAYER)
def test_layer_norm(shape, normalized, dtype, isa):
    weight, bias = 1 + 0.3 * randn(normalized, 5), 0.5 * randn(normalized, 6)
    for extra in ([weight, bias], [weight], []):
        check_against_torch(
            lambda x, *wb: ops.layer_norm(x, normalized, *wb),
            lambda x, *wb: F.layer_norm(x, normalized, *wb),
            [2 * randn(shape) + 1, *extra],
            dtype,
            isa,
            tolerance=WIDE.get(dtype),
        )


def test_layer_norm_over_channels_of_an_image():
    """As ConvNeXt does: permute to (N, H, W, C), normalise C, permute back."""

    def ours(x, w, b):
        return ops.layer_norm(x.permute([0, 2, 3, 1]), w.shape, w, b).permute([0, 3, 1, 2])

    def theirs(x, w, b):
        return F.layer_norm(x.permute(0, 2, 3, 1), w.shape, w, b).permute(0, 3, 1, 2)

    check_against_torch(ours, theirs, [randn((2, 6, 3, 4)), *affine(6)])


GROUPS = [
    ((3, 6), 2),
    ((2, 6, 5), 3),
    ((2, 6, 3, 4), 3),
    ((2, 32, 4, 4), 8),
    ((2, 4, 2, 3, 2), 2),
    ((1, 6, 4, 4), 1),
    ((2, 5, 3, 3), 5),
]


@each_backend
@pytest.mark.parametrize("shape, groups", GROUPS)
def test_group_norm(shape, groups, dtype, isa):
    for extra in (affine(shape[1]), []):
        check_against_torch(
            lambda x, *wb: ops.group_norm(x, groups, *wb),
            lambda x, *wb: F.group_norm(x, groups, *wb),
            [2 * randn(shape) + 1, *extra],
            dtype,
            isa,
            tolerance=WIDE.get(dtype),
        )


@each_backend
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 5, 4, 6), (2, 17, 3, 3), (2, 3, 2, 3, 2)])
def test_instance_norm(shape, dtype, isa):
    for extra in (affine(shape[1]), []):
        check_against_torch(
            lambda x, *wb: ops.instance_norm(x, *wb),
            lambda x, *wb: F.instance_norm(x, None, None, *wb),
            [2 * randn(shape) + 1, *extra],
            dtype,
            isa,
            tolerance=WIDE.get(dtype),
        )


@each_backend
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (2, 6, 5), (1, 3, 2, 2, 2)])
def test_local_response_norm(shape, size, dtype, isa):
    o = {"alpha": 0.3, "beta": 0.75, "k": 2.0}
    check_against_torch(
        lambda x: ops.local_response_norm(x, size, **o),
        lambda x: F.local_response_norm(x, size, **o),
        [randn(shape)],
        dtype,
        isa,
    )


def test_finite_differences():
    for call, arrays in [
        (
            lambda x, w, b: ops.batch_norm(x, None, None, w, b, training=True),
            [randn((3, 4, 3, 3)), *affine(4)],
        ),
        (lambda x, w, b: ops.layer_norm(x, (6,), w, b), [randn((4, 6)), *affine(6)]),
        (lambda x, w, b: ops.group_norm(x, 2, w, b), [randn((2, 4, 3, 3)), *affine(4)]),
        (lambda x, w, b: ops.instance_norm(x, w, b), [randn((2, 4, 3, 3)), *affine(4)]),
        (lambda x: ops.local_response_norm(x, 3), [randn((2, 4, 3, 3))]),
    ]:
        check_finite_differences(call, arrays)


def test_second_gradient_through_the_history_of_dy():
    """dy depends on x too (as in a gradient penalty): the path through dy must not be counted twice."""
    x = randn((4, 3, 3, 3))

    def ours():
        t = tensor(x, requires_grad=True)
        y = ops.batch_norm(t, None, None, training=True)
        (g,) = core.grad([y * y * t], [t], [tensor(np.ones(x.shape))], create_graph=True)
        (h,) = core.grad([g * g], [t], [tensor(np.ones(x.shape))], create_graph=True)
        return array(h), array(core.grad([h * h], [t], [tensor(np.ones(x.shape))])[0])

    def theirs():
        t = torch.tensor(x, requires_grad=True)
        # By formula: torch 2.13's own third derivative takes the saved statistics for constants.
        centred = t - t.mean((0, 2, 3), keepdim=True)
        y = centred / torch.sqrt((centred**2).mean((0, 2, 3), keepdim=True) + 1e-5)
        (g,) = torch.autograd.grad((y * y * t).sum(), t, create_graph=True)
        (h,) = torch.autograd.grad((g * g).sum(), t, create_graph=True)
        return h.detach().numpy(), torch.autograd.grad((h * h).sum(), t)[0].numpy()

    for got, want, what in zip(ours(), theirs(), ("second", "third")):
        assert_close(got, want, 1e-9, what)


def T(*shape, dtype="float32"):
    return tensor(np.ones(shape), dtype)


BAD = [
    (
        lambda: ops.batch_norm(T(3), training=True),
        ValueError,
        r"batch_norm: expected x of shape \(N, C, ...\), got \(3,\)",
    ),
    (lambda: ops.batch_norm(T(2, 3)), ValueError, r"expected running_mean and running_var when not training"),
    (lambda: ops.batch_norm(T(2, 3), T(3)), ValueError, r"both running_mean and running_var, or neither"),
    (
        lambda: ops.batch_norm(T(2, 3), T(4), T(4)),
        ValueError,
        r"running_mean of shape \(3,\) for x of shape \(2, 3\), got \(4,\)",
    ),
    (
        lambda: ops.batch_norm(T(2, 3), weight=T(2), training=True),
        ValueError,
        r"expected weight of shape \(3,\)",
    ),
    (lambda: ops.batch_norm(T(2, 3, dtype="int32"), training=True), TypeError, r"floating dtype, got int32"),
    (lambda: ops.batch_norm(T(2, 3), training=True, eps=-1.0), ValueError, r"expected eps >= 0"),
    (
        lambda: ops.batch_norm(T(2, 3), training=True, momentum=-0.1),
        ValueError,
        r"momentum in \[0, 1\] or None",
    ),
    (
        lambda: ops.batch_norm(T(2, 3), T(3), T(3), training=True, momentum=None),
        ValueError,
        r"num_batches_tracked with momentum=None",
    ),
    (
        lambda: ops.batch_norm(T(2, 3), T(3), T(3), training=True, num_batches_tracked=T(1)),
        TypeError,
        r"num_batches_tracked as one int64",
    ),
    (
        lambda: ops.layer_norm(T(2, 3), (4,)),
        ValueError,
        r"layer_norm: expected x whose last dimensions are normalized_shape \(4,\), got x of shape \(2, 3\)",
    ),
    (lambda: ops.layer_norm(T(2, 3), ()), ValueError, r"layer_norm: expected x whose last"),
    (lambda: ops.layer_norm(T(3), (2, 3)), ValueError, r"layer_norm: expected x whose last"),
    (lambda: ops.layer_norm(T(2, 3), (3,), T(2)), ValueError, r"layer_norm: expected weight of shape \(3,\)"),
    (
        lambda: ops.group_norm(T(2, 6, 3, 3), 4),
        ValueError,
        r"group_norm: expected groups to divide the 6 channels of x \(2, 6, 3, 3\), got 4",
    ),
    (lambda: ops.group_norm(T(2, 6), 0), ValueError, r"group_norm: expected groups to divide"),
    (lambda: ops.group_norm(T(2, 6), 2, T(3)), ValueError, r"group_norm: expected weight of shape \(6,\)"),
    (lambda: ops.instance_norm(T(2, 3)), ValueError, r"instance_norm: expected x of shape"),
    (
        lambda: ops.instance_norm(T(2, 3, 1, 1)),
        ValueError,
        r"instance_norm: expected more than 1 pixel per channel",
    ),
    (lambda: ops.local_response_norm(T(2, 3), 3), ValueError, r"local_response_norm: expected x of shape"),
    (lambda: ops.local_response_norm(T(2, 3, 4), 0), ValueError, r"expected size >= 1, got 0"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=range(len(BAD)))
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
