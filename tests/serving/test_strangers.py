"""Snapshots that somebody made to hurt, with every checksum right."""

import ast
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import MuxtableError
from serving.packing import packed
from serving.stubs import parameter_pb2 as pb
from serving.table import Limits, Stamp, Table
from storage.snapshot import open_snapshot
from tests.launch.command import ROOT
from tests.serving.small import table_of, write_version
from tests.storage.damage import edit, mutate, overwrite

STAMP = Stamp(version="v", digest=bytes(32), counter=1)


@pytest.fixture(scope="module", params=["int8", "pq:2x8"])
def version(tmp_path_factory, request):
    directory = tmp_path_factory.mktemp("strangers")
    return directory / write_version(directory, 1, request.param, rows=600)


def use(path):
    rows = table_of(10)
    columns = [packed(name, rows.column(name).combine_chunks()) for name in rows.column_names]
    try:
        with open_snapshot(path) as snapshot:
            Table(snapshot, Limits()).lookup(pb.LookupRequest(columns=columns), STAMP)
    except MuxtableError:
        return "refused"
    return "read"


def check_changed(version, data):
    manifest = version / "manifest.json"
    good = manifest.read_bytes()
    try:
        edit(version, lambda document: mutate(data, document["content"]))
        use(version)
    finally:
        overwrite(manifest, good)


QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(QUIET, max_examples=150)
@given(data=st.data())
def test_a_changed_description_is_served_soundly_or_refused(version, data):
    check_changed(version, data)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(QUIET, max_examples=50_000)
@given(data=st.data())
def test_a_hundred_thousand_changed_descriptions(version, data):
    check_changed(version, data)


def test_the_changes_reach_both_ends(version):
    manifest = version / "manifest.json"
    good = manifest.read_bytes()
    try:
        assert use(version) == "read"
        edit(version, lambda document: document["content"]["snapshot"].update(rows=7))
        assert use(version) == "refused"
    finally:
        overwrite(manifest, good)
    assert json.loads(good)["kind"] == "snapshot"


def test_the_service_holds_no_call_that_runs_what_it_reads():
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
    called = {"eval", "exec", "compile", "__import__"}

    files = [*ROOT.glob("serving/*.py"), *ROOT.glob("storage/**/*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & forbidden, file
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in called, file
            if isinstance(node, ast.keyword):
                assert node.arg not in ("allow_pickle", "shell"), file
    assert len(files) > 30
