"""Fuzzes the readers of files with atheris (libFuzzer for Python): no crash, hang, over-allocation or other error.

    pip install atheris
    python tests/fuzz/fuzz.py onnx -max_total_time=600

Formats: safetensors, torch, onnx, session, idx, images. Further options are libFuzzer's. What it finds (crash-*,
timeout-*, oom-*) goes to tests/fuzz/corpus/<format>/ once it is mended, where the test-suite runs it for ever.
"""

import importlib
import random
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
MEMORY = 1 << 30  # more than this is a finding; the inputs are a few kilobytes

# What is instrumented: fastcnn's own Python and the parsers beneath it, which load when they are first used.
with atheris.instrument_imports(include=["fastcnn", "pickletools", "zipfile"]):
    import targets

    for module in "onnx safetensors checkpoints _session torch_files data.folder data.idx".split():
        importlib.import_module(f"fastcnn.{module}")


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in targets.TARGETS:
        sys.exit(f"usage: fuzz.py {{{','.join(targets.TARGETS)}}} [libFuzzer options]")
    name = sys.argv.pop(1)
    warnings.simplefilter("ignore")
    work = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    seeds = Path(work.name) / "corpus"
    seeds.mkdir()
    target, found = targets.TARGETS[name], targets.CORPUS / name
    for i, data in enumerate([*target.seeds(), *(p.read_bytes() for p in sorted(found.glob("*")))]):
        (seeds / f"seed{i}").write_bytes(data)
        targets.run(name, data, work.name)  # imports what it needs before memory is limited
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    def change(data, largest, seed):
        def change_bytes(part):
            return atheris.Mutate(part, max(largest - len(data) + len(part), 1))

        rng = random.Random(seed)
        return (target.change(data, rng, change_bytes) if rng.random() < 0.9 else change_bytes(data))[:largest]

    atheris.Setup(
        [sys.argv[0], "-timeout=20", "-rss_limit_mb=3000", "-max_len=8192", *sys.argv[1:], str(seeds)],
        lambda data: targets.run(name, data, work.name),
        custom_mutator=change if target.change else None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
