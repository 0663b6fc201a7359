"""What the base install does: an environment with its dependencies, and without torch."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.launch.command import ROOT
from tests.serving.small import write_version

PACKAGES = ("features", "storage", "sharding", "trainer", "serving", "launch")


def closure(names: list[str]) -> set[str]:
    """The distributions that these need, extras left out, themselves included."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = Requirement(waiting.pop()).name.lower()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with the base dependencies and our packages."""
    home = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "env"], check=True)
    (site,) = (home / "env").glob("lib/*/site-packages")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in sorted(closure(project["dependencies"])):
        for file in importlib.metadata.files(name) or []:
            top = file.parts[0]
            if top in ("..", "__pycache__") or (site / top).exists():
                continue
            source = Path(file.locate()).parents[len(file.parts) - 1] / top
            # google is shared by several distributions, of which others are not wanted here.
            if top == "google":
                (site / top).mkdir()
                (site / top / "protobuf").symlink_to(source / "protobuf")
                for extra in ("_upb",):
                    if (source / extra).exists():
                        (site / top / extra).symlink_to(source / extra)
            else:
                (site / top).symlink_to(source)
    import native._native as compiled

    (site / "native").mkdir()
    for file in (ROOT / "native").glob("*.py"):
        (site / "native" / file.name).symlink_to(file)
    (site / "native" / Path(compiled.__file__).name).symlink_to(compiled.__file__)
    for name in PACKAGES:
        (site / name).symlink_to(ROOT / name)
    (site / "muxtable.py").symlink_to(ROOT / "muxtable.py")
    return home / "env" / "bin" / "python"


def run(python: Path, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [python, *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_torch_is_not_there(python, tmp_path):
    done = run(python, "-c", "import torch", cwd=tmp_path)

    assert "No module named 'torch'" in done.stderr


def test_the_base_install_serves_and_looks_up(python, tmp_path):
    write_version(tmp_path / "versions", 1, "int8")
    script = (
        "import sys, json, muxtable, threading\n"
        "from pathlib import Path\n"
        "from serving.process import Service\n"
        "from serving.settings import ServeSettings\n"
        "service = Service(ServeSettings(directory=Path('versions'), port=0, health_port=0,"
        " metrics_port=0))\n"
        "address = f'127.0.0.1:{service.port}'\n"
        "with muxtable.Client(address) as client:\n"
        "    vector = client.lookup({'user': [7]})['user'][0].tolist()\n"
        "from launch.cli import run\n"
        "code = run(['lookup', '--server', address, 'user', '7', '--json'])\n"
        "service.drain()\n"
        "loaded = [name for name in ('torch', 'ray', 'faiss') if name in sys.modules]\n"
        "print(json.dumps({'code': code, 'vector': vector, 'loaded': loaded}))\n"
    )

    done = run(python, "-c", script, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    looked_up, said = (json.loads(line) for line in done.stdout.splitlines())
    assert said["code"] == 0
    assert said["loaded"] == []
    assert np.array_equal(looked_up["vector"], said["vector"])


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("serve", "--help"),
        ("versions", "versions", "--json"),
        ("hash", "--help"),
        ("lookup", "--help"),
        ("promote", "versions", "v-0000000001"),
    ],
)
def test_commands_that_need_no_torch_run_without_it(python, tmp_path, words):
    write_version(tmp_path / "versions", 1)

    done = run(python, "-m", "muxtable", *words, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
