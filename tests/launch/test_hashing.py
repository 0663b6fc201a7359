import pytest
import xxhash

from launch.cli import run
from tests.launch.command import muxtable

GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def slow_mix64(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def slow_rows(name: str, key: int, seed: int, lookups: int, rows: int, base: int) -> list[int]:
    """The page "From a value to its rows" of ARCHITECTURE.md, in plain integers."""
    hashed = xxhash.xxh64_intdigest(name.encode(), seed)
    salts = [slow_mix64((hashed + (k + 1) * GOLDEN) & MASK) for k in range(lookups)]
    return [base + (slow_mix64(key ^ salt) * rows >> 64) for salt in salts]


def test_integers_get_the_rows_of_the_specification():
    values = [0, 1, -1, 42, 2**63, 2**64 - 1, -(2**63)]
    options = ("--seed", 7, "--lookups", 3, "--rows", 1000003, "--base", 50)

    done = muxtable("hash", "user id", *values, *options, "--json")

    expected = [slow_rows("user id", value & MASK, 7, 3, 1000003, 50) for value in values]
    assert done.code == 0
    assert done.document == {"rows": expected}


def test_strings_get_the_rows_of_the_specification():
    values = ["", "a", "Grüße", "x" * 100, "42"]

    done = muxtable("hash", "city", *values, "--type", "string", "--rows", 2**33, "--json")

    keys = [xxhash.xxh64_intdigest(value.encode(), 0) for value in values]
    assert done.document == {"rows": [slow_rows("city", key, 0, 1, 2**33, 0) for key in keys]}


def test_null_comes_last_under_its_own_salt():
    done = muxtable("hash", "city", 5, "--null", "--rows", 999, "--lookups", 2, "--json")

    assert done.document["rows"][1] == slow_rows("city\0null", 0, 0, 2, 999, 0)


def test_a_person_gets_a_table(capsys):
    code = run(["hash", "user", "-5", "7", "--rows", "100", "--lookups", "2"])

    text = capsys.readouterr().out
    assert code == 0
    assert "lookup 1" in text
    assert "-5" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "1.5", "--rows", "9"], '"1.5" is no integer'),
        (["x", str(2**64), "--rows", "9"], "does not fit 64 bits"),
        (["x", "1", "--rows", "0"], "--rows"),
        (["", "1", "--rows", "9"], "no feature's name"),
        (["x", "1", "--rows", "9", "--type", "float"], "--type"),
    ],
)
def test_bad_values_are_refused(arguments, message, capsys):
    code = run(["hash", *arguments])

    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert captured.out == ""
