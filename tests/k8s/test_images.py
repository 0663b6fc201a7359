"""The images: lint, releases by their hash, and the lines that build them, as far as they go."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.e2e.test_base_install import closure
from tests.launch.command import ROOT

IMAGES = ROOT / "k8s" / "images"
DOCKERFILES = sorted(IMAGES.glob("*/Dockerfile"))
LOCKS = sorted((IMAGES / "requirements").glob("*.txt"))
_HADOLINT = Path(sys.executable).parent / "hadolint"
_LINE = re.compile(r"([a-z0-9.-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")


def locked(path: Path) -> dict[str, str]:
    """The releases of a file; every line has a hash."""
    lines = path.read_text().splitlines()[1:]
    found = [_LINE.fullmatch(line) for line in lines]
    assert all(found), [line for line, each in zip(lines, found, strict=True) if not each]
    return {each[1]: each[2] for each in found if each}


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.skipif(not _HADOLINT.exists(), reason="needs hadolint")
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_a_dockerfile_is_clean(path, tmp_path):
    spoilt = tmp_path / "Dockerfile"
    spoilt.write_text(path.read_text().replace("3.11-slim-bookworm@${PYTHON_DIGEST}", "latest"))

    clean, dirty = (
        subprocess.run([_HADOLINT, each], capture_output=True, text=True, check=False)
        for each in (path, spoilt)
    )

    assert (clean.returncode, clean.stdout) == (0, "")
    assert "DL3007" in dirty.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_is_fixed_and_runs_as_nobody(path):
    text = path.read_text()
    froms = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    arguments = re.findall(r"^ARG (\S+)", text, re.MULTILINE)

    assert len(froms) == 2
    assert all(re.search(r"@\$\{(BUILD|PYTHON)_DIGEST\}$", each) for each in froms)
    # Without a default: nothing is built of an image that nobody named.
    assert {"BUILD_DIGEST", "PYTHON_DIGEST"} <= set(arguments)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001:10001"]
    assert "HEALTHCHECK" in text
    for line in re.findall(r"pip[^&]*? install [^&]*", text.replace("\\\n", " ")):
        assert "--require-hashes" in line or "/opt/wheels/muxtable-" in line


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_images_have_the_releases_that_are_tested(path):
    known = pinned("requirements-gpu.txt" if path.stem == "train-cuda" else "requirements.txt")

    others = {
        name: version
        for name, version in locked(path).items()
        if name in known and version.partition("+")[0] != known[name]
    }

    # The release before: the pinned one has no wheel.
    assert others == ({"iopath": "0.1.9"} if path.stem == "train-cuda" else {})


def test_the_service_has_what_it_needs_and_no_torch():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(name) for name in closure(project["dependencies"])}

    assert set(locked(IMAGES / "requirements" / "serve.txt")) == needed
    assert {"torch", "ray"} <= set(locked(IMAGES / "requirements" / "train-cpu.txt"))
    assert {"torch", "ray", "fbgemm-gpu"} <= set(locked(IMAGES / "requirements" / "train-cuda.txt"))


def run_lines(path: Path) -> list[str]:
    """The RUN lines of a Dockerfile, each a command of the shell."""
    return re.findall(r"^RUN (.*)$", path.read_text().replace("\\\n", " "), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("image", ["serve", "train"])
def test_the_lines_of_an_image_run_in_folders_of_their_own(image, tmp_path):
    """/opt and / become folders; groupadd and useradd work on a root of their own; no image."""
    source = tmp_path / "src"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, tracked.stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copyfile(ROOT / name, source / name)
    shutil.copytree(source / "k8s/images/requirements", source / "requirements")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    for name in ("passwd", "group", "shadow", "gshadow"):
        (root / "etc" / name).touch()
    (tmp_path / "opt").mkdir()

    for line in run_lines(IMAGES / image / "Dockerfile"):
        here = re.sub(r"^python ", f"{python()} ", line.replace("/opt/", f"{tmp_path}/opt/"))
        here = re.sub(r"\b(groupadd|useradd)\b", rf"\1 --prefix {root}", here)
        here = re.sub(r"(?<= )/(job|serve|published)\b", rf"{root}/\1", here)
        done = subprocess.run(
            ["bash", "-c", here],
            cwd=source,
            env={"PATH": "/usr/bin:/bin:/usr/sbin", "VARIANT": "cpu", "TORCH_INDEX": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{here}\n{done.stdout}\n{done.stderr}"

    made = subprocess.run(
        [tmp_path / "opt/venv/bin/muxtable", "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
    )
    assert made.stdout.startswith("muxtable "), made.stderr
    assert "muxtable:x:10001:10001" in (root / "etc/passwd").read_text()
    folder = "serve/versions" if image == "serve" else "job/data"
    assert (root / folder).stat().st_uid == 10001


def python() -> str:
    """The interpreter that this environment was made of."""
    return str(Path(sys.base_prefix) / "bin" / "python3.11")
