"""fastcnn gan train, sample and resume, with a judge, and what wrong options get."""

import json
import shutil

import numpy as np
import pytest
from fastcnn import checkpoints, data, models
from fastcnn.cli import main


def run(*argv):
    return main([str(a) for a in argv])


SMALL = ("--limit", 96, "--width", 4, "--batch-size", 32, "--quiet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A conditional run of one epoch, judged by a classifier."""
    folder = tmp_path_factory.mktemp("gan")
    about = data.load("fashion_mini", "train")
    judge = folder / "judge.safetensors"
    net = models.create_model("lenet5", 10, 1)
    meta = {"model": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": [28, 28], "mean": about.mean,
            "std": about.std}  # fmt: skip
    checkpoints.save_checkpoint(judge, net.state_dict(), metadata=meta)
    where = ("--out", folder, "--name", "one", "--judge", judge)
    assert run("gan", "train", "--model", "cgan", *SMALL, "--epochs", 1, *where) == 0
    return folder / "one"


def test_a_run_leaves_what_it_should(trained, capsys):
    assert (trained / "samples/epoch-001.png").is_file() and (trained / "curves.png").is_file()
    header, row = (trained / "metrics.csv").read_text().splitlines()
    values = dict(zip(header.split(","), map(float, row.split(","))))
    assert values["fid"] > 0 and 0 < values["confidence"] <= 1 and 0 <= values["modes"] <= 10
    assert json.loads((trained / "gan.json").read_text())["loss"] == "bce"


def test_resume_goes_on_with_the_runs_own_options(trained, capsys):
    assert run("gan", "train", "--resume", trained, "--epochs", 2, "--quiet") == 0
    assert "fid" in capsys.readouterr().out
    assert len((trained / "metrics.csv").read_text().splitlines()) == 3


def test_a_resume_takes_rates_of_the_command_line(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "r")
    epochs = json.loads((tmp_path / "r/gan.json").read_text())["epochs"] + 1
    assert run("gan", "train", "--resume", tmp_path / "r", "--epochs", epochs, "--quiet", "--d-lr", 0.0625) == 0
    state = checkpoints.load_checkpoint(tmp_path / "r/last.safetensors").state["optimizers"]
    rates = [numbers["param_groups"][0]["lr"] for numbers in state]
    assert rates[1] == 0.0625 != rates[0]


def test_a_resume_with_options_that_do_not_fit_leaves_the_run_as_it_was(trained, capsys):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    assert run("gan", "train", "--resume", trained, "--epochs", 3, "--quiet", "--width", 8) == 1
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


def test_samples(trained, tmp_path, capsys):
    first, second = tmp_path / "a.npy", tmp_path / "b.npy"
    draw = ("gan", "sample", "--checkpoint", trained)
    for out in (first, second):
        assert run(*draw, "--count", 5, "--seed", 3, "--labels", 1, 2, "--out", out) == 0
    images = np.load(first)
    assert images.shape == (5, 1, 28, 28) and images.min() >= 0 and images.max() <= 1
    assert np.array_equal(images, np.load(second)) and "5 images of 1 x 28x28" in capsys.readouterr().out
    walk = tmp_path / "walk.png"
    assert run(*draw, "--interpolate", "--count", 20, "--out", walk) == 0
    assert walk.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("command", ["evaluate", "export", "predict", "report"])
def test_commands_for_classifiers_name_the_one_for_pairs(command, trained, tmp_path, capsys):
    argv = [trained] if command == "report" else ["--checkpoint", trained]
    assert run(command, *argv, *([tmp_path / "a.png"] if command == "predict" else [])) == 2
    error = capsys.readouterr().err
    assert "made by fastcnn gan train" in error and "fastcnn gan sample" in error and error.count("\n") == 1
    assert not (trained / "index.html").exists()


def test_an_epoch_without_a_step_of_the_generator_is_told_too(tmp_path, capsys):
    options = ("--n-critic", 5, "--gp-weight", 5, "--d-lr", 1e-4, "--noise-steps", 9, "--r1", 1, "--r1-every", 2)
    argv = ("--model", "wgan_gp", *SMALL, "--epochs", 3, "--no-compile", *options, "--name", "w", "--out", tmp_path)
    assert run("gan", "train", *argv) == 0
    told = capsys.readouterr().out
    assert "d_loss" in told and "g_loss" not in told
    kept = json.loads((tmp_path / "w/gan.json").read_text())
    assert [kept[k] for k in ("gp_weight", "d_lr", "noise_steps", "r1_every")] == [5, 1e-4, 9, 2]
    draw = ("gan", "sample", "--checkpoint", tmp_path / "w", "--interpolate", "--out", tmp_path / "w.npy")
    assert run(*draw, "--count", 3) == 0 and len(np.load(tmp_path / "w.npy")) == 3


@pytest.mark.parametrize(
    "argv, message",
    [
        (("train", "--model", "resnet18"), "--model: expected one of dcgan, cgan"),
        (("train", "--size", "30", *SMALL, "--out", "{tmp}"), "expected image_size 16, 32, 64"),
        (("train", "--resume", "{tmp}"), "expected the folder of a run of fastcnn gan train"),
        (("train", "--loss", "hinge", "--label-smoothing", "0.1", *SMALL, "--out", "{tmp}"), "label_smoothing"),
        (("sample", "--checkpoint", "{run}", "--out", "a.gif"), "ends in .png or .npy"),
        (("sample", "--checkpoint", "{run}", "--interpolate", "--count", "1"), "--count of at least 2"),
        (("sample", "--checkpoint", "{judge}"), "not of a run of fastcnn gan train"),
    ],
)
def test_wrong_options_are_wrong_usage(argv, message, trained, tmp_path, capsys):
    names = {"tmp": tmp_path, "run": trained, "judge": trained.parent / "judge.safetensors"}
    assert run("gan", *(str(a).format(**names) for a in argv)) == 2
    assert message in capsys.readouterr().err
