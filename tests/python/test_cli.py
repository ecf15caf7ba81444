"""The command line: the whole way from train to predict, exit codes, one-line errors, speed of --help."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import fastcnn
import numpy as np
import pytest
from fastcnn.cli import main
from fastcnn.data import load, write_idx

TINY = ["--limit", "64", "--epochs", "2", "--batch-size", "16", "--model", "lenet5", "--quiet", "--no-report"]


def run(*argv):
    return main([str(a) for a in argv])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert run("train", *TINY, "--out", out, "--name", "tiny") == 0
    return out / "tiny"


@pytest.mark.smoke
def test_train_writes_a_run(trained):
    names = set(os.listdir(trained))
    assert {"best.safetensors", "last.safetensors", "metrics.csv", "config.json"} <= names
    assert json.loads((trained / "config.json").read_text())["limit"] == 64


def test_evaluate(trained, capsys):
    assert run("evaluate", "--checkpoint", trained / "last.safetensors", "--limit", 64, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    rows = (trained / "metrics.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert found["accuracy"] == pytest.approx(float(last["val_accuracy"]))
    assert found["images"] == 64
    assert run("evaluate", "--checkpoint", trained, "--limit", 64) == 0
    assert "accuracy" in capsys.readouterr().out


def test_predict(trained, tmp_path, capsys):
    data = load("fashion_mini", "test")
    np.save(tmp_path / "one.npy", data.images[0, :, :, 0])
    np.save(tmp_path / "many.npy", data.images[:5])
    write_idx(tmp_path / "images-idx3-ubyte", data.images[:5, :, :, 0])
    files = [tmp_path / "one.npy", tmp_path / "many.npy", tmp_path / "images-idx3-ubyte"]
    assert run("predict", "--checkpoint", trained, "--json", "--top", 10, *files) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 11
    chances = [{c["name"]: c["probability"] for c in f["classes"]} for f in found]
    assert chances[0] == pytest.approx(chances[1])
    assert [f["classes"] for f in found[1:6]] == [f["classes"] for f in found[6:]]
    assert sum(chances[0].values()) == pytest.approx(1)
    assert set(chances[0]) == set(data.classes)
    assert all(data.classes[c["id"]] == c["name"] for c in found[0]["classes"])
    ranked = [c["probability"] for c in found[0]["classes"]]
    assert ranked == sorted(ranked, reverse=True)
    assert run("predict", "--checkpoint", trained, "--limit", 2, files[1]) == 0
    assert capsys.readouterr().out.count("many.npy[") == 2


def test_predict_pictures(trained, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    pixels = load("fashion_mini", "test").images[0, :, :, 0]
    image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "more" / "deep").mkdir(parents=True)
    image.fromarray(np.stack([pixels] * 3, -1)).resize((60, 50)).save(tmp_path / "b.png")
    for name in ("more/2.jpg", "more/1.png", "more/deep/0.png"):
        image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "more" / "notes.txt").write_text("no picture")
    (tmp_path / "more" / "._1.png").write_bytes(b"what macOS keeps beside a file")
    np.save(tmp_path / "a.npy", pixels)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    argv = ["predict", "--checkpoint", trained, "--json", tmp_path / "a.png", tmp_path / "a.npy"]
    assert run(*argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["classes"] == found[1]["classes"]
    assert run("predict", "--checkpoint", trained, tmp_path / "bad.png", tmp_path / "b.png") == 1
    output = capsys.readouterr()
    assert "bad.png" in output.err
    assert "b.png:" in output.out
    assert run("predict", "--checkpoint", trained, tmp_path / "more") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        str(tmp_path / "more" / name) for name in ("1.png", "2.jpg", "deep/0.png")
    ]
    assert all(line.count(" %") == 5 for line in lines)  # the five likeliest classes
    (tmp_path / "empty").mkdir()
    assert run("predict", "--checkpoint", trained, tmp_path / "empty") == 1
    assert "no pictures" in capsys.readouterr().err
    # What could be read is told all the same, and pictures go in batches.
    assert run(*argv[:4], tmp_path / "empty", tmp_path / "more", tmp_path / "bad.png", "--batch-size", 2) == 1
    output = capsys.readouterr()
    assert [f["file"].rpartition("more/")[2] for f in json.loads(output.out)] == ["1.png", "2.jpg", "deep/0.png"]
    assert output.err.count("\n") == 2 and "no pictures" in output.err and "bad.png" in output.err


def test_summary_info_version(capsys):
    assert run("summary", "--model", "resnet20", "--input", 3, 32, 32, "--num-classes", 10) == 0
    assert "269,722" in capsys.readouterr().out
    # Without --input: the images and classes that a net is usually built for.
    for name, count in {"lenet5": 61_706, "lenet": 1_663_370, "resnet20": 269_722, "resnet18": 11_689_512}.items():
        assert run("summary", "--model", name) == 0
        assert f"parameters {count:,} " in capsys.readouterr().out
    for name in ("dcgan", "cgan"):  # a pair: both nets
        assert run("summary", "--model", name, "--input", 1, 28, 28, "--json") == 0
        both = json.loads(capsys.readouterr().out)
        assert both["generator"]["input_size"] == [1, 100] and both["discriminator"]["input_size"] == [1, 1, 28, 28]
    assert run("summary", "--model", "dcgan") == 0
    out = capsys.readouterr().out
    assert "DCGANGenerator, input (1, 100)" in out and "DCGANDiscriminator, input (1, 3, 64, 64)" in out
    assert run("summary", "--model", "r3d_18", "--input", 3, 4, 32, 32) == 0
    assert "VideoResNet, input (1, 3, 4, 32, 32)" in capsys.readouterr().out
    assert run("summary", "--model", "lenet5", "--input", 1, 28, 30) == 1
    assert "square images" in capsys.readouterr().err
    assert run("info") == 0
    out = capsys.readouterr().out
    assert fastcnn.__version__ in out and fastcnn.isa() in out and "threads: " in out and "cuda: " in out
    assert run("info", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == fastcnn.__version__ and {"threads", "cuda"} <= set(facts) and "" not in facts.values()
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("fastcnn ")
    assert run() == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--model", "resnet21"], "unknown model 'resnet21'; did you mean"),
        (["train", "--model", "unet"], "expected a classifier, got unet, which gives a class for each pixel"),
        (["train", "--model", "retinanet_small"], "examples/detection_garments.py"),
        (["train", "--model", "dcgan"], "which is a pair of nets: fastcnn gan train takes it"),
        (["train", "--data", "fashion_mnist2"], "unknown dataset 'fashion_mnist2'; did you mean"),
        (["train", "--optimizer", "sdg"], "did you mean 'sgd'"),
        (["train", "--name", "a/b"], "expected a plain name"),
        (["train", "--name", ""], "expected a plain name, got ''"),
        (["train", "--resume", "no/such/run", "--name", "other"], "--name is for a new one"),
        (["train", "--resume", "no/such/run"], "expected the folder of a run"),
        (["train", "--image-size", "64"], "goes with imagefolder"),
        (["train", "--label-smoothing", "3"], "label_smoothing in"),
        (["train", "--device", "gpu"], "expected device auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["data", "--data", "mnist", "--split", "valid"], "mnist: expected split 'train' or 'test', got 'valid'"),
        (["summary", "--model", "resnet51"], "did you mean"),
        (["summary", "--model", "resnet8", "--input", "32", "32"], "--input: expected C H W"),
    ],
)
def test_wrong_usage_is_one_line(argv, message, capsys, tmp_path):
    assert run(*argv, *(["--out", tmp_path] if argv[0] == "train" else [])) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastcnn: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [("--ema-decay", 0.9), ("--model", "resnet8"), ("--scheduler", "none"), ("--optimizer", "adam")]
)
def test_a_resume_with_options_that_do_not_fit_leaves_the_run_as_it_was(change, trained, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    assert run("train", "--resume", copy, "--epochs", 3, "--quiet", "--no-report", *change) > 0
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
    assert run("train", "--resume", copy, "--epochs", 3, "--quiet", "--no-report") == 0


def test_a_resume_takes_rates_of_the_command_line_and_refuses_other_weights(trained, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    resume = ("train", "--resume", copy, "--quiet", "--no-report")
    assert run(*resume, "--init", trained / "best.safetensors") == 2
    assert "goes on with the weights of" in capsys.readouterr().err
    assert run(*resume, "--epochs", 3, "--lr", 0.002, "--weight-decay", 0.25) == 0
    config = json.loads((copy / "config.json").read_text())
    state = fastcnn.checkpoints.load_checkpoint(copy / "last.safetensors").state["optimizer"]
    group = state["options"][0]
    assert (config["lr"], config["weight_decay"]) == (group["lr"], group["weight_decay"]) == (0.002, 0.25)
    assert state["param_groups"][0]["weight_decay"] == 0.25 and state["param_groups"][0]["lr"] <= 0.002


def test_options_cut_short_win_over_those_of_the_run(trained, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    assert run("train", "--resume", copy, "--epo", 3, "--quiet", "--no-report") == 0
    assert run("train", "--resume", copy, "--epoch=4", "--quiet", "--no-report") == 0
    assert len((copy / "metrics.csv").read_text().splitlines()) == 5


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(trained, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "last.safetensors").write_bytes(b"half")
    assert run("train", "--resume", copy, "--epochs", 3, "--quiet", "--no-report") == 1
    before = capsys.readouterr().err.split("the one before it is ")[1].strip()
    assert run("train", "--resume", before, "--epochs", 3, "--quiet", "--no-report") == 0
    assert len((copy / "metrics.csv").read_text().splitlines()) == 4


def test_names_in_any_bytes_and_signs_go_the_whole_way(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    names = [os.fsencode("Zürich $5"), b"caf\xe9 $", os.fsencode("日本語")]
    root = os.fsencode(tmp_path) + b"/pictures \xfc"
    for name in names:
        os.makedirs(root + b"/train/" + name)
        for i in range(4):
            with open(root + b"/train/" + name + b"/%d.png" % i, "wb") as file:
                Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(file, "png")
    data, out = f"imagefolder:{os.fsdecode(root)}", os.fsdecode(os.fsencode(tmp_path) + b"/runs \xfc")
    size = ["--image-size", "20", "--val-fraction", "0.25", "--batch-size", "4", "--model", "lenet5", "--epochs", "1"]
    commands = [
        ["train", "--data", data, *size, "--out", out, "--name", "r"],
        ["evaluate", "--checkpoint", f"{out}/r"],
        ["predict", "--checkpoint", f"{out}/r", os.fsdecode(root)],
        ["export", "--checkpoint", f"{out}/r", "--out", f"{out}/r.fcnn"],
        ["data", "--data", data, "--preview", f"{out}/r.png"],
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "fastcnn", *command], capture_output=True, text=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "caf\\udce9 $" in done.stdout and "\\u65e5" in done.stdout
    assert set(fastcnn.load(f"{out}/r.fcnn").class_names) == {"Zürich $5", "caf\\udce9 $", "日本語"}


def test_nets_of_one_image_size_fit_the_data(tmp_path, capsys):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(
                    tmp_path / "data" / split / name / f"{i}.png"
                )
    data = f"imagefolder:{tmp_path / 'data'}"
    argv = ["train", "--model", "lenet5", "--data", data, "--image-size", 20, "--epochs", 1, "--batch-size", 4]
    assert run(*argv, "--out", tmp_path, "--name", "r", "--quiet", "--no-report") == 0
    assert run("evaluate", "--checkpoint", tmp_path / "r", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 8


def test_failures_are_one_line(trained, tmp_path, capsys):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((trained / "last.safetensors").read_bytes()[:-5])
    for argv, message in [
        (["evaluate", "--checkpoint", damaged], "damaged.safetensors: damaged checkpoint"),
        (["evaluate", "--checkpoint", tmp_path / "none.safetensors"], "no such checkpoint"),
        (["evaluate", "--checkpoint", trained, "--model", "resnet20"], "does not fit the model resnet20"),
        (["predict", "--checkpoint", trained, tmp_path / "none.npy"], "no such file"),
        (["train", "--data", "mnist", "--no-download", "--root", tmp_path, "--out", tmp_path], "mnist"),
    ]:
        assert run(*argv) == 1, argv
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    with pytest.raises(ValueError, match="damaged checkpoint"):
        run("evaluate", "--checkpoint", damaged, "--debug")
    with pytest.raises(SystemExit) as stop:
        run("train", "--epochs", "-3")
    assert stop.value.code == 2


def test_existing_names_are_not_overwritten(trained, capsys):
    assert run("train", *TINY, "--out", trained.parent, "--name", "tiny") == 2
    assert "exists already" in capsys.readouterr().err


def spawn(*argv):
    return subprocess.Popen(
        [sys.executable, "-m", "fastcnn", *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_then_resume(tmp_path, capsys):
    argv = ["train", *TINY[:-2], "--epochs", "400", "--out", tmp_path, "--name", "r"]
    process = spawn(*argv)
    deadline = time.monotonic() + 60
    while not (tmp_path / "r" / "last.safetensors").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"fastcnn train --resume {tmp_path / 'r'}" in errors
    done = len((tmp_path / "r" / "metrics.csv").read_text().splitlines()) - 1
    assert run("train", "--resume", tmp_path / "r", "--epochs", done + 2, "--quiet", "--no-report") == 0
    assert "test accuracy" in capsys.readouterr().out
    assert len((tmp_path / "r" / "metrics.csv").read_text().splitlines()) - 1 == done + 2
    assert json.loads((tmp_path / "r" / "config.json").read_text())["model"] == "lenet5"


@pytest.mark.smoke
def test_help_imports_nothing_heavy():
    code = (
        "import sys, fastcnn.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'matplotlib', 'PIL', 'tqdm', 'fastcnn.nn', 'fastcnn.models', 'fastcnn.data'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("train", "evaluate", "predict", "summary", "info"):
        assert command in done.stdout
