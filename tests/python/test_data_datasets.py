"""Datasets: arrays, the built-in ones, image folders, subsets. Files and downloads: test_data_files.py."""

import copy
import io
import pickle
import shutil
import tarfile

import fastcnn as fc
import numpy as np
import pytest
from fastcnn.data import (
    ArrayDataset,
    BalancedSampler,
    ConcatDataset,
    DataLoader,
    ImageDataset,
    ImageFolder,
    SampleError,
    Subset,
    datasets,
    export_idx,
    list_datasets,
    load,
    random_split,
    read_idx,
)


def small(n=10, h=4, w=5, c=3, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, h, w, c), np.uint8)
    return ArrayDataset(images, rng.integers(0, 4, n), num_classes=4, layout="NHWC", **kwargs)


# ---------------------------------------------------------------- ArrayDataset


def test_item_is_scaled_normalised_and_channels_last():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    ds = small(mean=mean, std=std)
    image, label = ds[3]
    assert image.shape == (3, 4, 5) and image.dtype == np.float32 and isinstance(label, int)
    assert image.transpose(1, 2, 0).flags.c_contiguous
    expected = (ds.images[3].transpose(2, 0, 1) / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(
        std, (3, 1, 1)
    )
    np.testing.assert_allclose(image, expected, atol=1e-6)
    np.testing.assert_array_equal(ds[-1][0], ds[9][0])
    with pytest.raises(IndexError, match=r"\[-10, 10\), got 10"):
        ds[10]
    with pytest.raises(TypeError, match="int index"):
        ds["a"]


def test_layouts():
    chw, hwc = np.zeros((2, 3, 8, 9), np.uint8), np.zeros((2, 8, 9, 3), np.uint8)
    for images, size, channels in ((chw, (8, 9), 3), (hwc, (8, 9), 3), (chw[:, 0], (8, 9), 1)):
        ds = ArrayDataset(images, [0, 1])
        assert (
            ds.image_size == size and ds.in_channels == channels and ds.images.shape == (2, *size, channels)
        )
    assert ArrayDataset(np.zeros((2, 64, 8, 8), np.float32), [0, 1]).in_channels == 64
    with pytest.raises(ValueError, match="cannot tell the layout"):
        ArrayDataset(np.zeros((2, 3, 8, 3), np.uint8), [0, 1])
    assert np.shares_memory(ArrayDataset(hwc, [0, 1]).images, hwc)


def test_float_images_are_kept():
    images = np.random.default_rng(0).random((3, 1, 4, 4))
    ds = ArrayDataset(images, [0, 1, 1])
    assert ds.num_classes == 2
    np.testing.assert_array_equal(ds[1][0], images[1].astype(np.float32))


@pytest.mark.parametrize(
    "images, labels, kwargs, message",
    [
        (np.zeros((3, 4), np.uint8), [0] * 3, {}, r"got \(3, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), [0] * 2, {}, r"images \(3, 4, 4\) and labels \(2,\)"),
        (np.zeros((3, 4, 4), np.int64), [0] * 3, {}, "int64"),
        (np.zeros((2, 4, 4), np.uint8), [0, 2], {"classes": ["a", "b"]}, "class ids 0 to 1, got 0 to 2"),
        (np.zeros((2, 4, 4), np.uint8), [-1, 0], {}, "got -1 to 0"),
        (np.zeros((2, 4, 4), np.uint8), ["a", "b"], {}, "labels of ints or floats"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], {"mean": (0, 0)}, "mean of 1 or 1"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], {"std": 0.0}, "std > 0"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], {"mean": float("nan")}, "finite"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0, 1], {"layout": "HWCN"}, "HWCN"),
    ],
)
def test_array_dataset_bad_input(images, labels, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(images, labels, **kwargs)


def test_mask_and_regression_labels():
    masks = np.arange(2 * 4 * 4).reshape(2, 4, 4)
    ds = ArrayDataset(np.zeros((2, 4, 4), np.uint8), masks)
    assert ds[1][1].dtype == np.int64 and ds[1][1].shape == (4, 4) and ds.num_classes is None
    ds = ArrayDataset(np.zeros((2, 4, 4), np.uint8), [0.5, 1.5])
    assert ds[1][1] == np.float32(1.5) and ds.labels.dtype == np.float32


def test_read_only_and_strided_input():
    base = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    base.flags.writeable = False
    ds = ArrayDataset(base[::-2, ::-1], np.arange(6)[::-2])
    np.testing.assert_array_equal(ds.images[0], base[5, ::-1])
    images, labels = next(iter(DataLoader(ds, 3)))
    assert labels.tolist() == [5, 3, 1] and images.flags.writeable


# ---------------------------------------------------------------- by name


@pytest.mark.smoke
def test_fashion_mini():
    train, test = load("fashion_mini"), load("fashion_mini", "test")
    assert (len(train), len(test)) == (6000, 1000)
    assert train.images.shape == (6000, 28, 28, 1) and train.labels[:10].tolist() == [
        9,
        0,
        0,
        3,
        0,
        2,
        7,
        2,
        5,
        5,
    ]
    assert train.classes[9] == "Ankle boot" and train.num_classes == 10 and train.in_channels == 1
    assert np.bincount(test.labels).tolist() == [107, 105, 111, 93, 115, 87, 97, 95, 95, 95]
    folder = datasets._MINI_DIR
    assert "Zalando" in (folder / "LICENSE").read_text()
    assert sum(f.stat().st_size for f in folder.iterdir()) < 4_000_000


def test_fashion_mini_is_the_head_of_the_full_set():
    if not (datasets.SYSTEM_DIR / "fashion-mnist").is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    for split, n in (("train", 6000), ("test", 1000)):
        full = load("fashion_mnist", split, download=False)
        mini = load("fashion_mini", split)
        assert len(full) == (60000 if split == "train" else 10000)
        np.testing.assert_array_equal(full.images[:n], mini.images)
        np.testing.assert_array_equal(full.labels[:n], mini.labels)
        if split == "train":
            pixels = full.images / 255.0
            np.testing.assert_allclose([pixels.mean(), pixels.std()], [full.mean[0], full.std[0]], atol=1e-4)


@pytest.mark.parametrize(
    "name, near",
    [("fashion-mnist2", "fashion_mnist"), ("Cifar-10", "cifar10"), ("MNIST", "mnist"), ("zzz", "known:")],
)
def test_unknown_name(name, near):
    with pytest.raises(ValueError, match=near):
        load(name)


def test_load_bad_arguments():
    assert list_datasets() == ["cifar10", "cifar100", "fashion_mini", "fashion_mnist", "mnist"]
    with pytest.raises(ValueError, match="'train' or 'test' for mnist, got 'tset'"):
        load("mnist", "tset")
    with pytest.raises(TypeError, match="image_size"):
        load("fashion_mini", image_size=3)
    with pytest.raises(TypeError, match="int"):
        load(3)


@pytest.mark.parametrize("sub", ["", "fashion_mnist", "FashionMNIST/raw"])
def test_idx_from_root(tmp_path, sub):
    export_idx(Subset(load("fashion_mini"), range(20)), tmp_path / sub)
    ds = load("fashion_mnist", root=tmp_path, download=False)
    assert len(ds) == 20
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        load("fashion_mnist", "test", root=tmp_path, download=False)
    labels = tmp_path / sub / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte"):
        load("fashion_mnist", root=tmp_path, download=False)


def test_export_idx(tmp_path):
    ds = load("fashion_mini", "test")
    images, labels = export_idx(ds, tmp_path, "test")
    np.testing.assert_array_equal(read_idx(images), ds.images[..., 0])
    np.testing.assert_array_equal(read_idx(labels), ds.labels)
    with pytest.raises(ValueError, match=r"\(10, 4, 5, 3\)"):
        export_idx(small(), tmp_path)


def cifar_archive(path, name, n=3, cut=0):
    rng = np.random.default_rng(0)
    info = datasets._CIFAR[name]
    rows = {}
    with tarfile.open(path, "w:gz") as tar:
        for file in info["train"] + info["test"]:
            row = rng.integers(0, 10, (n, info["label_bytes"] + 3072)).astype(np.uint8)
            row[:, info["label_bytes"] :] = rng.integers(0, 256, (n, 3072))
            rows[file] = row
            blob = row.tobytes()[: row.size - cut]
            member = tarfile.TarInfo(f"{info['folder']}/{file}")
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))
    return rows


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path, name):
    rows = cifar_archive(tmp_path / datasets._CIFAR[name]["resource"].name, name)
    train, test = load(name, root=tmp_path, download=False), load(name, "test", root=tmp_path, download=False)
    assert (len(train), len(test)) == ((15, 3) if name == "cifar10" else (3, 3))
    assert train.num_classes == len(set(train.classes)) == int(name.removeprefix("cifar"))
    first = rows[datasets._CIFAR[name]["train"][0]]
    skip = datasets._CIFAR[name]["label_bytes"]
    np.testing.assert_array_equal(train.images[1].transpose(2, 0, 1).ravel(), first[1, skip:])
    assert train.labels[1] == first[1, skip - 1]
    with tarfile.open(tmp_path / datasets._CIFAR[name]["resource"].name) as tar:
        tar.extractall(tmp_path / "out", filter="data") if hasattr(
            tarfile, "data_filter"
        ) else tar.extractall(tmp_path / "out")
    unpacked = load(name, root=tmp_path / "out", download=False)
    np.testing.assert_array_equal(unpacked.images, train.images)


def test_cifar_damaged(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    cifar_archive(path, "cifar10", cut=1)
    with pytest.raises(ValueError, match="data_batch_1.bin: expected a multiple of 3073 bytes, got 9218"):
        load("cifar10", root=tmp_path, download=False)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cifar-10-binary.tar.gz"):
        load("cifar10", root=tmp_path, download=False)
    with pytest.raises(FileNotFoundError, match="pickle"):
        load("cifar100", root=tmp_path, download=False)


# ---------------------------------------------------------------- ImageFolder


@pytest.fixture
def folder(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for k, name in enumerate(("cat", "ant", "bee")):
            (tmp_path / split / name / "deep").mkdir(parents=True)
            for j in range(3):
                pixels = np.full((8, 8, 3), 10 * k + j, np.uint8)
                path = tmp_path / split / name / ("deep" if j == 2 else "") / f"{j}.png"
                Image.fromarray(pixels).save(path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    return tmp_path


def test_image_folder(folder):
    ds = ImageFolder(folder / "train")
    assert ds.classes == ["ant", "bee", "cat"] and ds.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
    assert len(ds) == 9 and ds.num_classes == 3 and ds.image_size == (8, 8) and ds.in_channels == 3
    assert ds.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 and ds.images is None
    image, _ = ds[0]
    np.testing.assert_allclose(image[:, 0, 0], (10 / 255 - np.array(ds.mean)) / ds.std, atol=1e-6)
    for workers in (0, 2):
        images, labels = next(iter(DataLoader(ds, 9, num_workers=workers)))
        np.testing.assert_array_equal(images[0], image)
        np.testing.assert_array_equal(labels, ds.labels)


def test_image_folder_by_name(folder):
    assert len(load(f"imagefolder:{folder}")) == 9
    assert "val" in load(f"imagefolder:{folder}", "test").name
    flat = folder / "train"
    assert len(load("imagefolder:train", root=folder, image_size=4)) == 9
    with pytest.raises(FileNotFoundError, match="random_split"):
        load(f"imagefolder:{flat}", "test")
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        load(f"imagefolder:{folder}/none")


def test_image_folder_resize(folder):
    from PIL import Image

    ramp = np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (10, 1, 3))
    Image.fromarray(ramp).save(folder / "train" / "ant" / "0.png")
    ds = ImageFolder(folder / "train", image_size=10)
    np.testing.assert_array_equal(ds.raw(0)[0][0, :, 0], np.arange(15, 25))  # the centre, not squeezed
    half = ImageFolder(folder / "train", image_size=(5, 20)).raw(0)[0]
    assert half.shape == (5, 20, 3) and 0 < half[2, 5, 0] - 10 < 2
    grey = ImageFolder(folder / "train", image_size=(5, 7), mode="L")
    assert grey[0][0].shape == (1, 5, 7) and grey.image_size == (5, 7)


@pytest.mark.parametrize("workers", [0, 2])
def test_image_folder_damaged_image(folder, workers):
    bad = folder / "train" / "bee" / "1.png"
    bad.write_bytes(bad.read_bytes()[:45])
    ds = ImageFolder(folder / "train", image_size=8)
    with pytest.raises(SampleError, match=r"sample 4 failed: DamagedImage: .*bee.1\.png") as info:
        list(DataLoader(ds, 2, num_workers=workers))
    assert info.value.index == 4 and isinstance(info.value.__cause__, ValueError)


def test_image_folder_errors(folder, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(folder / "train" / "bee" / "0.png")
    with pytest.raises(SampleError, match="pass image_size= to resize"):
        list(DataLoader(ImageFolder(folder / "train"), 9))
    (folder / "train" / "dog").mkdir()
    with pytest.raises(FileNotFoundError, match="dog"):
        ImageFolder(folder / "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="one folder per class"):
        ImageFolder(tmp_path / "empty")
    with pytest.raises(ValueError, match="image_size"):
        ImageFolder(folder / "val", image_size=0)


def test_splits_share_the_ids_of_classes(folder, tmp_path):
    train = ImageFolder(folder / "train")
    shutil.rmtree(folder / "val" / "ant")  # validation has none of these
    alone, shared = ImageFolder(folder / "val"), ImageFolder(folder / "val", classes=train.classes)
    assert alone.labels.tolist() == [0] * 3 + [1] * 3 and shared.labels.tolist() == [1] * 3 + [2] * 3
    assert shared.classes == train.classes and shared.num_classes == 3
    backwards = ImageFolder(folder / "train", classes=train.classes[::-1])
    assert backwards.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 and backwards.samples[0][0].parts[-2] == "cat"
    with pytest.raises(ValueError, match="classes ant, bee in .*train, got cat"):
        ImageFolder(folder / "train", classes=["ant", "bee"])
    with pytest.raises(ValueError, match="names of their own"):
        ImageFolder(folder / "train", classes=["ant", "bee", "cat", "ant"])
    net = fc.nn.Sequential(fc.nn.Flatten(), fc.nn.Linear(192, 3))
    trainer = fc.Trainer(net, progress=False)
    with pytest.raises(ValueError, match=r"the 3 classes .* got 2 \(only in training: ant\); ImageFolder"):
        trainer.fit(train, alone, max_epochs=1)
    with pytest.raises(ValueError, match="another order"):
        trainer.fit(train, backwards, max_epochs=1)
    assert trainer.fit(train, shared, max_epochs=1)


def test_which_files_count_and_empty_classes_on_demand(folder):
    (folder / "train" / "dog").mkdir()
    ds = ImageFolder(folder / "train", allow_empty=True)
    assert ds.classes == ["ant", "bee", "cat", "dog"] and np.bincount(ds.labels, minlength=4).tolist() == [3, 3, 3, 0]
    ds = ImageFolder(folder / "train", allow_empty=True, is_valid_file=lambda path: path.name == "1.png")
    assert [path.name for path, _ in ds.samples] == ["1.png"] * 3
    with pytest.raises(FileNotFoundError, match="expected valid files in"):
        ImageFolder(folder / "train", allow_empty=True, is_valid_file=lambda path: False)


def test_a_class_of_one_image_counts_as_any_other(folder):
    for path in (folder / "train" / "bee").rglob("*.png"):
        if path.name != "0.png":
            path.unlink()
    ds = ImageFolder(folder / "train")
    assert ds.classes == ["ant", "bee", "cat"] and ds.labels.tolist() == [0, 0, 0, 1, 2, 2, 2]
    labels = [y for _, y in DataLoader(ds, 7, sampler=BalancedSampler(ds, 9))]
    assert sorted(np.concatenate(labels)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    parts = random_split(ds, [0.5, 0.5])
    assert sorted(np.concatenate([p.labels for p in parts])) == [0, 0, 0, 1, 2, 2, 2]


# ---------------------------------------------------------------- Subset, ConcatDataset, random_split


def test_subset():
    ds = small()
    sub = Subset(Subset(ds, [9, 3, 3, 0]), [2, 0])
    assert len(sub) == 2 and sub.num_classes == 4 and sub.labels.tolist() == ds.labels[[3, 9]].tolist()
    np.testing.assert_array_equal(sub[1][0], ds[9][0])
    np.testing.assert_array_equal(sub.images, ds.images[[3, 9]])
    np.testing.assert_array_equal(next(iter(DataLoader(sub, 2)))[0][0], ds[3][0])
    assert len(Subset(ds, [])) == 0
    with pytest.raises(IndexError, match="got 10"):
        Subset(ds, [0, 10])
    with pytest.raises(ValueError, match="list of ints"):
        Subset(ds, [0.5])


def test_concat():
    a, b = small(4, seed=1), small(3, seed=2)
    both = ConcatDataset([a, small(0), b])
    assert len(both) == 7 and both.labels.tolist() == [*a.labels, *b.labels]
    for i in (0, 3, 4, 6, -1):
        np.testing.assert_array_equal(both[i][0], (a[i] if 0 <= i < 4 else b[(i % 7) - 4])[0])
    images, labels = next(iter(DataLoader(both, 7, shuffle=True, seed=3)))
    order = DataLoader(both, 7, shuffle=True, seed=3).order(0)
    for k, i in enumerate(order):
        np.testing.assert_array_equal(images[k], both[int(i)][0])
        assert labels[k] == both[int(i)][1]
    with pytest.raises(ValueError, match="in_channels 3 as in dataset 0, got 1 in dataset 1"):
        ConcatDataset([a, small(c=1)])
    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset([])


def test_concat_never_cuts_labels_to_integers():
    """Of labels of two kinds those of a later dataset lost their fractions."""
    pixels = np.zeros((2, 3, 4, 4), np.uint8)
    whole, parts = ArrayDataset(pixels, [[1, 2], [3, 4]]), ArrayDataset(pixels, [[1.5, 2.5], [3.5, 4.5]])
    with pytest.raises(ValueError, match="labels of int64 as in dataset 0, got float32 in dataset 1"):
        ConcatDataset([whole, parts])
    hidden = Shown([(p, y) for p, y in zip(parts.images, parts.labels, strict=True)])
    hidden.image_size = parts.image_size
    with pytest.raises(ValueError, match=r"expected labels \(2,\) int64 as before, got \(2,\) float32 from dataset 1"):
        ConcatDataset([whole, hidden]).raw_batch([0, 3])


class Shown(ImageDataset):
    """What raw() is to give, as it is."""

    in_channels = 3

    def __init__(self, samples):
        self.samples_ = samples

    def __len__(self):
        return len(self.samples_)

    def raw(self, index):
        return self.samples_[index]


RAW = np.full((4, 5, 3), 200, np.uint8)
WRONG = {
    "flat": ((RAW[..., 0], 0), r"sample 1 failed.*pixels \(H, W, C\), got shape \(4, 5\)"),
    "text": ((RAW, "cat"), "sample 1 failed.*label: expected numbers, got str"),
    "none": ((RAW, None), "sample 1 failed.*label: expected numbers, got NoneType"),
    "shape": ((RAW, [1, 2]), r"sample 1 failed.*label: expected shape \(\) as in sample 0, got \(2,\)"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", WRONG)
def test_what_raw_must_not_give_names_its_sample(name, workers):
    wrong, message = WRONG[name]
    with pytest.raises(SampleError, match=message):
        list(DataLoader(Shown([(RAW, 0), wrong]), 2, num_workers=workers))


@pytest.mark.parametrize("dtype", ["int64", "uint16", "int8"])
def test_integers_of_unknown_range_are_not_taken_for_pixels_in_0_to_1(dtype):
    pixels = (RAW // 2).astype(dtype)
    for use in (lambda ds: ds[0], lambda ds: list(DataLoader(ds, 1))):
        with pytest.raises(ValueError, match=f"uint8, or of floats in .0, 1., got .* of {dtype}"):
            use(Shown([(pixels, 0)]))
    with pytest.raises(ValueError, match=f"uint8, or of floats.*{dtype}"):
        list(DataLoader(small(2), 1, transform=lambda x, rng: x.astype(dtype)))


def test_images_without_labels_have_nan():
    _, labels = next(iter(DataLoader(Shown([(RAW, None)] * 2), 2)))
    assert labels.shape == (2,) and np.isnan(labels).all()


def test_error_index_survives_wrapping():
    class Broken(ArrayDataset):
        def raw_batch(self, indices):
            return super(ArrayDataset, self).raw_batch(indices)  # one by one

        def raw(self, index):
            if index == 2:
                raise OSError("bad disk")
            return super().raw(index)

    ds = Broken(np.zeros((4, 2, 2), np.uint8), [0, 1, 0, 1])
    wrapped = Subset(ConcatDataset([ds, ds]), [7, 6, 1])
    with pytest.raises(SampleError, match="sample 1 failed: OSError: bad disk"):
        list(DataLoader(wrapped, 3))


def test_sample_errors_survive_pickling():
    error = SampleError(3, OSError("bad disk"), "a.png")
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert str(again) == str(error) == "sample 3 (a.png) failed: OSError: bad disk"
        assert type(again) is SampleError and (again.index, again.path) == (3, "a.png")


def test_random_split():
    ds = small(103)
    parts = random_split(ds, [0.5, 0.3, 0.2], seed=1)
    assert [len(p) for p in parts] == [52, 31, 20]
    assert sorted(np.concatenate([p.indices for p in parts]).tolist()) == list(range(103))
    again = random_split(ds, [52, 31, 20], seed=1)
    assert all((p.indices == q.indices).all() for p, q in zip(parts, again, strict=True))
    assert (random_split(ds, [0.5, 0.5], seed=2)[0].indices[:52] != parts[0].indices).any()
    for bad in ([50, 50], [0.5, 0.6], [-1, 104], []):
        with pytest.raises(ValueError, match="sum to"):
            random_split(ds, bad)
