"""device="cuda": what bad input gets without a device; with one (a GPU, or a build with FASTCNN_CUDA=HOST, whose
kernels run on this processor) tensors and ops against the CPU. What it is not: training and plans
(test_cuda_training.py)."""

import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import fastcnn as fc
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import check_cuda_compile as compile_check

no_device = pytest.mark.skipif(fc.cuda.is_available(), reason="a CUDA device is here")
device = pytest.mark.skipif(not fc.cuda.is_available(), reason=f"no CUDA device: {fc.cuda.unavailable_reason()}")


@no_device
def test_without_a_device_every_way_to_one_says_why():
    why = fc.cuda.unavailable_reason()
    assert why and fc.cuda.device_count() == 0 and fc.cuda.memory_allocated() == 0
    for ask in (lambda: fc.zeros(2, device="cuda"), lambda: fc.zeros(2).to("cuda"), lambda: fc.zeros(2).cuda()):
        with pytest.raises(ValueError, match="no CUDA device can be used here") as e:
            ask()
        assert why in str(e.value)
    with pytest.raises(ValueError, match="cuda.synchronize: no CUDA device"):
        fc.cuda.synchronize()
    with pytest.raises(ValueError, match="expected 'cpu', 'cuda' or 'cuda:N'"):
        fc.zeros(2, device="cuda:x")


@device
def test_tensors_go_there_and_back_in_every_dtype_and_layout():
    for dtype in ("float32", "float16", "float64", "int64", "int32", "uint8", "int8", "bool"):
        a = (np.arange(2 * 3 * 4 * 5) % 2).reshape(2, 3, 4, 5).astype(dtype)
        x = fc.tensor(a, device="cuda")
        assert str(x.device) == "cuda:0"
        assert np.array_equal(x.cpu().numpy(), a)
        assert np.array_equal(x.permute(3, 1, 0, 2).cpu().numpy(), a.transpose(3, 1, 0, 2))
    assert fc.full((1,), 2.5, device="cuda").item() == 2.5
    assert "device=cuda:0" in repr(fc.zeros(3, device="cuda"))
    with pytest.raises(ValueError, match="copy the tensor to the CPU first"):
        fc.zeros(2, device="cuda").numpy()
    with pytest.raises(ValueError, match="expected all tensors on one device, got cpu and cuda:0"):
        fc.zeros(2) + fc.zeros(2, device="cuda")


@device
def test_gradients_pass_through_a_move():
    x = fc.tensor([1.0, 2.0], requires_grad=True)
    (x.cuda() * 3).sum().backward()
    assert np.array_equal(x.grad.numpy(), [3, 3])


@device
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.flip([0]), lambda x: x.flip([1, 2]), lambda x: x.permute(2, 0, 1).flip([0, 1]),
        lambda x: x[::-2, 3:0:-1, ::3], lambda x: x[2:3].expand(4, 5, 6).flip([0, 2]), lambda x: x[::-1, 4:4, :],
    ],
)  # fmt: skip
def test_gradients_of_views_that_go_backwards(view):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 6)).astype("float32")
    dy = rng.standard_normal(tuple(view(fc.tensor(x)).shape)).astype("float32")

    def gradient(where):
        leaf = fc.tensor(x, device=where, requires_grad=True)
        backwards = fc.tensor(np.flip(dy).copy(), device=where).flip(list(range(dy.ndim)))
        return fc.grad([view(leaf)], [leaf], [backwards])[0].cpu().numpy()

    np.testing.assert_allclose(gradient("cuda"), gradient("cpu"), rtol=1e-5, atol=1e-6)


@device
def test_what_kernels_find_is_raised_at_the_next_wait():
    x, ids = fc.zeros((2, 3), device="cuda"), fc.tensor([0, 5], device="cuda")
    loss = fc.ops.cross_entropy(x, ids)
    with pytest.raises(IndexError, match="expected class ids in .0, 3. or ignore_index, got 5 at position 1"):
        loss.item()
    fc.cuda.synchronize()


def boxes(n, seed):
    a = np.random.default_rng(seed).uniform(0, 20, (n, 4)).astype("float32")
    return np.concatenate([np.minimum(a[:, :2], a[:, 2:]), np.maximum(a[:, :2], a[:, 2:])], 1)


@device
def test_sampling_boxes_and_assignment_give_what_the_cpu_gives():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 9, 8)).astype("float32")
    grid = rng.uniform(-1.2, 1.2, (2, 5, 6, 2)).astype("float32")
    matrix = np.array([[[0.9, 0.2, 1.0], [-0.1, 1.1, -0.5], [0, 0, 1]]] * 2, "float32")
    a, b, scores = boxes(20, 1), boxes(7, 2), rng.standard_normal(20).astype("float32")
    rois = np.concatenate([np.arange(7)[:, None] % 2, b], 1).astype("float32")
    rows, values = np.array([3, 0, 3, 1]), rng.standard_normal((4, 3, 9, 8)).astype("float32")

    def results(where):
        put = lambda t: fc.tensor(t, device=where)  # noqa: E731
        image = fc.tensor(x, device=where, requires_grad=True)
        features = fc.ops.roi_align(image, put(rois), (3, 2), spatial_scale=0.4)
        points = fc.tensor(grid, device=where, requires_grad=True)
        modes = ("bilinear", "zeros"), ("bicubic", "reflection"), ("nearest", "border")
        sampled = fc.cat([fc.ops.grid_sample(image, points, *mode) for mode in modes], 1)
        made = fc.grad([(sampled * sampled).sum()], [image, points], create_graph=True)
        second = fc.grad([sum((g * g).sum() for g in made)], [image, points], retain_graph=True)
        ((features * features).sum() + (sampled * sampled).sum()).backward()
        assigned = put(np.zeros((5, 3, 9, 8), "float32"))
        assigned[rows] = put(values)
        assigned[put(np.array([4])), 1] = 2.5
        assigned[:, [0, 2], 3] = -1.0
        masked = put(x)
        masked[put(x > 0.5)] = 0.0
        return [
            fc.ops.affine_sample(put(x), put(matrix), mode="bicubic"), fc.ops.box_iou(put(a), put(b)),
            fc.ops.nms(put(a), put(scores), 0.3), fc.ops.nms(put(a), put(scores), 0.3, max_output=4),
            features.detach(), sampled.detach(), image.grad, points.grad, *second,
            assigned, masked, masked[put(x) > 0.2],
        ]  # fmt: skip

    for got, want in zip(results("cuda"), results("cpu"), strict=True):
        want = want.numpy()
        np.testing.assert_allclose(got.cpu().numpy(), want, rtol=1e-4, atol=max(1e-5, 1e-6 * float(np.abs(want).max())))


@device
def test_dlpack_shares_device_memory_both_ways_and_copies_only_when_asked():
    x = fc.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda")
    assert x.__dlpack_device__() == (2, 0)
    y = fc.from_dlpack(x)
    assert str(y.device) == "cuda:0"
    y.mul_(10.0)
    assert x.cpu().tolist() == [[10.0, 20.0], [30.0, 40.0]]
    copy = fc.from_dlpack(x, copy=True)
    copy.zero_()
    assert x.cpu()[0, 0].item() == 10.0
    host = fc.from_dlpack(x, device="cpu")
    assert str(host.device) == "cpu" and host.tolist() == x.cpu().tolist()
    with pytest.raises(BufferError, match="copy=False forbids it"):
        fc.from_dlpack(x, device="cpu", copy=False)
    assert np.from_dlpack(x.cpu()).tolist() == x.cpu().tolist()
    for stream in (None, -1, 1, 2, fc._core.cuda_stream()):
        assert x.__dlpack__(stream=stream)
    with pytest.raises(BufferError, match="expected stream None, -1, 1, 2 or a handle, got 0"):
        x.__dlpack__(stream=0)


# Channels that fill the copy engine's boxes: input (N,C,H,W), channels out, kernel, stride, padding, dilation.
BOXES = (
    ((2, 64, 7, 9), 72, 3, 1, 1, 1), ((1, 128, 4, 4), 64, 4, 1, 0, 1), ((2, 64, 1, 1), 64, 3, 1, 1, 1),
    ((3, 96, 8, 6), 64, 1, 1, 0, 1), ((3, 64, 8, 6), 136, 1, 2, 0, 1), ((2, 64, 12, 10), 64, 4, 2, 1, 1),
    ((2, 64, 9, 9), 64, 3, 1, 2, 2), ((1, 192, 5, 5), 48, 5, 1, 2, 1), ((2, 64, 11, 11), 64, 3, 2, 1, 1),
    ((1, 64, 14, 13), 264, 1, 1, 0, 1),
)  # fmt: skip
# Rows as strips, squares of pixels as channels, few channels.
STRIPS = (((3, 64, 8, 8), 64, 3, 1, 1, 1), ((2, 64, 9, 21), 64, 3, 1, 0, 1), ((1, 64, 9, 56), 64, 3, 1, 1, 1))
SQUARES = (((2, 3, 30, 31), 64, 7, 2, 3, 1), ((2, 3, 16, 15), 32, 3, 2, 1, 1), ((2, 1, 12, 12), 16, 4, 4, 0, 1))
NONE = (((0, 64, 8, 8), 64, 3, 1, 1, 1), ((0, 16, 8, 8), 16, 3, 1, 1, 1), ((0, 3, 9, 9), 64, 7, 2, 3, 1))  # no images
FEW = (((3, 16, 32, 32), 16, 3, 1, 1, 1), ((3, 32, 16, 16), 32, 3, 1, 1, 1), ((2, 16, 9, 11), 32, 3, 2, 1, 1),
       ((2, 16, 7, 5), 32, 1, 2, 0, 1), ((1, 32, 6, 40), 16, 3, 1, 1, 1), ((2, 16, 11, 6), 64, 4, 1, 0, 1))  # fmt: skip


@device
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", BOXES + STRIPS + SQUARES + FEW + NONE, ids=str)
def test_convolutions_in_every_form_give_what_the_cpu_gives(case, dtype):
    shape, out, kernel, stride, padding, dilation = case
    rng = np.random.default_rng(0)
    half = getattr(fc, dtype)
    x = fc.tensor(rng.standard_normal(shape).astype("float32")).to(half)
    fan_in = shape[1] * kernel * kernel
    w = fc.tensor(rng.standard_normal((out, shape[1], kernel, kernel)).astype("float32") / fan_in**0.5).to(half)
    b = fc.tensor(rng.standard_normal(out).astype("float32")).to(half)

    def results(where, act):
        leaves = [t.to(where).detach().requires_grad_() for t in (x, w, b)]
        y = fc.ops.conv2d(*leaves, stride, padding, dilation, 1)
        y = fc.ops.relu(y) if act else y
        return [t.detach().cpu().to(fc.float32).numpy() for t in (y, *fc.grad([y], leaves, [y.detach()]))]

    for act in (False, True):
        for got, want in zip(results("cuda", act), results("cpu", act), strict=True):
            assert np.linalg.norm(got - want) <= 6e-3 * np.linalg.norm(want)


@device
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_op_families_give_what_the_cpu_gives(dtype):
    pytest.importorskip("torch")  # the cases name PyTorch's calls too
    import cuda_ops

    verdicts = [(family, *cuda_ops.compare(family, 0, dtype, compiled=True)) for family in cuda_ops.FAMILIES]
    assert not [text for _, verdict, text in verdicts if verdict == "wrong"]
    assert sum(verdict == "ok" for _, verdict, _ in verdicts) > 0.75 * len(verdicts), verdicts


@device
def test_whatever_a_case_raises_is_a_verdict(monkeypatch):
    pytest.importorskip("torch")
    import cuda_ops
    from fuzz_base import Case

    def verdict(call):
        case = Case(call, None, [np.ones(3)], "", compiled=True)
        monkeypatch.setitem(cuda_ops.FAMILIES, "one", lambda rng: case)
        return cuda_ops.compare("one", 0, "float32", compiled=True)

    def fails(x):
        if str(x.device) != "cpu":
            raise RuntimeError("no such thing")
        return x * 2

    on_cpu, array = fc.ones(3), np.array([2, 0])
    assert verdict(lambda x: x * on_cpu)[0] == "skipped"
    assert verdict(lambda x: x * on_cpu.to(x.device)) == ("skipped", mock.ANY)  # the plan cannot record the copy
    assert verdict(lambda x: x[fc._core.tensor(array)]) == ("ok", "")
    assert verdict(fails) == ("wrong", "one seed=0 float32 : RuntimeError: no such thing")


@device
def test_a_plan_is_recorded_once_and_reads_new_inputs_and_fresh_outputs():
    f = fc.compile(lambda x: (x * 2 + 1, fc.ops.relu(x)))
    a, b = fc.tensor([1.0, -2.0], device="cuda"), fc.tensor([5.0, 6.0], device="cuda")
    first, second = f(a), f(b)
    assert np.array_equal(first[0].cpu().numpy(), [3, -3]) and np.array_equal(second[0].cpu().numpy(), [11, 13])
    assert np.array_equal(first[1].cpu().numpy(), [1, 0])
    assert "as one launch" in f.describe()


@device
def test_dropout_draws_the_cpu_s_numbers():
    x = np.ones((64, 64), "float32")
    drawn = []
    for where in ("cpu", "cuda"):
        fc.manual_seed(11)
        drawn.append(fc.ops.dropout(fc.tensor(x, device=where), 0.3, training=True).cpu().numpy())
    assert np.array_equal(*drawn)


@device
def test_memory_is_given_back():
    before = fc.cuda.memory_allocated()
    x = fc.zeros(1 << 20, device="cuda")
    assert fc.cuda.memory_allocated() - before == 4 << 20
    del x
    assert fc.cuda.memory_allocated() == before


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_a_kernel_source_compiles_for_every_architecture_without_spills(tmp_path):
    rows = compile_check.kernels(
        compile_check.compile_one("nvcc", compile_check.FOLDER / "optim.cu", tmp_path / "optim.o")
    )
    assert {r["arch"] for r in rows} == {"sm_80", "sm_90a"}
    assert len(rows) >= 2 * 12 and all(0 < r["registers"] <= 255 for r in rows)
    assert not compile_check.spilled(rows)


def test_the_compile_check_sees_a_spill():
    log = (
        "ptxas info    : Compiling entry function '_Z1kv' for 'sm_80'\n"
        "    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers\n"
    )
    (row,) = compile_check.spilled(compile_check.kernels(log))
    assert row["stores"] == 12 and row["registers"] == 255


def test_cuda_on_without_nvcc_is_a_clear_message(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not on PATH")
    done = subprocess.run(
        ["cmake", "-S", str(compile_check.ROOT), "-B", str(tmp_path), "-DFASTCNN_CUDA=ON", "-DCMAKE_CUDA_COMPILER=OFF"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode and "FASTCNN_CUDA=ON, but no CUDA compiler was found" in done.stderr
