"""Looks at a wheel as a user gets it: licenses, bill of materials, size, no paths of the builder, manylinux.

    python tests/check_wheel.py dist/fastcnn-*.whl [--repair FOLDER]

--repair also runs `auditwheel repair` into FOLDER and looks at the result. Needs auditwheel and patchelf.
Exits with 1 and a list of what is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

MOST_BYTES = 20_000_000
# What a build leaves behind that is of no use elsewhere.
PATHS = re.compile(rb"/(?:tmp|home|root|work|build|project|io)/[\w./-]{4,}")


def check_contents(path):
    """What is wrong with the files of a wheel; texts."""
    wrong = []
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        info = next((n.split("/")[0] for n in names if n.endswith(".dist-info/METADATA")), None)
        if info is None:
            return [f"{path.name}: no METADATA"]
        for name in ("licenses/LICENSE", "licenses/docs/licenses/THIRD_PARTY.txt", "sboms/fastcnn.cdx.json", "RECORD"):
            if f"{info}/{name}" not in names:
                wrong.append(f"no {info}/{name}")
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        if metadata["License-Expression"] != "MIT":
            wrong.append(f"License-Expression is {metadata['License-Expression']!r}")
        if f"{info}/sboms/fastcnn.cdx.json" in names:
            wrong += check_bill(json.loads(wheel.read(f"{info}/sboms/fastcnn.cdx.json")), metadata)
        for name in names:
            if name.endswith((".pyc", ".tmp", ".o", "~")) or "/build/" in name:
                wrong.append(f"holds {name}")
            if re.search(r"\.so(\.\d+)*$", name):
                found = sorted({p.decode() for p in PATHS.findall(wheel.read(name))})
                wrong += [f"{name} holds the path {p}" for p in found[:3]]
        stray = [n for n in names if not n.startswith((f"{info}/", "fastcnn/", "fastcnn.libs/", "fastcnn_cuda.libs/"))]
        wrong += [f"puts {n} beside the package" for n in stray[:3]]
    if path.stat().st_size > MOST_BYTES and "cuda" not in path.name:
        wrong.append(f"{path.stat().st_size} bytes, more than {MOST_BYTES}")
    return wrong


def check_bill(bill, metadata):
    """What is wrong with a CycloneDX bill of materials; texts."""
    wrong = []
    if (bill.get("bomFormat"), bill.get("specVersion")) != ("CycloneDX", "1.6"):
        wrong.append("the bill of materials is no CycloneDX 1.6")
    component = bill["metadata"]["component"]
    if component["version"] != metadata["Version"]:
        wrong.append(f"the bill is of version {component['version']}, the wheel of {metadata['Version']}")
    names = {c["name"] for c in bill["components"]}
    needed = [re.match(r"[\w-]+", r)[0] for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    wrong += [f"{n} is required and not in the bill" for n in needed if n not in names]
    wrong += [f"{c['name']}: no license in the bill" for c in bill["components"] if not c.get("licenses")]
    known = {component["bom-ref"], *(c["bom-ref"] for c in bill["components"])}
    refs = {r for d in bill["dependencies"] for r in (d["ref"], *d.get("dependsOn", []))}
    return wrong + [f"the bill refers to {r}, which it does not describe" for r in sorted(refs - known)]


def auditwheel(*argv):
    done = subprocess.run([sys.executable, "-m", "auditwheel", *map(str, argv)], capture_output=True, text=True)
    print(done.stdout.strip())
    return done.returncode, done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--repair", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--plat", default="auto", help="e.g. manylinux_2_28_x86_64; auto: what the builder's libraries allow"
    )
    args = parser.parse_args()
    wrong = []
    for path in args.wheels:
        wrong += check_contents(path)
        code, said = auditwheel("show", path)
        if code:
            wrong.append(f"auditwheel show: {said}")
        if args.repair:
            code, said = auditwheel("repair", "--plat", args.plat, "-w", args.repair, path)
            if code:
                wrong.append(f"auditwheel repair: {said}")
            for repaired in args.repair.glob("*.whl"):
                wrong += check_contents(repaired)
    for line in wrong:
        print(f"check_wheel: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
