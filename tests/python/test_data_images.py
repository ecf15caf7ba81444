"""Files of every kind into pixels: modes, EXIF, damage, caches; ImageFolder without one size; arrays from files."""

import io
import logging

import numpy as np
import pytest
from fastcnn import tensor
from fastcnn.augment import RandomResizedCrop, Resize
from fastcnn.data import (
    ArrayDataset,
    ConcatDataset,
    DamagedImage,
    DataLoader,
    ImageFolder,
    SampleError,
    Subset,
    load,
    random_split,
)
from fastcnn.data.images import ImageReader
from fastcnn.safetensors import save_file

Image = pytest.importorskip("PIL.Image")


def picture(h=24, w=36, seed=0):
    """A smooth picture that is not symmetric in any way."""
    y, x = np.mgrid[:h, :w]
    return np.stack([x * 255 // w, y * 255 // h, (x + 2 * y) * 255 // (w + 2 * h)], -1).astype(np.uint8)


# ---------------------------------------------------------------- modes


def save_as(mode, path):
    rgb = Image.fromarray(picture())
    if mode == "I;16":
        Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(path)
    elif mode == "P+alpha":
        rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=200).save(path, transparency=bytes(range(200)))
    elif mode in ("RGBA", "LA"):
        image = rgb.convert(mode)
        image.putalpha(Image.fromarray(picture()[..., 0]))
        image.save(path)
    else:
        rgb.convert(mode).save(path)


@pytest.mark.parametrize(
    "mode, suffix, tolerance",
    [("RGB", "png", 0), ("L", "png", 0), ("1", "png", 256), ("P", "png", 60), ("P+alpha", "png", 30),
     ("RGBA", "png", 0), ("LA", "png", 0), ("I;16", "png", 0), ("I;16", "tif", 0), ("CMYK", "jpg", 12),
     ("CMYK", "tif", 2), ("L", "jpg", 12), ("YCbCr", "jpg", 12), ("RGB", "gif", 30), ("RGB", "webp", 30),
     ("RGB", "bmp", 0)],
)  # fmt: skip
def test_every_mode_becomes_eight_bits_of_rgb_or_grey(tmp_path, mode, suffix, tolerance):
    path = tmp_path / f"a.{suffix}"
    save_as(mode, path)
    grey = mode in ("L", "LA", "I;16")
    expected = Image.fromarray(picture()).convert("L" if grey else "RGB")
    for wanted in ("RGB", "L"):
        pixels = ImageReader("x", wanted)(path)
        assert pixels.dtype == np.uint8 and pixels.shape == (24, 36, 3 if wanted == "RGB" else 1)
        truth = np.asarray(expected.convert(wanted)).reshape(pixels.shape).astype(int)
        assert np.abs(pixels - truth).max() <= tolerance, (mode, wanted)
        assert np.abs(pixels - truth).mean() <= tolerance / 2


def test_pixels_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(DamagedImage, match="a.tif.*32-bit floats"):
        ImageReader("x")(tmp_path / "a.tif")
    with pytest.raises(DamagedImage, match="70000"):
        ImageReader("x")(tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(tmp_path, orientation, suffix):
    """The file is stored as a camera would hold it; Pillow's own exif_transpose is the witness."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored = picture(64, 96)
    Image.fromarray(stored).save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(ImageReader("x")(path), expected)
    assert ImageReader("x").file_size(path) == expected.shape[:2]
    assert ImageReader("x", "ids").file_size(path) == stored.shape[:2]
    lies = ImageReader("x")(path, upright=False)
    assert lies.shape == stored.shape and np.abs(lies.astype(int) - stored).mean() < (6 if suffix == "jpg" else 1e-9)
    small = ImageReader("x", image_size=(12, 16))(path)
    whole = np.asarray(Image.fromarray(expected).resize((16, 12), box=cover_box(expected.shape, 12, 16)))
    assert small.shape == (12, 16, 3) and np.abs(small.astype(int) - whole).mean() < 6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_grey_tiffs_that_lie_on_their_side_keep_their_rows(tmp_path, orientation, dtype):
    """Uncompressed ones Pillow maps into memory, with sides that its own turning has exchanged already."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.arange(63).reshape(7, 9).astype(np.uint8)
    Image.fromarray((stored.astype(dtype) << 8) if dtype == np.uint16 else stored).save(tmp_path / "a.tif", exif=exif)
    turned = {5: stored.T, 6: np.rot90(stored, -1), 7: np.rot90(stored, 2).T, 8: np.rot90(stored)}[orientation]
    np.testing.assert_array_equal(ImageReader("x", "L")(tmp_path / "a.tif")[..., 0], turned)
    np.testing.assert_array_equal(ImageReader("x", "L")(tmp_path / "a.tif", upright=False)[..., 0], stored)


def cover_box(shape, h, w):
    scale = max(w / shape[1], h / shape[0])
    bw, bh = w / scale, h / scale
    return ((shape[1] - bw) / 2, (shape[0] - bh) / 2, (shape[1] + bw) / 2, (shape[0] + bh) / 2)


def test_tiffs_of_32_bits_hold_8_or_16(tmp_path):
    path, values = tmp_path / "a.tif", np.arange(12, dtype=np.int32).reshape(3, 4) * 20
    for scale in (1, 256):
        Image.fromarray(values * scale).save(path)
        np.testing.assert_array_equal(ImageReader("x", "L")(path)[..., 0], values)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert ImageReader("x")(path).shape == (24, 36, 3)


def test_jpegs_are_shrunk_while_decoded_to_about_the_same(tmp_path):
    data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(data.astronaut())
    photo.save(tmp_path / "a.jpg", quality=95)
    photo.save(tmp_path / "a.png")
    a, b = (ImageReader("x", image_size=(100, 60))(tmp_path / f"a.{s}").astype(int) for s in ("jpg", "png"))
    assert np.abs(a - b).mean() < 3.0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_truncated_files_name_their_path_and_never_give_half_a_picture(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(path)
    whole, good = path.read_bytes(), ImageReader("x")(path)
    for n in (0, 3, 20, len(whole) // 3, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:n])
        try:
            pixels = ImageReader("x")(path)
        except DamagedImage as error:
            assert str(error).startswith(str(path))
        else:  # a format whose directory lies in front may still hold everything
            np.testing.assert_array_equal(pixels, good)


# ---------------------------------------------------------------- ImageFolder


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for k, name in enumerate(("ant", "bee")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for j in range(6):
            h, w = rng.integers(20, 60, 2)
            Image.fromarray(picture(h, w) // (k + 1)).save(tmp_path / "set" / name / f"{j}.png")
    return tmp_path / "set"


def epochs(loader, n=2):
    return [[(np.asarray(x), y) for x, y in loader] for _ in range(n)]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        for (i, j), (k, m) in zip(x, y, strict=True):
            np.testing.assert_array_equal(i, k)
            np.testing.assert_array_equal(j, m)


def test_images_of_many_sizes_are_augmented_one_by_one(folder):
    ds = ImageFolder(folder)
    options = {"batch_size": 4, "shuffle": True, "seed": 3, "transform": RandomResizedCrop(16)}
    expected = epochs(DataLoader(ds, **options))
    assert [x.shape for x, _ in expected[0]] == [(4, 3, 16, 16)] * 3
    assert all(x.transpose(0, 2, 3, 1).flags.c_contiguous for x, _ in expected[0])
    for workers in (1, 2, 4):
        assert_same(expected, epochs(DataLoader(ds, num_workers=workers, **options)))
    # A batch of one, and the same sample in a batch of four.
    order = DataLoader(ds, **options).order(0)
    single = [x for x, _ in DataLoader(ds, **{**options, "batch_size": 1})]
    np.testing.assert_array_equal(np.concatenate(single), np.concatenate([x for x, _ in expected[0]]))
    assert len(order) == 12 and (expected[0][0][0] != expected[1][0][0]).any()


def test_sizes_that_still_differ_say_what_to_do(folder):
    ds = ImageFolder(folder)
    with pytest.raises(SampleError, match="pass image_size= to resize, or a transform"):
        next(iter(DataLoader(ds, 4)))
    assert next(iter(DataLoader(ds, 1)))[0].shape[2:] == ds.image_size
    parts = random_split(ds, [8, 4])
    both = ConcatDataset([*parts, Subset(ImageFolder(folder, image_size=16), [0, 3])])
    batches = list(DataLoader(both, 14, transform=Resize((16, 16))))
    assert batches[0][0].shape == (14, 3, 16, 16)
    np.testing.assert_array_equal(batches[0][1][:8], ds.labels[parts[0].indices])


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_left_out_on_demand(folder, workers, caplog):
    bad = folder / "ant" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    for size, transform in ((16, None), (None, Resize((16, 16)))):
        ds = ImageFolder(folder, image_size=size, on_error="skip")
        with caplog.at_level(logging.WARNING, "fastcnn.data"):
            batches = list(DataLoader(ds, 4, num_workers=workers, transform=transform))
        assert [len(x) for x, _ in batches] == [3, 4, 4] and batches[0][1].tolist() == [0] * 3
        assert str(bad) in caplog.text
        with pytest.raises(DamagedImage, match="ant.2.png"):
            ds[2]
        both = ConcatDataset([Subset(ds, [3, 2, 1]), ds])
        assert sum(len(x) for x, _ in DataLoader(both, 4, transform=transform)) == 2 + 11
        assert [y.tolist() for _, y in DataLoader(ds, 1, transform=transform)] == [[0]] * 5 + [[1]] * 6
    bad.unlink()
    assert sum(len(x) for x, _ in DataLoader(ImageFolder(folder, 16, on_error="skip"), 4)) == 11
    with pytest.raises(ValueError, match="on_error 'raise' or 'skip', got 'ignore'"):
        ImageFolder(folder, on_error="ignore")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_damaged_images_alone_does_not_come(folder, workers):
    ds = ImageFolder(folder, 16, on_error="skip")
    for k in (2, 3, 11):
        ds.samples[k][0].write_bytes(b"no picture")
    loader = DataLoader(ds, 2, num_workers=workers)
    for _ in range(2):  # the second batch is left out, and the last is smaller
        assert [y.tolist() for _, y in loader] == [[0, 0], [0, 0], [1, 1], [1, 1], [1]]
        assert len(loader) == 6 and loader.state_dict()["position"] == 0
    last = DataLoader(Subset(ds, [0, 1, 2, 3]), 2, num_workers=workers)
    assert [len(y) for _, y in last] == [2] and last.state_dict()["epoch"] == 1
    state = iter(last)
    next(state)
    rest = DataLoader(Subset(ds, [0, 1, 2, 3]), 2, num_workers=workers)
    rest.load_state_dict(last.state_dict())
    assert list(rest) == []  # what is left of a resumed epoch may be nothing
    with pytest.raises(SampleError, match="samples 0, 1 failed: .*none of the epoch's samples"):
        list(DataLoader(Subset(ds, [2, 3]), 1, num_workers=workers))
    kept = DataLoader(ds, 2, num_workers=workers, collate_fn=lambda samples: [y for _, y in samples])
    assert [len(y) for y in kept] == [2, 2, 2, 2, 1]


def test_training_goes_on_without_the_batches_that_cannot_be_read(folder):
    import fastcnn as fc

    ds = ImageFolder(folder, 8, on_error="skip")
    ds.samples[11][0].write_bytes(b"no picture")
    model = fc.nn.Sequential(fc.nn.Flatten(), fc.nn.Linear(3 * 8 * 8, 2))
    trainer = fc.Trainer(model, "sgd", 0.01, progress=False)
    history = trainer.fit(DataLoader(ds, 1), DataLoader(ds, 1), max_epochs=2)
    assert np.isfinite(history["train_loss"]).all() and trainer.global_step == 22


def test_errors_of_a_loader_name_the_file(folder):
    first = folder / "ant" / "0.png"

    def fail(images, rng):
        raise RuntimeError("out of luck")

    for size in (16, None):
        with pytest.raises(SampleError, match=r"sample 0 \(.*ant.0.png\) failed: RuntimeError: out of luck") as info:
            next(iter(DataLoader(ImageFolder(folder, size), 2, transform=fail)))
        assert info.value.path == first
    subset = ConcatDataset([Subset(ImageFolder(folder), [11]), Subset(ImageFolder(folder), [7, 3])])
    with pytest.raises(SampleError, match=r"sample 1 \(.*bee.1.png\) failed: ValueError: image: expected shape"):
        next(iter(DataLoader(subset, 3)))
    (folder / "ant" / "0.png").write_bytes(b"")
    with pytest.raises(SampleError) as info:
        next(iter(DataLoader(ImageFolder(folder, 16), 2)))
    assert str(info.value).startswith("sample 0 failed: DamagedImage: ") and info.value.path == first


def test_hidden_files_are_no_images(folder):
    (folder / "ant" / "._0.png").write_bytes(b"of another system")
    assert len(ImageFolder(folder)) == 12
    assert len(ImageFolder(folder, is_valid_file=lambda path: path.suffix == ".png")) == 13


def test_mean_and_std_are_numbers_lists_or_arrays_and_checked(folder):
    for mean in (np.array([0.5, 0.4, 0.3]), [0.5, 0.4, 0.3], (0.5,), 0.5):
        ds = ImageFolder(folder, 16, mean=mean, std=np.full(3, 0.2))
        assert ds.mean == tuple(np.broadcast_to(mean, 3)) and ds.std == (0.2,) * 3
    for options, message in (
        ({"mean": (0.5, 0.5)}, "mean of 1 or 3 finite numbers"),
        ({"std": 0}, "std > 0, got 0"),
        ({"mode": "L", "std": (0.1, 0.2, 0.3)}, "std of 1 or 1 finite numbers"),
    ):
        with pytest.raises(ValueError, match=f"ImageFolder: expected {message}"):
            ImageFolder(folder, **options)


@pytest.mark.parametrize("cache", ["decoded", "bytes"])
def test_caches_hold_what_fits_and_change_nothing(folder, cache, monkeypatch):
    options = {"batch_size": 5, "shuffle": True, "num_workers": 2}
    expected = epochs(DataLoader(ImageFolder(folder, 16), **options))
    opened = []
    whole = ImageFolder(folder, 16, cache=cache)
    assert_same(expected, epochs(DataLoader(whole, **options)))
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda source, *a: opened.append(source) or real(source, *a))
    assert_same(expected, epochs(DataLoader(whole, **options)))
    assert len(opened) == (0 if cache == "decoded" else 24)
    assert all(isinstance(source, io.BytesIO) for source in opened)
    size = 16 * 16 * 3 if cache == "decoded" else (folder / "ant" / "0.png").stat().st_size
    few = ImageFolder(folder, 16, cache=cache, cache_bytes=4 * size)
    assert_same(expected, epochs(DataLoader(few, **options)))
    assert 0 < few.reader.cached_bytes <= 4 * size < whole.reader.cached_bytes
    with pytest.raises(ValueError, match="read-only"):
        whole.raw(0)[0][0] = 1
    for bad in ({"cache": "disk"}, {"cache_bytes": -1}):
        with pytest.raises(ValueError, match="cache"):
            ImageFolder(folder, **bad)


# ---------------------------------------------------------------- arrays from files


def arrays(n=6):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 8, 8, 3), np.uint8), rng.integers(0, 3, n)


@pytest.mark.parametrize("names", [("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")])
def test_arrays_from_npz_and_safetensors(tmp_path, names):
    images, labels = arrays()
    np.savez_compressed(tmp_path / "a.npz", **dict(zip(names, (images, labels[:, None]), strict=True)))
    save_file(dict(zip(names, map(tensor, (images, labels)), strict=True)), tmp_path / "a.safetensors")
    for file in ("a.npz", "a.safetensors"):
        ds = load(f"arrays:{file}", root=tmp_path, mean=0.5, std=0.5)
        np.testing.assert_array_equal(ds.images, images)
        assert ds.labels.tolist() == labels.tolist() and ds.num_classes == 3 and ds.mean == (0.5,) * 3
        assert ArrayDataset.from_file(tmp_path / file, images=names[0], labels=names[1]).name.endswith(file)


def test_arrays_from_damaged_files(tmp_path):
    images, labels = arrays()
    path = tmp_path / "a.npz"
    np.savez(path, images=images, labels=labels)
    np.savez(tmp_path / "b.npz", pictures=images, labels=labels)
    with pytest.raises(ValueError, match="test_images and test_labels or .*got labels, pictures"):
        ArrayDataset.from_file(tmp_path / "b.npz", split="test")
    whole = path.read_bytes()
    for n in (0, 10, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="a.npz"):
            ArrayDataset.from_file(path)
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    with pytest.raises(ValueError, match="array 'images' is damaged"):
        ArrayDataset.from_file(path)
    np.savez(path, images=images, labels=np.array([object()] * 6))
    with pytest.raises(ValueError, match="Python objects"):
        ArrayDataset.from_file(path)
    with pytest.raises(ValueError, match=".npz or .safetensors"):
        ArrayDataset.from_file(tmp_path / "a.pkl")
    with pytest.raises(FileNotFoundError):
        ArrayDataset.from_file(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="one of them"):
        ArrayDataset.from_file(path, images="images")
