"""The documentation is true: every Python block of docs/ runs, every command parses, every link leads somewhere."""

import importlib.util
import pathlib
import re
import shlex

import fastcnn as fc
import numpy as np
import pytest
from fastcnn.cli import make_parser

DOCS = pathlib.Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page, language):
    return [(page.read_text(encoding="utf-8")[: m.start()].count("\n") + 2, m[2])
            for m in BLOCK.finditer(page.read_text(encoding="utf-8")) if m[1] == language]  # fmt: skip


def with_weights(folder):
    """What models.md calls weights.pth: a file of PyTorch."""
    torch = pytest.importorskip("torch")
    net = fc.models.create_model("efficientnet_lite0")
    torch.save({k: torch.tensor(v.numpy()) for k, v in net.state_dict().items()}, folder / "weights.pth")
    return {}


def for_sessions(folder):
    """The net, batch and optimizer that docs/embed.md speaks of."""
    net = fc.nn.Sequential(fc.nn.Conv2d(3, 4, 16, stride=16), fc.nn.ReLU(), fc.nn.Flatten(), fc.nn.Linear(784, 3))
    x, y = np.zeros((2, 3, 224, 224), np.float32), np.zeros(2, np.int64)
    opt = fc.optim.SGD(net.parameters(), lr=0.1)
    return {"fc": fc, "net": net, "x": x, "y": y, "opt": opt, "names": ["cat", "dog", "cup"]}


def for_onnx(folder):
    """A file to read, and a model to write."""
    pytest.importorskip("onnx", reason="needs onnx")
    model = fc.models.create_model("resnet8", num_classes=10)
    images = np.zeros((2, 3, 32, 32), np.float32)
    fc.onnx.export(model, folder / "net.onnx", images)
    return {"fc": fc, "model": model, "images": images, "example": images}


# What pages speak of without making it, and what is shortened for the tests; a text that is gone from a page fails.
PREPARE = {"models.md": with_weights, "embed.md": for_sessions, "onnx.md": for_onnx}
SHORTER = {
    "distributed.md": {"fc.distributed.init()": "pass"},  # not MPI in the process of the tests
    "gan.md": {
        "max_epochs=20": "max_epochs=1",
        'fc.data.load("fashion_mini")': 'fc.data.Subset(fc.data.load("fashion_mini"), range(64))',
    },
}


WITH_PYTHON = [p for p in PAGES if blocks(p, "python")]


@pytest.fixture
def one_thread():
    """The nets of the pages are so small that two threads gain nothing, and lose much on a busy machine."""
    before = fc.get_num_threads()
    fc.set_num_threads(1)
    yield
    fc.set_num_threads(before)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_python_blocks_run(page, tmp_path, monkeypatch, one_thread):
    """In one namespace per page, in an empty folder, in the order of the page."""
    if importlib.util.find_spec("matplotlib") is None and "viz" in page.read_text(encoding="utf-8"):
        pytest.skip("needs matplotlib")
    monkeypatch.chdir(tmp_path)
    where = page.relative_to(DOCS).as_posix()
    space = {"__name__": "docs", **PREPARE.get(where, lambda folder: {})(tmp_path)}
    replaced = set()
    for line, code in blocks(page, "python"):
        for long, short in SHORTER.get(where, {}).items():
            replaced |= {long} if long in code else set()
            code = code.replace(long, short)
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), space)
    assert replaced == set(SHORTER.get(where, {}))
    code = "\n".join(code for _, code in blocks(page, "python"))
    for name in re.findall(r'"([\w/]+\.(?:png|json|safetensors))"', code):
        assert (tmp_path / name).exists(), name


def test_commands_parse():
    parser, seen = make_parser(), 0
    for page in PAGES:
        for line, text in blocks(page, "sh"):
            for words in (shlex.split(part, comments=True) for part in re.split(r"\n|&&", text)):
                if words[:1] == ["fastcnn"]:
                    seen += 1
                    try:
                        parser.parse_args(words[1:])
                    except SystemExit:
                        pytest.fail(f"{page}:{line}: {' '.join(words)}")
    assert seen > 10


def test_links_and_pages_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"
    nav = re.findall(r"^ +- .*?: ([\w/.-]+\.md)$", (DOCS / "site" / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert len(nav) > 15 and not [name for name in nav if not (DOCS / name).exists()]
    for page in (DOCS / "api").glob("*.md"):
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.M):
            module = name
            while True:
                try:
                    found = importlib.import_module(module)
                    break
                except ModuleNotFoundError:
                    module = module.rpartition(".")[0]
            for part in filter(None, name[len(module) :].split(".")):
                found = getattr(found, part)
