import json
import platform

import pytest

from benchmarks import harness


def test_options_come_from_the_command_line():
    options = harness.start("kernel", "What it is.\n\nMore.", ["--quick", "--threads", "3"])

    assert options == harness.Options("kernel", quick=True, json=False, threads=3)


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--threads", "x"], ["--fast"]])
def test_wrong_options_end_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        harness.start("kernel", None, arguments)

    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_contenders_take_turns_in_both_orders_after_warming_up():
    calls = []

    times = harness.compare(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=1
    )

    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert set(times) == {"a", "b"}
    assert all(seconds >= 0 for seconds in times.values())


def test_json_is_one_object_with_the_agreed_keys(capsys):
    options = harness.Options("kernel", quick=False, json=True, threads=2)

    harness.finish(options, {"ours_vs_theirs": 2.5}, [{"batch": 2048, "speedup": 2.5}])

    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["name", "commit", "machine", "ratios", "rows"]
    assert result["ratios"] == {"ours_vs_theirs": 2.5}
    assert result["rows"] == [{"batch": 2048, "speedup": 2.5}]


def test_a_quick_run_says_that_it_was_one(capsys):
    harness.finish(harness.Options("kernel", quick=True, json=True, threads=2), {}, [])

    assert json.loads(capsys.readouterr().out)["quick"] is True


def test_a_person_gets_tables(capsys):
    options = harness.Options("kernel", quick=False, json=False, threads=2)

    harness.finish(options, {"ours_vs_theirs": 2.5}, [{"batch": 2048}, {"speedup": 1 / 3}])

    printed = capsys.readouterr().out
    assert all(text in printed for text in ("ours_vs_theirs", "2.5", "2048", "0.3333"))


def test_a_figure_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        harness.finish(harness.Options("x", False, True, 1), {"ratio": float("nan")}, [])


def test_the_machine_is_described_but_not_named():
    machine = harness.machine()

    assert machine["cores"] >= 1
    assert platform.node() not in json.dumps(machine)
