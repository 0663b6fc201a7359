"""Checkpoints in an object store: the promises of a directory, on a real S3 server."""

import logging
import os
from collections.abc import Iterator

import numpy as np
import pytest

from features.errors import MuxtableError, SnapshotError
from sharding.ranks import Ranks
from storage.bundle import open_bundle
from storage.chain import open_checkpoint
from storage.names import MANIFEST
from storage.objects import ObjectStore
from storage.places import ObjectPath
from storage.pointer import POINTER
from tests.ranks import run_ranks
from tests.storage.s3 import VARIABLES, objects, s3_server
from tests.trainer.test_deltas import check, train
from trainer.checkpoint import CheckpointStore, latest_checkpoint


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def place(request) -> ObjectPath:
    return ObjectPath("bucket", f"runs/{request.node.name}")


def tensors(step: int) -> dict[str, np.ndarray]:
    return {"weight": np.full((100, 3), step, np.float32), "large": np.full(400_000, step)}


def save(store: CheckpointStore, step: int, best: bool = False):
    return store.save(step, {}, tensors(step), {"p.json": b"{}"}, {"at": step}, best)


def state(place: ObjectPath) -> int | None:
    """Returns the step in force, verified and equal to what was saved."""
    checkpoint = latest_checkpoint(place)
    if checkpoint is None:
        return None
    step = checkpoint.content["at"]
    for name, array in tensors(step).items():
        np.testing.assert_array_equal(checkpoint.tensor(name), array)
    assert checkpoint.file("p.json") == b"{}"
    return step


def test_a_save_is_found_again_and_old_ones_go(place):
    assert state(place) is None
    with CheckpointStore(place, 2) as store:
        assert store.latest() is None
        names = [save(store, step, best=step == 2).name for step in (1, 2, 3, 4, 4)]

    assert names[0] == "step-0000000001-1000"
    assert names[3:] == ["step-0000000004-1000", "step-0000000004-1001"]
    assert state(place) == 4
    assert ObjectStore.at_hand().folders(place) == [names[1], *names[3:]]
    with CheckpointStore(place, 2) as store:
        assert save(store, 5).name == "step-0000000005-2000"
    assert state(place) == 5


def test_an_older_process_can_not_commit_once_a_newer_started(place):
    older = CheckpointStore(place, 9, "older")
    save(older, 1)
    newer = CheckpointStore(place, 9, "newer")

    with pytest.raises(SnapshotError, match=r'"older".*"newer" has taken it over'):
        save(older, 2)

    assert state(place) == 1
    save(newer, 3)
    with pytest.raises(SnapshotError, match="taken it over"):
        save(older, 4)
    assert state(place) == 3
    assert len(ObjectStore.at_hand().folders(place)) == 2


def test_a_newer_process_may_start_at_the_last_moment_before_a_commit(place, monkeypatch):
    older = CheckpointStore(place, 9, "older")
    save(older, 1)
    replace = type(older._depot).replace
    started = []

    def late(self, document, etag):
        if document["attempt"] == "older" and not started:
            started.append(CheckpointStore(place, 9, "newer"))
        return replace(self, document, etag)

    monkeypatch.setattr(type(older._depot), "replace", late)
    with pytest.raises(SnapshotError, match="taken it over"):
        save(older, 2)

    assert started
    assert state(place) == 1
    assert len(ObjectStore.at_hand().folders(place)) == 1


class Crash(BaseException):
    """The process is dead from here on."""


def crash_at(monkeypatch, at: int) -> list[str]:
    """Makes the at-th call that changes the store die; an object may be left cut short."""
    calls: list[str] = []

    def watched(name: str):
        original = getattr(ObjectStore, name)

        def call(self, path, *arguments):
            calls.append(name)
            if len(calls) > at:
                if len(calls) == at + 1 and name == "write":
                    original(self, path, iter([memoryview(b"cut short")]))
                raise Crash
            return original(self, path, *arguments)

        return call

    for name in ("write", "put_if", "remove"):
        monkeypatch.setattr(ObjectStore, name, watched(name))
    return calls


def test_a_process_that_stops_at_any_call_leaves_the_old_or_the_new_checkpoint(place):
    seen = []
    for at in range(99):
        root = place / f"{at}"
        with CheckpointStore(root, 1, threads=1) as store:
            save(store, 1)
        with pytest.MonkeyPatch.context() as patch:
            calls = crash_at(patch, at)
            try:
                with CheckpointStore(root, 1, threads=1) as store:
                    save(store, 2)
            except Crash:
                pass
        if len(calls) <= at:
            break
        seen.append(state(root))
        with CheckpointStore(root, 1, threads=1) as store:
            assert state(root) == seen[-1]
            save(store, 3)
        assert state(root) == 3
        assert len(ObjectStore.at_hand().folders(root)) == 1, at

    assert len(seen) >= 8
    assert set(seen) == {1, 2}
    assert seen == sorted(seen)


def test_a_server_that_ignores_conditions_is_refused(place, monkeypatch):
    put_if = ObjectStore.put_if

    def careless(self, path, data, etag):
        found = self.read(path)
        return put_if(self, path, data, found[1] if found else None)

    monkeypatch.setattr(ObjectStore, "put_if", careless)

    with pytest.raises(SnapshotError, match="ignores the conditions"):
        CheckpointStore(place, 1)


def test_a_lost_answer_of_a_put_that_happened_is_no_failure(place, monkeypatch):
    import storage.objects as module

    send = module.send
    lost = []

    def losing(account, method, path, headers, body=b"", **options):
        answer = send(account, method, path, headers, body, **options)
        if method == "PUT" and answer.status == 200 and len(lost) < 5:
            lost.append(path)
            raise ConnectionResetError
        return answer

    with CheckpointStore(place, 9) as store:
        monkeypatch.setattr(module, "send", losing)
        for step in (1, 2, 3):
            save(store, step)
            assert state(place) == step

    assert len(lost) == 5


def test_every_object_that_is_changed_cut_or_missing_is_refused_by_name(place, caplog):
    with CheckpointStore(place, 9) as store:
        for step in (1, 2):
            save(store, step)
    held = ObjectStore.at_hand()
    newest = place / "step-0000000002-1000"
    names = sorted(held.sizes(newest))

    for name in names:
        good = held.read(newest / name)[0]
        for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], good + b"x"):
            held.write(newest / name, iter([memoryview(bad)]))
            with pytest.raises(SnapshotError, match=name):
                latest_checkpoint(place)
        held.remove(newest / name)
        with pytest.raises(SnapshotError, match=newest.name):
            latest_checkpoint(place)
        with caplog.at_level(logging.WARNING):
            assert latest_checkpoint(place, fallback=True).content["at"] == 1
        held.write(newest / name, iter([memoryview(good)]))

    assert len(names) == 4
    held.write(newest / "foreign", iter([memoryview(b"x")]))
    with pytest.raises(SnapshotError, match=r"foreign.*does not name it"):
        latest_checkpoint(place)
    held.remove(newest / "foreign")
    assert state(place) == 2
    held.remove(place / POINTER)
    with pytest.raises(SnapshotError, match=r"CURRENT.*missing, but checkpoints are there"):
        latest_checkpoint(place)


def test_rows_are_read_in_ranges_and_checked_as_they_come(place):
    with CheckpointStore(place, 9) as store:
        name = save(store, 1).name
    with open_bundle(place / name, "lazy") as bundle:
        np.testing.assert_array_equal(bundle.read_rows("large", 399_990, 400_000), np.full(10, 1))
        file = bundle.entry("large").parts[0].file
    held = ObjectStore.at_hand()
    data = bytearray(held.read(place / name / file)[0])
    data[5000] ^= 1
    held.write(place / name / file, iter([memoryview(data)]))

    with open_bundle(place / name, "lazy") as bundle:
        bundle.read_rows("large", 399_990, 400_000)
        with pytest.raises(SnapshotError, match=f"{file}.*crc32 of MiB 0"):
            bundle.read_rows("large", 0, 10)


def test_deltas_lie_in_an_object_store_too(place):
    told = train(Ranks.alone(), place, 2, [1, 2, 3, 4], 60)

    assert [base and base[:15] for _, base, _ in told] == [
        None,
        "step-0000000001",
        "step-0000000001",
        None,
    ]
    check(place, 4, 60)
    with open_checkpoint(place / told[2][0]) as checkpoint:
        assert checkpoint.base is not None


def train_there(ranks, place: ObjectPath, variables: dict[str, str], steps: list[int]):
    os.environ |= variables
    return train(ranks, place, 9, steps, 100)


def test_several_ranks_write_and_read_there(place):
    variables = {name: os.environ[name] for name in VARIABLES}

    told = run_ranks(3, train_there, place, variables, [1, 2])
    assert told[0] == told[1] == told[2]
    check(place, 2, 100)
    run_ranks(2, train_there, place, variables, [3])
    check(place, 3, 100)
    files = objects(place / told[0][0][0])
    assert {name[:5] for name in files} == {"00000", "r0001", "r0002", MANIFEST[:5]}


def open_without_credentials(ranks, place: ObjectPath, variables: dict[str, str]) -> str:
    if ranks.is_first:
        os.environ |= variables
    else:
        for name in VARIABLES:
            os.environ.pop(name, None)
    try:
        CheckpointStore(place, 1, ranks=ranks)
    except MuxtableError as exc:
        return exc.what
    return "opened"


def test_a_rank_without_credentials_is_found_out_before_training(place):
    variables = {name: os.environ[name] for name in VARIABLES}

    told = run_ranks(2, open_without_credentials, place, variables)

    assert all("s3:// needs credentials" in each for each in told)


def test_a_server_that_is_not_there_is_told(place, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(SnapshotError, match=r'cannot read CURRENT in "s3://bucket/runs'):
        CheckpointStore(place, 1)
