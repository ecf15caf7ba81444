"""The report of a run: a page that stands alone, says what is true, escapes what it is given, opens in a browser."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess

import fastcnn as fc
import numpy as np
import pytest

pytest.importorskip("matplotlib")
from fastcnn import report
from test_cli import run

NASTY = "<script>alert(1)</script>&\"'"


class Page(html.parser.HTMLParser):
    """Elements, their attributes, the text, and whether every element is closed where it should be."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.images = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    argv = ["train", "--limit", 200, "--epochs", 2, "--batch-size", 32, "--lr", 0.05, "--model", "resnet8", "--quiet"]
    assert run(*argv, "--out", out, "--name", "a<b>&c") == 0
    return out / "a<b>&c"


@pytest.fixture(scope="module")
def page(trained):
    return (trained / "index.html").read_text(encoding="utf-8")


def test_train_writes_a_page_that_stands_alone(page):
    found = Page(page)
    assert {"curves", "classes", "mistakes", "cams", "facts"} == {a["id"] for t, a in found.tags if t == "section"}
    assert not [t for t, _ in found.tags if t in ("script", "link", "iframe", "object", "base", "form")]
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href"):
                assert value.startswith(("data:image/", "#")), value
    assert "://" not in re.sub(r"data:[^\"]+", "", page)
    assert ("meta", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in [
        (t, a.get("content")) for t, a in found.tags
    ]
    text = "".join(found.text)
    for said in ("a<b>&c", "resnet8 on fashion_mini", fc.__version__, "label_smoothing"):
        assert said in text
    assert all(a.get("alt") for t, a in found.tags if t == "img")


def test_pictures_of_the_page_are_whole(page):
    from PIL import Image

    kinds = []
    for kind, data in re.findall(r'src="data:image/([a-z+]+);base64,([^"]+)"', page):
        content = base64.b64decode(data, validate=True)
        kinds.append(kind)
        if kind == "png":
            image = Image.open(io.BytesIO(content))
            image.load()
            assert image.size == (28, 28)
        else:
            assert content.startswith(b"<?xml") and b"<script" not in content
    assert kinds.count("svg+xml") == 2 and kinds.count("png") == 24 + 2 * 8


def test_what_the_page_says_is_what_evaluate_says(trained, page, capsys):
    assert run("evaluate", "--checkpoint", trained, "--limit", 200, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert f"<b>{100 * found['accuracy']:.2f} %</b><span>test accuracy" in page
    assert f"<b>{found['loss']:.4f}</b><span>test loss" in page
    wrong = round(200 * (1 - found["accuracy"]))
    assert f"{wrong} of 200 test images are wrong" in page
    rows = re.findall(r"<tr><td>([^<]+)</td><td>(\d+)</td><td>([\d.]+) %</td>", page)
    assert len(rows) == 10 and sum(int(n) for _, n, _ in rows) == 200
    recall = [float(r) for *_, r in rows]
    assert recall == sorted(recall)
    assert sum(int(n) * float(r) / 100 for _, n, r in rows) == pytest.approx(200 - wrong, abs=0.5)


def test_findings_rank_mistakes_by_loss():
    scores = np.array([[9.0, 0, 0], [0, 5, 0], [8, 0, 0], [0, 0, 1], [0, 3, 0]])
    labels = np.array([0, 0, 1, 2, 2])
    found = report.Findings(labels, scores)
    assert found.worst(5).tolist() == [2, 1, 4] and found.worst(1).tolist() == [2]
    assert found.confusion.tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert found.typical(3).tolist() == [0, 3]
    np.testing.assert_allclose(found.losses[0], -np.log(found.probabilities[0, 0]))


def test_names_from_outside_are_escaped(trained, tmp_path):
    saved = fc.checkpoints.load_checkpoint(trained / "best.safetensors")
    classes = [f"{NASTY}{i}" for i in range(10)]
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    fc.checkpoints.save_checkpoint(
        run_folder / "best.safetensors", saved.weights, metadata={**saved.metadata, "classes": classes}
    )
    config = json.loads((trained / "config.json").read_text())
    (run_folder / "config.json").write_text(json.dumps({**config, "optimizer": NASTY}))
    column = NASTY.replace('"', '""')
    (run_folder / "metrics.csv").write_text(f'epoch,train_loss,"{column}"\n0,1.5,{NASTY[:8]}\n')
    path = report.write_report(run_folder, limit=40)
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    assert not [t for t, _ in found.tags if t == "script"] and "<script" not in text
    assert NASTY in "".join(found.text)
    names = ["best.safetensors", "config.json", "index.html", "metrics.csv"]
    assert sorted(p.name for p in run_folder.iterdir()) == names


def test_report_command(trained, tmp_path, capsys):
    assert run("report", trained, "--output", tmp_path / "page.html", "--limit", 30, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "page.html")}
    assert "of 30 test images" in (tmp_path / "page.html").read_text(encoding="utf-8")
    for folder, message in ((tmp_path / "none", "expected the folder of a run"), (tmp_path, "no .*metrics.csv")):
        assert run("report", folder) == 1
        assert re.search(message, capsys.readouterr().err)


def test_page_in_a_browser(trained, tmp_path):
    browser = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if browser is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    page = tmp_path / "page.html"
    shutil.copy(trained / "index.html", page)
    (tmp_path / "profile").mkdir()
    picture = tmp_path / "page.png"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3000", f"--screenshot={picture}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("L"), np.float32)
    assert pixels.shape == (3000, 1200)
    inked = (pixels < 128).mean(1)
    assert (inked > 0).mean() > 0.3  # text and pictures all the way down
    assert pixels[:, :40].min() > 240 and pixels[:, -40:].min() > 240  # nothing runs over the margins
    tiles = pixels[:, 200:1000].std(1)
    assert (tiles > 60).sum() > 300  # the drawn images
