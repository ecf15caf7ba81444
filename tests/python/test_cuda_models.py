"""Whole models on a device against the CPU: outputs, gradients and training steps of each family, classifiers,
segmenters and detectors, in float32 and with autocast. The executor (FASTCNN_CUDA=HOST) takes the small ones. What it
is not: single ops (test_cuda.py), what plans fuse (test_cuda_training.py)."""

import fastcnn as fc
import numpy as np
import pytest
from fastcnn import models

device = pytest.mark.skipif(not fc.cuda.is_available(), reason=f"no CUDA device: {fc.cuda.unavailable_reason()}")
on_executor = "host executor" in fc._core.cuda_build()
SMALL = {"capsnet": 28, "lenet5": 28, "mobilenet_v1": 33, "shufflenet_v2_x1_0": 33, "squeezenet1_1": 33}
LARGE = {
    "alexnet": 63, "cbam_resnet50": 64, "convnext_tiny": 64, "densenet121": 64, "eca_resnet50": 64,
    "efficientnet_b0": 64, "mobilenet_v3_small": 64, "preact_resnet20": 32, "resnext50_32x4d": 64, "se_resnet50": 64,
    "vgg11_bn": 32, "wrn_28_10": 16,
}  # fmt: skip
DETECTORS = {"retinanet_small": 64, "ssd300_vgg16": 300, "ssdlite320_mobilenet_v3": 320}
HALF = {"bfloat16": fc.bfloat16, "float16": fc.float16}


def sized(names, small):
    """Parameters of pytest: those that are not `small` are left out on the executor."""
    skip = pytest.mark.skipif(on_executor, reason="too many products for the executor")
    return [pytest.param(n, marks=() if n in small else skip) for n in names]


def on_both(build, loss, given, dtype=None, training=False):
    """[(losses, norm of gradients) on the CPU, the same on the device]: of the net as it is made, or, in training, of
    two compiled steps of SGD."""
    found = []
    for where in ("cpu", "cuda"):
        fc.manual_seed(0)
        net = build().train(training).to(where)
        fc.manual_seed(1)  # a device has a generator of its own, which begins here
        tensors = [fc.tensor(a).to(where) for a in given]
        optimizer = fc.optim.SGD(net.parameters(), lr=1e-3)

        def value(net=net, tensors=tensors):
            with fc.autocast(dtype, enabled=dtype is not None):
                return loss(net, *tensors)

        @fc.compile
        def step(net=net, tensors=tensors, optimizer=optimizer):
            with fc.autocast(dtype, enabled=dtype is not None):
                total = loss(net, *tensors)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            return total

        if training:
            found.append([step().item() for _ in range(2)])
            continue
        total = value()
        grads = fc.grad([total], list(net.parameters()), allow_unused=True)
        squares = [float((g.to(fc.float32) * g.to(fc.float32)).sum().item()) for g in grads if g is not None]
        found.append([total.item(), sum(squares) ** 0.5])
    assert np.isfinite(found).all(), found
    return found


def classify(net, x, y):
    return fc.ops.cross_entropy(net(x), y)


def given_for(name):
    size = (SMALL | LARGE)[name]
    channels = 1 if name in ("capsnet", "lenet5") else 3
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, size, size)).astype("float32")
    return (lambda: models.create_model(name, 4, channels)), (x, rng.integers(0, 4, 2))


@device
@pytest.mark.parametrize("dtype", [None, *HALF])
@pytest.mark.parametrize("name", sized([*SMALL, *LARGE], SMALL))
def test_classifiers_give_the_cpus_losses_and_gradients(name, dtype):
    build, given = given_for(name)
    want, got = on_both(build, classify, given, dtype and HALF[dtype])
    np.testing.assert_allclose(got, want, rtol=1e-3 if dtype is None else 3e-2)


@device
@pytest.mark.parametrize("name", sized([*SMALL, *LARGE], {"capsnet", "lenet5"}))
def test_classifiers_train_as_on_the_cpu(name):
    # Batch norms of few values carry rounding far: the first loss is near, the second one's neighbourhood will do.
    build, given = given_for(name)
    want, got = on_both(build, classify, given, training=True)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-2)
    np.testing.assert_allclose(got[1], want[1], rtol=0.5)


@device
@pytest.mark.parametrize("name", sized(["unet", "fcn_resnet50", "deeplabv3_resnet50"], {"unet"}))
def test_segmenters_are_as_on_the_cpu(name):
    rng = np.random.default_rng(0)
    given = (rng.standard_normal((2, 3, 32, 32)).astype("float32"), rng.integers(0, 4, (2, 32, 32)))

    def loss(net, x, y):
        out = net(x)
        return fc.ops.cross_entropy(out["out"] if isinstance(out, dict) else out, y)

    options = {"width": 8} if name == "unet" else {}
    for training in (False, True):
        want, got = on_both(lambda: models.create_model(name, 4, 3, **options), loss, given, None, training)
        np.testing.assert_allclose(got, want, rtol=2e-2 if training else 1e-3)


@device
@pytest.mark.parametrize("name", sized(DETECTORS, {"retinanet_small"}))
def test_detectors_are_as_on_the_cpu(name):
    size = DETECTORS[name]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 3, size, size), dtype=np.uint8)
    boxes = np.array([[0.1, 0.2, 0.6, 0.7], [0.3, 0.1, 0.9, 0.5]], "float32") * size
    targets = [{"boxes": boxes, "labels": np.array([1, 2])}, {"boxes": boxes[:1], "labels": np.array([3])}]
    encoded = models.create_model(name, 4).encode(targets, (size, size))

    def loss(net, images, labels, boxes):
        return sum(net.loss(net(images), {"labels": labels, "boxes": boxes}, images.shape[2:]).values())

    for training in (False, True):
        want, got = on_both(lambda: models.create_model(name, 4), loss,
                            (images, encoded["labels"], encoded["boxes"]), None, training)  # fmt: skip
        np.testing.assert_allclose(got, want, rtol=2e-2 if training else 1e-3)


@device
def test_detectors_find_on_the_device_what_they_find_on_the_cpu():
    fc.manual_seed(0)
    net = models.create_model("retinanet_small", 4).eval()
    net.score_thresh = 0.0
    images = [np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8)]
    want = net.predict(images)
    got = net.to("cuda").predict(images)
    for a, b in zip(got, want, strict=True):
        assert len(b["scores"]) > 5
        np.testing.assert_allclose(a["scores"][:5], b["scores"][:5], rtol=1e-3)


@device
@pytest.mark.parametrize("others", [1, 1100], ids=["one for all", "one each"])
def test_products_of_more_than_a_thousand_matrices(others):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype("float32") for shape in ((1100, 3, 5), (others, 5, 4)))
    found = []
    for where in ("cpu", "cuda"):
        x, y = (fc.tensor(v, device=where, requires_grad=True) for v in (a, b))
        z = fc.ops.matmul(x, y)
        found.append([t.detach().cpu().numpy() for t in (z, *fc.grad([z.sum()], [x, y]))])
    for got, want in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


@device
@pytest.mark.parametrize("channels", [16, 32])
def test_convolutions_of_more_strips_than_a_block_has_stages(channels):
    # Barriers of a stage go through many phases; on a GPU operands of 100 MB and more also arrive out of order.
    n, size = (8, 9) if on_executor else (2048, 32)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((n, channels, size, size), dtype="float32") for _ in range(2))
    w = rng.standard_normal((channels, channels, 3, 3), dtype="float32") * 0.1
    found = {}
    for where in ("cpu", "cuda"):
        tx, tw, tdy = (fc.tensor(a).contiguous().to(fc.bfloat16).to(where) for a in (x, w, dy))
        if where == "cpu":
            tx, tw, tdy = (t.to(fc.float32) for t in (tx, tw, tdy))
        tx.requires_grad_(), tw.requires_grad_()
        y = fc.ops.conv2d(tx, tw, None, 1, 1)
        for _ in range(1 if where == "cpu" or on_executor else 5):
            grads = fc.grad([y], [tx, tw], [tdy], retain_graph=True)
        found[where] = [t.detach().cpu().to(fc.float32).numpy() for t in (y, *grads)]
    for a, b in zip(found["cuda"], found["cpu"], strict=True):
        assert np.linalg.norm(a - b) < 5e-3 * np.linalg.norm(b)
