import json
import logging
import os
import urllib.request

import grpc
import numpy as np
import pytest

from features.errors import MuxtableError, NotFoundError
from serving.client import Client
from serving.wire import PARAMETER
from tests.launch.command import ROOT
from tests.serving.service import served
from tests.serving.small import write_version


def series(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if line and not line.startswith("#") and "_created" not in line
    }


def test_calls_and_promotions_are_counted(tmp_path):
    write_version(tmp_path, 1)
    with served(tmp_path, metrics_port=0) as service:
        with Client(f"127.0.0.1:{service.port}") as client:
            for _ in range(3):
                client.lookup({"user": [1]})
            with pytest.raises(NotFoundError):
                client.load("v-0000000009")
        found = series(service.metrics_port)

    assert found['muxtable_calls_total{code="OK",method="Lookup"}'] == 3
    assert found['muxtable_call_seconds_count{method="Lookup"}'] == 3
    assert found['muxtable_calls_total{code="NOT_FOUND",method="Load"}'] == 1
    assert found["muxtable_promotion"] == 1
    assert found["muxtable_versions_available"] == 1


def test_a_caller_makes_no_new_series(tmp_path):
    write_version(tmp_path, 1)
    rng = np.random.default_rng(0)
    with (
        served(tmp_path, metrics_port=0) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        names = []
        for turn in range(600):
            text = rng.integers(97, 123, 12).astype(np.uint8).tobytes().decode()
            path = f"{PARAMETER}Lookup" if turn % 2 else f"/muxtable.v1.{text}/{text}"
            data = b"\x0a\x0e\x0a\x0c" + text.encode()
            try:
                channel.unary_unary(path, None, None)(data, timeout=5)
            except grpc.RpcError:
                names.append(text)
            if turn == 100:
                before = set(series(service.metrics_port))
        after = set(series(service.metrics_port))

    assert after == before
    assert not any(name in line for name in names for line in after)


def test_failed_calls_are_in_the_access_log_and_tokens_are_not(tmp_path, capfd, caplog):
    write_version(tmp_path / "versions", 1)
    access = tmp_path / "access"
    access.write_text("read token secret-token-of-a-reader\n")
    caplog.set_level(logging.DEBUG)
    with served(tmp_path / "versions", access=access, access_log=1.0) as service:
        address = f"127.0.0.1:{service.port}"
        with Client(address, token="secret-token-of-a-reader") as client:
            client.lookup({"user": [1]})
        with Client(address, token="wrong-token-of-nobody") as client, pytest.raises(MuxtableError):
            client.lookup({"user": [1]})

    text = capfd.readouterr().err
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {(line["method"], line["code"]) for line in lines} >= {
        ("Lookup", "OK"),
        ("GetManifest", "UNAUTHENTICATED"),
    }
    assert "token-of" not in text + caplog.text


def test_the_dashboard_asks_for_series_that_there_are(tmp_path):
    write_version(tmp_path, 1)
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    with served(tmp_path, metrics_port=0) as service:
        with Client(f"127.0.0.1:{service.port}") as client:
            client.lookup({"user": [1]})
        known = {name.partition("{")[0] for name in series(service.metrics_port)}

    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert asked
    for expression in asked:
        words = expression.replace("(", " ").replace("{", " ").replace("[", " ").split()
        names = [word for word in words if word.startswith("muxtable_")]
        assert names
        assert set(names) <= known, os.linesep.join(sorted(known))
