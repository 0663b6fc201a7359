import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import CodecError
from storage.codecs import (
    EXAMPLES,
    Codec,
    ErrorSum,
    codec_from_json,
    codec_named,
    sample_rows,
)

ROOT = Path(__file__).resolve().parents[2]
BOUNDED = ("float32", "float16", "bfloat16", "int8", "int4", "int2", "float8", "prefix:2+int4")
LEARNED = ("pq:8x8", "opq:8x8", "pca:16+int8", "pca:16+float8", "prefix:1+pq:4x8")


def table(num_rows=700, width=32, seed=0):
    """Rows whose values go together and whose norms differ, as trained ones are."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(num_rows, width)) @ (
        rng.normal(size=(width, width)) * 0.9 ** np.arange(width)
    )
    return (mixed * rng.lognormal(size=(num_rows, 1)) * 0.01).astype(np.float32)


@pytest.fixture(scope="module")
def codecs():
    """One codec for each kind, the learned ones trained."""
    rows = table()
    return {text: codec_named(text)(32, rows) for text in (*EXAMPLES, *LEARNED, *BOUNDED)}


ROW = {
    "finite": st.floats(-60_000, 60_000, width=32),
    "small": st.floats(-(2.0**-100), 2.0**-100, width=32),
    "unit": st.floats(-1, 1, width=32),
}


@st.composite
def some_rows(draw):
    width = draw(st.integers(1, 33))
    value = ROW[draw(st.sampled_from(sorted(ROW)))]
    row = st.lists(value, min_size=width, max_size=width)
    return np.array(draw(st.lists(row, min_size=1, max_size=8)), np.float32)


def check_bound(text, rows):
    codec = codec_named(text)(rows.shape[1])

    decoded = codec.decode(codec.encode(rows))

    off = np.abs(decoded.astype(np.float64) - rows).max(axis=1)
    assert (off <= codec.error_bounds(rows)).all()


@given(some_rows())
@pytest.mark.parametrize("text", BOUNDED)
def test_no_value_is_off_by_more_than_the_stated_bound(text, rows):
    check_bound(text, rows)


@pytest.mark.parametrize("text", BOUNDED)
def test_the_bound_holds_for_constant_rows(text):
    constants = [0, -0.0, 1, -3.3, 0.1, 1e-40, 1.4e-45, 65504, -65504, 2.0**-24, 5.96e-8]

    check_bound(text, np.repeat(np.array(constants, np.float32)[:, None], 9, axis=1))


def test_a_codec_states_a_bound_or_leaves_it_to_be_measured(codecs):
    rows = table(10)

    for codec in codecs.values():
        assert (codec.bound is None) == (codec.error_bounds(rows) is None)


@given(some_rows(), st.integers(0, 7))
def test_planes_decode_to_finite_rows_of_the_same_norm(rows, refinements):
    codec = codec_named(f"binary:{refinements}")(rows.shape[1])

    decoded = codec.decode(codec.encode(rows)).astype(np.float64)

    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    off = np.abs(np.linalg.norm(decoded, axis=1) - norms)
    assert (off <= norms * 2.0**-10 + 1e-6 * rows.shape[1]).all()


@pytest.mark.parametrize("text", ["float32", "bfloat16", "int8", "float8"])
def test_the_bound_holds_up_to_huge_norms(text):
    rng = np.random.default_rng(0)
    rows = np.clip(rng.normal(size=(500, 8)) * 2.0**99, -(2.0**100), 2.0**100).astype(np.float32)
    codec = codec_named(text)(8)

    decoded = codec.decode(codec.encode(rows))

    assert np.isfinite(decoded).all()
    assert (np.abs(decoded.astype(np.float64) - rows).max(axis=1) <= codec.error_bounds(rows)).all()


@pytest.mark.parametrize("text", [*EXAMPLES, *LEARNED])
def test_a_value_that_is_not_finite_is_refused_by_its_row(text, codecs):
    for value in (np.nan, np.inf, -np.inf):
        rows = table(50)
        rows[17, 5] = value

        with pytest.raises(CodecError, match=r"row 1017 holds a NaN or an infinity") as caught:
            codecs[text].encode(rows, first_row=1000)
        assert text in str(caught.value)


@pytest.mark.parametrize("text", ["float16", "int4", "int2", "binary:3"])
def test_a_value_beyond_float16_is_refused_by_its_row(text, codecs):
    rows = table(50)
    rows[3, 0] = 1e6

    with pytest.raises(CodecError, match=r"row 3 holds 1e\+06, and the codec takes values up to"):
        codecs[text].encode(rows)


@pytest.mark.parametrize("text", [*EXAMPLES, *LEARNED])
def test_coded_rows_are_gathered_as_they_are_decoded(text, codecs):
    codec, rows = codecs[text], table()
    raw = codec.encode(rows)
    order = np.random.default_rng(0).integers(0, len(rows), 5000)

    gathered = codec.gather(raw, order, threads=2)

    assert raw.shape == (len(rows), codec.row_bytes)
    assert np.array_equal(gathered, codec.decode(raw, threads=2)[order])
    out = np.zeros((5000, 64), np.float32)
    codec.gather(raw, order, out[:, 32:])
    assert np.array_equal(out[:, 32:], gathered)


@pytest.mark.parametrize("text", [*EXAMPLES, *LEARNED])
def test_rows_coded_in_blocks_are_those_coded_at_once(text, codecs):
    codec, rows = codecs[text], table(9000)

    whole = codec.encode(rows, threads=2)
    parts = [codec.encode(rows[first : first + 700]) for first in range(0, 9000, 700)]

    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("text", [*EXAMPLES, *LEARNED])
def test_a_codec_comes_back_out_of_a_manifest(text, codecs):
    codec, rows = codecs[text], table(100)
    tree = json.loads(json.dumps(codec.to_json()))
    arrays = {name: array.copy() for name, array in codec.shared().items()}

    again = codec_from_json(tree, arrays)

    assert again.text == codec.text == text
    assert again.row_bytes == codec.row_bytes
    assert again.matches(codec)
    assert np.array_equal(again.encode(rows), codec.encode(rows))
    assert np.array_equal(again.decode(codec.encode(rows)), codec.decode(codec.encode(rows)))


def test_codecs_of_other_codebooks_do_not_match(codecs):
    other = codec_named("pq:8x8")(32, table(seed=1))

    assert not other.matches(codecs["pq:8x8"])
    assert not codecs["int8"].matches(codecs["int4"])
    assert not codecs["prefix:1+int8"].matches(codecs["int8"])


@pytest.mark.parametrize("text", [*EXAMPLES, *LEARNED])
def test_a_damaged_object_of_a_manifest_is_refused(text, codecs):
    whole, arrays = codecs[text].to_json(), codecs[text].shared()
    for key in whole:
        for value in (None, "x", -3, 10**9, [], {}):
            tree = copy.deepcopy(whole)
            tree[key] = value
            with pytest.raises(CodecError):
                codec_from_json(tree, arrays)
        missing = {name: value for name, value in whole.items() if name != key}
        with pytest.raises(CodecError):
            codec_from_json(missing, arrays)
    with pytest.raises(CodecError):
        codec_from_json({**whole, "more": 1}, arrays)
    for name in arrays:
        for wrong in (
            None,
            arrays[name][:-1],
            arrays[name].astype(np.float64),
            arrays[name] * np.nan,
        ):
            with pytest.raises(CodecError, match=name):
                codec_from_json(whole, {**arrays, name: wrong})


def test_a_codec_of_a_later_version_is_refused_by_name():
    with pytest.raises(CodecError, match="codec 'int1', which this version does not know"):
        codec_from_json({"name": "int1", "width": 4}, {})


@pytest.mark.parametrize(
    "text",
    [
        *("", "int", "int9", "int8:", "int8:3", "int8+int8", "pq", "pq:8", "pq:8x4", "pq:x8"),
        *("pq:-8x8", "pca:16", "pca:16+", "pca:16+pq:8x8", "pca:x+int8", "pca:4+prefix:1+int8"),
        *("prefix:1", "prefix:x+int8", "prefix:1+prefix:1+int8", "binary", "binary:x"),
        *("binary:3+int8", "INT8", " int8", "pq:99999999999x8"),
    ],
)
def test_a_text_that_names_no_codec_is_refused(text):
    with pytest.raises(CodecError, match="codec") as caught:
        codec_named(text)

    assert caught.value.fix


def test_the_nearest_codec_is_suggested():
    with pytest.raises(CodecError, match='did you mean "int8"'):
        codec_named("int-8")


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("pq:5x8", "take one of 1, 2, 4, 8, 16, 32 parts"),
        ("pq:0x8", "take one of"),
        ("opq:64x8", "take one of"),
        ("pca:33+int8", "give 1 to 32 coordinates"),
        ("pca:0+int8", "give 1 to 32 coordinates"),
        ("binary:8", "give 0 to 7"),
        ("prefix:0+int8", "give 1 to 64 lookups"),
        ("prefix:65+int8", "give 1 to 64 lookups"),
    ],
)
def test_a_codec_that_does_not_suit_the_width_says_what_does(text, fix):
    with pytest.raises(CodecError, match=fix):
        codec_named(text)(32, table(300))


def test_a_learned_codec_asks_for_rows(codecs):
    for text in LEARNED:
        factory = codec_named(text)
        assert factory.learns
        with pytest.raises(CodecError, match="trained on rows, and there are none"):
            factory(32)
        with pytest.raises(CodecError, match="expected float32"):
            factory(32, np.empty((0, 32), np.float32))
        broken = table(300)
        broken[7, 7] = np.nan
        with pytest.raises(CodecError, match="row 7 of the sample"):
            factory(32, broken)
    assert not any(codec_named(text).learns for text in BOUNDED)


def test_few_rows_are_enough_to_learn_from(capfd):
    rows = table(3)

    for text in LEARNED:
        assert np.isfinite(
            codec_named(text)(32, rows).decode(codec_named(text)(32, rows).encode(rows))
        ).all()
    exact = codec_named("pq:8x8")(32, rows)

    assert exact.measure(rows).relative < 1e-6
    assert capfd.readouterr() == ("", "")


def test_rows_of_another_width_or_type_are_refused(codecs):
    for codec in codecs.values():
        with pytest.raises(
            CodecError, match=r"rows are float32\[5, 31\], expected float32\[n, 32\]"
        ):
            codec.encode(np.zeros((5, 31), np.float32))
        with pytest.raises(CodecError, match="rows are float64"):
            codec.encode(np.zeros((5, 32)))
        with pytest.raises(CodecError, match="decode with the codec and the width"):
            codec.decode(np.zeros((5, codec.row_bytes + 1), np.uint8))
        with pytest.raises(CodecError, match="decode with the codec and the width"):
            codec.gather(np.zeros((5, codec.row_bytes + 1), np.uint8), np.zeros(1, np.int64))
        with pytest.raises(IndexError):
            codec.gather(np.zeros((5, codec.row_bytes), np.uint8), np.array([5]))
        assert codec.decode(codec.encode(np.empty((0, 32), np.float32))).shape == (0, 32)


def test_sizes_are_those_of_the_formats():
    sizes = {text: codec_named(text)(32, table(300)).row_bytes for text in EXAMPLES}

    assert sizes == {
        "float32": 128,
        "float16": 64,
        "bfloat16": 64,
        "int8": 40,
        "int4": 20,
        "int2": 12,
        "float8": 36,
        "binary:3": 21,
        "pq:8x8": 8,
        "opq:8x8": 8,
        "pca:16+int8": 24,
        "pca:16+float8": 20,
        "prefix:1+int8": 40,
    }


def test_errors_on_normal_rows_are_those_known():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(20_000, 32)) * 0.05).astype(np.float32)

    errors = {text: codec_named(text)(32).measure(rows).relative for text in BOUNDED[:-1]}

    assert errors["float32"] == 0
    assert errors["int8"] <= 5e-3
    assert errors["int4"] <= 8e-2
    assert errors["float8"] <= 2.5e-2
    assert errors["float16"] < errors["bfloat16"] < errors["int8"] < errors["float8"]


def test_each_refinement_of_binary_lowers_the_error_and_keeps_the_norm():
    rows, errors = table(), []

    for refinements in range(8):
        codec = codec_named(f"binary:{refinements}")(32)
        decoded = codec.decode(codec.encode(rows))
        errors.append(codec.measure(rows).relative)

        norms = np.linalg.norm(decoded, axis=1) / np.linalg.norm(rows, axis=1)
        assert np.abs(norms - 1).max() < 1e-3

    assert errors == sorted(errors, reverse=True)
    assert errors[7] < errors[0] / 3


def test_a_rotation_and_a_basis_pay_where_values_go_together(codecs):
    rows = table(seed=5)

    assert codecs["opq:8x8"].measure(rows).relative < codecs["pq:8x8"].measure(rows).relative
    assert codecs["pca:16+int8"].measure(rows).relative < 0.5
    whole = codec_named("pca:32+float32")(32, table())
    assert whole.measure(rows).relative < 1e-6


def test_the_basis_is_that_of_the_principal_components(codecs):
    rows = table().astype(np.float64)
    _, values, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)

    basis = codecs["pca:16+int8"].shared()["basis"]

    assert values[15] > values[16]
    assert np.allclose(np.abs((basis * directions[:16]).sum(axis=1)), 1, atol=1e-4)
    assert np.allclose(basis @ basis.T, np.eye(16), atol=1e-6)


def test_codes_of_the_product_codecs_are_those_of_faiss(codecs):
    faiss = pytest.importorskip("faiss")
    codec, rows = codecs["pq:8x8"], table(seed=3)
    quantiser = faiss.ProductQuantizer(32, 8, 8)
    faiss.copy_array_to_vector(codec.shared()["codebook"].ravel(), quantiser.centroids)

    raw = codec.encode(rows)

    # Distances that differ in the last digit may choose another entry.
    assert (raw == quantiser.compute_codes(rows)).mean() > 0.999
    assert np.array_equal(codec.decode(raw), quantiser.decode(raw))


def test_prefix_says_how_many_lookups_are_served(codecs):
    assert codecs["prefix:2+int4"].lookups == 2
    assert codecs["int8"].lookups is None


def test_errors_add_up_over_blocks():
    rows, total = table(1000), ErrorSum()
    codec = codec_named("int4")(32)
    for first in range(0, 1000, 300):
        block = rows[first : first + 300]
        total.add(block, codec.decode(codec.encode(block)))

    measured, at_once = total.result(), codec.measure(rows)
    decoded = codec.decode(codec.encode(rows))

    assert measured.relative == pytest.approx(at_once.relative, rel=1e-12)
    assert measured.relative == pytest.approx(
        np.linalg.norm(decoded - rows) / np.linalg.norm(rows), rel=1e-4
    )
    assert measured.largest == np.abs(decoded.astype(np.float64) - rows).max()
    assert ErrorSum().result().relative == 0


def test_sampled_rows_are_spread_over_the_table():
    assert sample_rows(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert sample_rows(10, 4).tolist() == [0, 2, 5, 7]
    assert sample_rows(0).tolist() == []


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FIT = """
import hashlib, numpy as np
from storage.codecs import codec_named
rows = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
for text in ("pq:4x8", "opq:2x8", "pca:4+int8"):
    codec = codec_named(text)(8, rows)
    parts = [codec.encode(rows), *codec.shared().values()]
    print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


def test_what_is_learned_does_not_depend_on_the_number_of_threads():
    pytest.importorskip("faiss")

    one = run(FIT, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    two = run(FIT, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2")

    assert one == two


WITHOUT = """
import sys, json, numpy as np
sys.modules["faiss"] = sys.modules["torch"] = None
from features.errors import CodecError
from storage.codecs import codec_from_json, codec_named
with np.load(sys.argv[1]) as arrays:
    shared = {name: arrays[name] for name in ("codebook", "rotation")}
    codec = codec_from_json(json.loads(str(arrays["tree"])), shared)
    assert np.array_equal(codec.decode(arrays["raw"]), arrays["values"])
try:
    codec_named("pq:4x8")(32, arrays_rows := np.ones((300, 32), np.float32))
except CodecError as error:
    print(error)
"""


def test_product_codes_are_served_without_faiss(codecs, tmp_path):
    codec, rows = codecs["opq:8x8"], table(100)
    raw = codec.encode(rows)
    tree = json.dumps(codec.to_json())
    np.savez(tmp_path / "x.npz", tree=tree, raw=raw, values=codec.decode(raw), **codec.shared())

    code = WITHOUT.replace("sys.argv[1]", repr(str(tmp_path / "x.npz")))

    assert "pip install faiss-cpu" in run(code)


def test_every_codec_is_a_frozen_value(codecs):
    for codec in codecs.values():
        assert isinstance(codec, Codec)
        with pytest.raises(AttributeError):
            codec.width = 3


def golden_floats(text, *shape):
    return np.frombuffer(bytes.fromhex(text), "<f4").reshape(shape)


def test_bytes_and_values_are_those_of_the_golden_file():
    golden = json.loads((ROOT / "tests" / "golden" / "codecs.json").read_text())
    rows = np.stack([golden_floats(row, -1) for row in golden["rows"]])
    arrays = {
        name: golden_floats(array["data"], *array["shape"])
        for name, array in golden["shared"].items()
    }

    for case in golden["cases"]:
        codec = codec_from_json(case["codec"], {name: arrays[name] for name in case["shared"]})
        raw = codec.encode(rows)
        values = codec.decode(raw)

        assert [row.tobytes().hex() for row in raw] == case["raw"], codec.text
        assert [row.tobytes().hex() for row in values] == case["values"], codec.text
    assert {case["codec"]["name"] for case in golden["cases"]} == {
        codec_named(text).name for text in EXAMPLES
    }
