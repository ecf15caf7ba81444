"""What the fuzzers of files (tests/fuzz) found once gives promised errors now; their seeds are read, whole and cut."""

import pathlib
import sys

import fastcnn as fc
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "fuzz"))
import targets  # noqa: E402

FOUND = sorted(p for p in targets.CORPUS.rglob("*") if p.is_file())


@pytest.mark.parametrize("path", FOUND, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_files_that_fuzzers_found(tmp_path, path):
    targets.run(path.parent.name, path.read_bytes(), tmp_path)


def test_a_small_picture_may_not_claim_many_pixels(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "p.png").write_bytes((targets.CORPUS / "images" / "claims-169-megapixels.png").read_bytes())
    with pytest.raises(ValueError, match=r"p.png.*13000x13000 pixels, more than PIL.Image.MAX_IMAGE_PIXELS"):
        fc.data.ImageFolder(tmp_path, image_size=8).raw(0)


@pytest.mark.parametrize("name", targets.TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow
def test_seeds_are_read_and_parts_of_them_are_refused(tmp_path, name):
    if name == "onnx":
        pytest.importorskip("onnx")
    target = targets.TARGETS[name]
    for seed in target.seeds():
        path = tmp_path / f"input{target.suffix}"
        path.write_bytes(seed)
        target.read(path)  # a seed is whole: no error at all
        for length in range(0, len(seed), max(1, len(seed) // 20)):
            targets.run(name, seed[:length], tmp_path)
