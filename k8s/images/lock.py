"""Writes requirements/*.txt: what each image installs, with the sha256 of every file.

    python k8s/images/lock.py serve train-cpu build       # from the releases of requirements.txt
    python k8s/images/lock.py train-cuda                  # from those of requirements-gpu.txt

Run it after a change of those releases, in the environment of `make setup`. It asks the index that
pip is set to, and pip resolves what only the other variant needs.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Where files for another machine would be named: one line for each.
_HEAD = (
    "# By lock.py, of {source}. Linux x86-64, Python 3.11. pip install --require-hashes --no-deps\n"
)
# For GPUs alone: on CPUs our own engines are used.
_TORCHREC = ["torchrec", "tensordict", "torchmetrics", "pyre-extensions", "iopath", "fbgemm-gpu"]
_WITH = {"train-cpu": [], "train-cuda": _TORCHREC}
# The release before, where the pinned one has no wheel: nothing is built from what has no hash.
_WHEELS = {"iopath": "0.1.9"}


def wanted(name: str) -> list[str]:
    """Returns the direct requirements of an image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if name == "build":
        return [*project["build-system"]["requires"], "cmake", "ninja", "pip", "setuptools"]
    base = list(project["project"]["dependencies"])
    if name == "serve":
        return base
    extras = project["project"]["optional-dependencies"]
    return [*base, *extras["train"], *extras["ray"], *extras["k8s"], *_WITH[name]]


def releases(file: str) -> dict[str, str]:
    """Returns the releases that a file of requirements names."""
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def closure(direct: list[str]) -> set[str]:
    """Returns the distributions that these need, as installed here; extras are followed."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in direct]
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        found.add(name)
        for extra in ("", *each.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in _requires(name):
                inner = Requirement(line)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    waiting.append(inner)
    return found


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def locked(names: list[str], *options: str) -> list[str]:
    """Returns a line for each of these releases, with the hash of the file that pip takes here."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(  # noqa: S603  our own interpreter, and names that this repository pins
            [
                *(sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"),
                *("--only-binary", ":all:", "--report", str(report), *options, *names),
            ],
            check=True,
        )
        installs = json.loads(report.read_text())["install"]
    lines = []
    for each in installs:
        metadata, info = each["metadata"], each["download_info"]
        digest = info["archive_info"]["hashes"]["sha256"]
        name = canonicalize_name(metadata["name"])
        lines.append(f"{name}=={metadata['version']} --hash=sha256:{digest}")
    return sorted(lines)


def main() -> None:
    """Writes the files that the command line names."""
    for image in sys.argv[1:]:
        source = "requirements-gpu.txt" if image == "train-cuda" else "requirements.txt"
        known = releases(source)
        names = closure(wanted(image))
        known |= _WHEELS
        pinned = sorted(f"{name}=={known[name]}" for name in names if name in known)
        # torch for CUDA brings libraries that no other file names: pip finds them.
        extra = [] if image == "train-cuda" else ["--no-deps"]
        missing = sorted(names - set(known) - {"pip"})
        if missing and image != "train-cuda":
            sys.exit(f"{source} does not name {', '.join(missing)}")
        lines = locked(pinned, *extra)
        text = _HEAD.format(source=source) + "\n".join(lines) + "\n"
        (HERE / "requirements" / f"{image}.txt").write_text(re.sub(r"\n+", "\n", text))
        sys.stdout.write(f"{image}: {len(lines)} packages\n")


if __name__ == "__main__":
    main()
