import decimal

import pyarrow as pa
import pytest

from features.errors import DataError
from features.labels import labels_of, weights_of


@pytest.mark.parametrize(
    "array",
    [
        pa.array([True, False, True]),
        pa.array([1, 0, 1], pa.uint64()),
        pa.array([1.0, 0.0, 1.0], pa.float16()),
        pa.array([1, 0, 1]).dictionary_encode(),
        pa.chunked_array([[1.0], [0.0, 1.0]]),
        pa.array([9, 1, 0, 1, 9], pa.int8()).slice(1, 3),
        pa.array([decimal.Decimal(value) for value in ("1.0", "0.0", "1.0")]),
    ],
)
def test_labels_of_any_numeric_type_are_zeros_and_ones(array):
    labels = labels_of(array, "click", "f.parquet")

    assert labels.dtype == "float32"
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (pa.array([0, 1, 2]), "is 2 in row 2, not 0 or 1"),
        (pa.array([0.0, float("nan")]), "is no number in row 1"),
        (pa.array([2**53 + 1]), "in row 0, not 0 or 1"),
        (pa.chunked_array([[1, 0], [1, None]]), "is null in row 3"),
        (pa.nulls(2), "is null in row 0"),
        (pa.array(["0", "1"]), "holds string, not numbers"),
        (pa.array([[0], [1]]), "not numbers"),
    ],
)
def test_a_label_that_is_neither_is_refused_with_its_place(array, said):
    with pytest.raises(DataError) as caught:
        labels_of(array, "click", "f.parquet, row group 2")

    assert caught.value.what.startswith('f.parquet, row group 2: label column "click" ')
    assert said in caught.value.what


def test_weights_are_numbers_of_at_least_zero():
    weights = weights_of(pa.array([0, 2.5, 1e30]), "w", "f.parquet")

    assert weights.tolist() == [0, 2.5, pytest.approx(1e30)]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (pa.array([1, -1]), '"w" is -1 in row 1'),
        (pa.array([float("inf")]), '"w" is inf in row 0'),
        (pa.array([float("nan")]), '"w" is nan in row 0'),
        (pa.array([1e39]), '"w" is 1e+39 in row 0'),
        (pa.array([1, None]), '"w" is null in row 1'),
        (pa.array(["1"]), '"w" holds string, not numbers'),
    ],
)
def test_a_weight_that_cannot_weigh_is_refused_with_its_row(array, said):
    with pytest.raises(DataError) as caught:
        weights_of(array, "w", "f.parquet")

    assert f"f.parquet: weight column {said}" in caught.value.what
