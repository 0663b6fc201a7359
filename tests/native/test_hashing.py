import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from native import hashing, reference
from tests.native.arrays import available, instruction_set, spread

WORDS = st.integers(0, 2**64 - 1)
# Around every border the reduction has: 32 and 63 bits, and sizes that divide nothing.
SIZES = [1, 2, 100_000_007, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 13, 2**63 - 1]


def words(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, n, np.uint64)


def strings_of(texts):
    offsets = np.cumsum([0, *map(len, texts)])
    return offsets, np.frombuffer(b"".join(texts), np.uint8)


@given(st.lists(WORDS, max_size=40))
def test_mix_is_that_of_plain_integers(numbers):
    mixed = hashing.mix64(np.array(numbers, np.uint64))

    assert mixed.tolist() == [reference.mix64(x) for x in numbers]


@given(st.binary(max_size=200), WORDS)
def test_xxh64_is_that_of_the_package(data, seed):
    expected = xxhash.xxh64_intdigest(data, seed)

    assert hashing.xxh64(data, seed) == expected
    assert reference.xxh64(data, seed) == expected


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(texts=st.lists(st.binary(max_size=50), max_size=20), seed=WORDS)
def test_strings_hash_as_one_by_one(dtype, texts, seed):
    offsets, data = strings_of(texts)

    keys = hashing.hash_strings(offsets.astype(dtype), data, seed)

    assert keys.tolist() == [xxhash.xxh64_intdigest(text, seed) for text in texts]
    assert keys.tolist() == reference.hash_strings(offsets.tolist(), data.tobytes(), seed)


def test_a_slice_of_strings_starts_inside_the_data():
    offsets, data = strings_of([b"one", b"", b"three", b"a string of more than thirty-two bytes"])

    keys = hashing.hash_strings(offsets[2:].astype(np.int32), data)

    assert keys.tolist() == [
        xxhash.xxh64_intdigest(b"three"),
        xxhash.xxh64_intdigest(b"a string of more than thirty-two bytes"),
    ]


@pytest.mark.parametrize(
    "offsets", [[0, 4, 2, 6], [0, 7], [-1, 3], [3, 2], [0, 2**31 - 1], [5, -5, 6]]
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_offsets_that_fall_or_leave_the_data_are_refused(offsets, dtype):
    data = np.zeros(6, np.uint8)

    with pytest.raises(ValueError, match="offsets fall or leave the 6 bytes"):
        hashing.hash_strings(np.array(offsets, dtype), data)


def test_no_offsets_at_all_are_refused():
    with pytest.raises(ValueError, match="offsets is empty"):
        hashing.hash_strings(np.zeros(0, np.int32), np.zeros(0, np.uint8))


@given(st.text(max_size=20), st.integers(1, 5), WORDS)
def test_salts_are_those_of_plain_integers(name, num_lookups, hash_seed):
    salts = hashing.salts(name, num_lookups, hash_seed)

    assert salts.tolist() == reference.salts(name, num_lookups, hash_seed)


def test_salts_of_more_lookups_begin_with_those_of_fewer():
    assert hashing.salts("user", 5, 7)[:2].tolist() == hashing.salts("user", 2, 7).tolist()


@pytest.mark.parametrize("isa", available())
def test_a_cross_folds_its_parts_as_plain_integers(isa):
    parts = [words(37, seed) for seed in range(3)]
    acc, expected = np.zeros(37, np.uint64), np.zeros(37, np.uint64)

    with instruction_set(isa):
        for place, keys in enumerate(parts):
            hashing.combine_keys(acc, keys, place)

    for place, keys in enumerate(parts):
        reference.combine_keys(expected, keys, place)
    assert acc.tolist() == expected.tolist()


def hash_arguments(num_features, n, lookups, with_nulls, seed):
    rng = np.random.default_rng(seed)
    keys = words(num_features * n, seed).reshape(num_features, n)
    keys.reshape(-1)[: min(3, keys.size)] = np.array([0, 2**64 - 1, 2**63], np.uint64)[: keys.size]
    nulls = rng.integers(0, 2, (num_features, n)).astype(np.uint8) if with_nulls else None
    feature = rng.integers(0, num_features, lookups).astype(np.int32)
    sizes = np.array(SIZES)[rng.integers(0, len(SIZES), lookups)]
    bases = np.minimum(rng.integers(0, 2**40, lookups), 2**63 - 1 - sizes)
    return keys, nulls, feature, words(lookups, seed + 1), words(lookups, seed + 2), bases, sizes


@pytest.mark.parametrize("isa", available())
@given(
    num_features=st.integers(1, 4),
    n=st.integers(0, 40),
    lookups=st.integers(0, 8),
    with_nulls=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_rows_are_those_of_plain_integers(isa, num_features, n, lookups, with_nulls, threads, seed):
    arguments = hash_arguments(num_features, n, lookups, with_nulls, seed)
    out, expected = np.zeros((lookups, n), np.int64), np.zeros((lookups, n), np.int64)

    with instruction_set(isa):
        hashing.hash_rows(*arguments, out, threads)

    reference.hash_rows(*arguments, expected)
    assert out.tolist() == expected.tolist()


@pytest.mark.parametrize("size", SIZES)
def test_every_instruction_set_gives_the_same_rows_of_a_large_batch(size):
    n = 40_000
    keys = words(n).reshape(1, n)
    one = np.zeros(1, np.int64)
    results = []

    for isa in available():
        for threads in (1, 3):
            out = np.zeros((1, n), np.int64)
            with instruction_set(isa):
                hashing.hash_rows(
                    keys,
                    None,
                    np.zeros(1, np.int32),
                    words(1),
                    words(1),
                    one,
                    one + size,
                    out,
                    threads,
                )
            results.append(out)

    assert all(np.array_equal(results[0], other) for other in results)
    assert results[0].min() >= 0
    assert results[0].max() < size


def test_rows_may_lie_apart_in_every_matrix():
    keys, nulls, *rest = hash_arguments(3, 21, 5, True, seed=4)
    out, expected = np.full((5, 30), -7), np.zeros((5, 21), np.int64)

    hashing.hash_rows(spread(keys), spread(nulls, 5), *rest, out[:, 2:23])

    reference.hash_rows(keys, nulls, *rest, expected)
    assert np.array_equal(out[:, 2:23], expected)
    assert (out[:, :2] == -7).all()
    assert (out[:, 23:] == -7).all()


def test_a_null_reads_the_row_of_key_zero_under_the_null_salt():
    keys, nulls = np.array([[5, 0]], np.uint64), np.array([[1, 0]], np.uint8)
    salt, null_salt = words(1, 1), words(1, 2)
    place = [np.zeros(1, np.int32), salt, null_salt, np.array([10]), np.array([1000])]
    out = np.zeros((1, 2), np.int64)

    hashing.hash_rows(keys, nulls, *place, out)

    rows = [10 + reference.mulhi64(reference.mix64(int(s[0])), 1000) for s in (null_salt, salt)]
    assert out.tolist() == [rows]


def valid():
    return {
        "keys": np.zeros((2, 4), np.uint64),
        "nulls": np.zeros((2, 4), np.uint8),
        "feature": np.zeros(3, np.int32),
        "salts": np.zeros(3, np.uint64),
        "null_salts": np.zeros(3, np.uint64),
        "bases": np.zeros(3, np.int64),
        "sizes": np.ones(3, np.int64),
        "out": np.zeros((3, 4), np.int64),
    }


@pytest.mark.parametrize("name", list(valid()))
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_other_types_are_refused_and_never_converted(name, dtype):
    arguments = valid()
    arguments[name] = arguments[name].astype(dtype)

    with pytest.raises(TypeError, match=f"{name} holds"):
        hashing.hash_rows(**arguments)


@pytest.mark.parametrize("name", list(valid()))
def test_other_lengths_are_refused(name):
    arguments = valid()
    if name == "keys":
        arguments["nulls"] = None
    arguments[name] = arguments[name][..., :-1].copy()

    with pytest.raises(ValueError, match="length"):
        hashing.hash_rows(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"feature": np.array([0, 2, 0], np.int32)}, IndexError, r"feature\[1\] is 2, keys has 2"),
        ({"feature": np.array([0, 0, -1], np.int32)}, IndexError, r"feature\[2\] is -1"),
        ({"sizes": np.array([1, 0, 1])}, ValueError, r"sizes\[1\] is 0"),
        ({"bases": np.array([-1, 0, 0])}, ValueError, r"bases\[0\] is -1"),
        ({"bases": np.array([2**63 - 1, 0, 0])}, ValueError, r"sizes\[0\] is 1"),
        ({"threads": 0}, ValueError, "threads is 0"),
        ({"keys": np.zeros((2, 8), np.uint64)[:, ::2]}, ValueError, "keys has gaps"),
        ({"out": np.zeros((4, 3), np.int64).T}, ValueError, "out has gaps"),
    ],
)
def test_numbers_that_lead_nowhere_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        hashing.hash_rows(**{**valid(), **change})


@given(
    values=st.sets(WORDS, max_size=40),
    keys=st.lists(WORDS, max_size=20),
    num_lookups=st.integers(1, 3),
    base=st.integers(0, 1000),
    seed=st.integers(0, 2**32),
)
def test_exact_rows_are_places_in_the_vocabulary(values, keys, num_lookups, base, seed):
    vocabulary = np.array(sorted(values), np.uint64)
    keys = np.array([*keys, *sorted(values)], np.uint64)
    nulls = np.random.default_rng(seed).integers(0, 2, len(keys)).astype(np.uint8)
    out = np.zeros((num_lookups, len(keys)), np.int64)
    expected = np.zeros_like(out)

    hashing.exact_rows(keys, nulls, vocabulary, base, num_lookups, out)

    reference.exact_rows(keys, nulls, vocabulary, base, num_lookups, expected)
    assert out.tolist() == expected.tolist()


def test_exact_rows_know_seen_unseen_and_null():
    vocabulary = np.array([3, 8, 2**63], np.uint64)
    keys, nulls = np.array([8, 9, 8, 2**63], np.uint64), np.array([0, 0, 1, 0], np.uint8)
    out = np.zeros((2, 4), np.int64)

    hashing.exact_rows(keys, nulls, vocabulary, 100, 2, out)

    assert out.tolist() == [[102, 106, 108, 104], [103, 107, 109, 105]]


@given(st.lists(WORDS, max_size=20), st.lists(WORDS, max_size=20))
def test_a_vocabulary_out_of_order_leads_to_no_row_outside_the_region(vocabulary, keys):
    keys = np.array([*keys, *vocabulary], np.uint64)
    out = np.zeros((2, len(keys)), np.int64)

    hashing.exact_rows(keys, None, np.array(vocabulary, np.uint64), 100, 2, out)

    assert ((out >= 100) & (out < 100 + 2 * (len(vocabulary) + 2))).all()


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint32])
def test_keys_of_another_type_are_refused(dtype):
    wrong = np.zeros(4, dtype)

    with pytest.raises(TypeError, match="x holds"):
        hashing.mix64(wrong)
    with pytest.raises(TypeError, match="keys holds"):
        hashing.combine_keys(np.zeros(4, np.uint64), wrong, 0)
    with pytest.raises(TypeError, match="keys holds"):
        hashing.exact_rows(wrong, None, np.zeros(0, np.uint64), 0, 1, np.zeros((1, 4), np.int64))


def test_a_vector_with_gaps_is_refused():
    with pytest.raises(ValueError, match="x has gaps"):
        hashing.mix64(np.zeros(8, np.uint64)[::2])


def test_read_only_keys_are_read_and_a_read_only_result_is_refused():
    keys = words(4)
    keys.flags.writeable = False

    assert hashing.mix64(keys).shape == (4,)
    with pytest.raises(ValueError, match="acc is read-only"):
        hashing.combine_keys(keys, keys, 0)


def test_a_misaligned_vector_is_refused():
    with pytest.raises(ValueError, match="x does not lie at a multiple"):
        hashing.mix64(np.zeros(33, np.uint8)[1:].view(np.uint64))
