import socket
import stat
from pathlib import Path

import pytest

from features.errors import ConfigError
from launch.cluster import access

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path) -> None:
    for name in (*VARIABLES, *access.ENVIRONMENT):
        # Set before it is deleted, so that what the code under test sets is taken back too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_cluster_of_our_own_gets_a_token_that_only_we_can_read(tmp_path):
    access.prepare(tmp_path)

    path = tmp_path / "token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert access.find_token() == path.read_text()
    assert len(path.read_text()) == 64


def test_a_token_that_is_there_is_used(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("secret\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))

    access.prepare(tmp_path)

    assert access.find_token() == "secret"
    assert not (tmp_path / "token").exists()


def test_without_a_token_no_cluster_is_joined():
    with pytest.raises(ConfigError, match="there is no token"):
        access.prepare(None)


def test_a_token_file_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))

    with pytest.raises(ConfigError, match=r"gone cannot be read: No such file"):
        access.prepare(None)


def test_authentication_cannot_be_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    with pytest.raises(ConfigError, match="RAY_AUTH_MODE is disabled"):
        access.prepare(tmp_path)


def test_an_old_ray_is_refused(monkeypatch):
    monkeypatch.setattr(access, "OLDEST_RAY", (99, 0))

    with pytest.raises(ConfigError, match=r"before 99\.0 a Parquet file could run code"):
        access.check_release()


@pytest.mark.parametrize("address", ["http://h:1", "ray://h:10001", "host", "host:port", ":1", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="is not the address of a Ray head"):
        access.check_address(address)


def test_where_nothing_listens_the_answer_comes_at_once():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address}: .*refused"):
        access.check_address(address)


def test_what_listens_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(access, "_ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(ConfigError, match="no Ray cluster answers"):
            access.check_address(address)


def test_no_other_package_imports_ray():
    root = Path(__file__).resolve().parents[2]
    packages = ("native", "features", "storage", "sharding", "trainer", "launch")

    importing = {
        path.relative_to(root).as_posix()
        for package in packages
        for path in (root / package).rglob("*.py")
        if any(
            line.strip().startswith(("import ray", "from ray"))
            for line in path.read_text().splitlines()
        )
    }

    assert importing
    assert all(name.startswith("launch/cluster/") for name in importing)
