"""What each column of unknown files looks like: what `init` guesses a job file from."""

import operator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.agreement import check_agreement, check_role_type, find_column
from features.arrow import storage_type
from features.columns import keys_of
from features.dense import check_numeric, numbers_of
from features.errors import DataError
from features.ids import is_list, key_class
from features.labels import labels_of
from features.parquet import Dataset, Progress
from features.scan import scan
from features.schema import Feature
from features.sketch import DistinctKeys, Keys, distinct

# Columns with more values than this are no longer watched for a value that tells the label.
_WATCHED_VALUES = 1000

# ... and a column with fewer rows a value tells nothing: of one row each any value has one label.
_ROWS_PER_VALUE = 20
# The key of the number 1 in a column of numbers, whose keys are their bits.
_ONE = int(np.float64(1).view(np.uint64))

Values = Literal["integers", "strings", "dates", "timestamps", "numbers", "booleans", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSummary:
    """One column over all files."""

    name: str
    arrow_type: str
    values: Values | None
    """What it holds, or its lists hold; None where no feature can be made of it."""
    problem: str | None
    """Why no feature can be made of it."""
    is_list: bool
    rows: int
    null_count: int
    """Null rows; for numbers NaN too."""
    cardinality: int
    """Distinct values, nulls excluded; an estimate beyond 65,536."""
    minimum: float | None
    maximum: float | None
    mean_length: float | None
    """Values of a list, the null ones left out."""
    max_length: int | None
    leak: str | None
    """How the column gives the label away, or None."""

    @property
    def null_share(self) -> float:
        """Share of the rows that are null."""
        return self.null_count / self.rows if self.rows else 0.0

    @property
    def is_constant(self) -> bool:
        """Whether all rows say the same, null included."""
        return self.problem is None and self.cardinality + (self.null_count > 0) <= 1

    @property
    def is_unique(self) -> bool:
        """Whether (nearly) every row has a value of its own, as the number of a row has."""
        present = self.rows - self.null_count
        return not self.is_list and present > 1 and self.cardinality > 0.97 * present


def profile_columns(
    dataset: Dataset, label: str | None, progress: Progress | None = None
) -> list[ColumnSummary]:
    """Reads all rows once and returns a summary of every column but the label.

    Columns whose types differ between files are reported with their problem, not refused. Raises
    DataError where the label is missing or holds anything but 0 and 1.
    """
    if label is not None:
        for path, schema in dataset.schemas:
            find_column(label, schema, path, "the label")
            check_role_type(schema.field(label).type, label, "label", path)
    watched = [_Watched(field.name, dataset) for field in dataset.schema if field.name != label]
    names = [column.name for column in watched if column.problem is None]
    for step in scan(dataset, [*names, *([] if label is None else [label])]):
        labels = None
        if label is not None:
            labels = labels_of(step.table.column(label), label, step.where) == 1
        for column in watched:
            if column.problem is None:
                column.add(step.table.column(column.name), labels, step.where)
        if progress is not None:
            progress(step.first_row + step.table.num_rows, dataset.num_rows)
    return [column.summary(dataset.num_rows) for column in watched]


class _Watched:
    """One column while it is read."""

    def __init__(self, name: str, dataset: Dataset) -> None:
        self.name = name
        self._type = dataset.schema.field(name).type
        self._values, self.problem = _usable(name, dataset)
        plain = storage_type(self._type)
        self._is_list = is_list(plain)
        kind: Literal["list", "categorical"] = "list" if self._is_list else "categorical"
        self._feature = Feature(name=name, kind=kind, columns=(name,))
        self._distinct = DistinctKeys()
        self._null_count = self._num_values = self._max_length = 0
        self._minimum, self._maximum = np.inf, -np.inf
        self._leak = _LeakWatch(_ONE if self._values == "numbers" else 1)

    def add(self, array: Any, labels: NDArray[np.bool_] | None, where: str) -> None:
        """Takes the column of a table."""
        try:
            keys, is_null = self._keys(array, where)
        except DataError as exc:
            # One bad column (an infinity) is not a reason to say nothing of the others.
            self._values, self.problem = None, exc.what
            return
        self._null_count += int(np.count_nonzero(is_null))
        if self._is_list:
            self._distinct.add(distinct(keys))
            return
        self._distinct.add(distinct(keys[~is_null]))
        if labels is not None:
            self._leak.add(keys, is_null, labels)

    def summary(self, rows: int) -> ColumnSummary:
        """Returns what was seen."""
        has_range = self._minimum <= self._maximum
        filled = rows - self._null_count
        has_lengths = self._is_list and self.problem is None
        return ColumnSummary(
            name=self.name,
            arrow_type=str(self._type),
            values=self._values,
            problem=self.problem,
            is_list=self._is_list,
            rows=rows,
            null_count=self._null_count,
            cardinality=self._distinct.estimate(),
            minimum=float(self._minimum) if has_range else None,
            maximum=float(self._maximum) if has_range else None,
            mean_length=(self._num_values / filled if filled else 0.0) if has_lengths else None,
            max_length=self._max_length if has_lengths else None,
            leak=self._leak.verdict(rows) if self.problem is None else None,
        )

    def _keys(self, array: Any, where: str) -> tuple[Keys, NDArray[np.bool_]]:
        """Keys of the values, and which rows are null; of a list the keys of all its values."""
        if self._values == "numbers":
            numbers, missing = numbers_of(array, self.name, where)
            is_null = np.zeros(len(numbers), bool) if missing is None else missing
            self._widen(numbers[~is_null])
            # Adding 0 makes the two zeros one value.
            return (numbers + 0.0).view(np.uint64), is_null
        column = keys_of(array, self._feature, where)
        mask = np.zeros(len(column.keys), bool) if column.nulls is None else column.nulls == 1
        if column.offsets is not None:
            lengths = np.diff(column.offsets)
            is_null = np.zeros(len(lengths), bool)
            filled = np.flatnonzero(lengths)
            is_null[filled] = mask[column.offsets[filled]]
            self._num_values += int(lengths[~is_null].sum())
            self._max_length = max(self._max_length, int(lengths[~is_null].max(initial=0)))
            return column.keys[~mask], is_null
        if self._values in ("integers", "booleans"):
            is_unsigned = pa.types.is_uint64(storage_type(array.type))
            present = column.keys[~mask]
            self._widen(present if is_unsigned else present.view(np.int64))
        return column.keys, mask

    def _widen(self, present: NDArray[Any]) -> None:
        if len(present):
            self._minimum = min(self._minimum, float(present.min()))
            self._maximum = max(self._maximum, float(present.max()))


class _LeakWatch:
    """Looks for a column of few values each of which always comes with the same label."""

    def __init__(self, one: int) -> None:
        """`one` is the key of the number 1 in this column."""
        self._one = one
        self._seen: tuple[Keys, Keys] = (np.empty(0, np.uint64), np.empty(0, np.uint64))
        self._has_null = [False, False]
        self._has_value = [False, False]
        self._is_telling = True

    def add(self, keys: Keys, is_null: NDArray[np.bool_], labels: NDArray[np.bool_]) -> None:
        """Takes keys, nulls and labels of some rows."""
        for side in (False, True):
            of_side = labels == side
            self._has_null[side] |= bool((of_side & is_null).any())
            self._has_value[side] |= bool((of_side & ~is_null).any())
        if not self._is_telling:
            return
        self._seen = (
            np.union1d(self._seen[0], distinct(keys[~is_null & ~labels])),
            np.union1d(self._seen[1], distinct(keys[~is_null & labels])),
        )
        is_shared = len(np.intersect1d(*self._seen, assume_unique=True)) > 0
        is_shared |= all(self._has_null)
        if is_shared or len(self._seen[0]) + len(self._seen[1]) > _WATCHED_VALUES:
            self._is_telling = False

    def verdict(self, rows: int) -> str | None:
        """Says how the column gives the label away, after that many rows."""
        # Null for one label and only for it: the column was filled in after the fact.
        for side, other in ((0, 1), (1, 0)):
            is_null_there = self._has_null[side] and not self._has_value[side]
            if is_null_there and self._has_value[other] and not self._has_null[other]:
                return f"null exactly where the label is {side}"
        zero, one = (keys.tolist() for keys in self._seen)
        has_both = all(map(operator.or_, self._has_null, self._has_value))
        if not (self._is_telling and has_both):
            return None
        if not any(self._has_null):
            if (zero, one) == ([0], [self._one]):
                return "equal to the label"
            if (zero, one) == ([self._one], [0]):
                return "the label negated"
        is_common = rows >= _ROWS_PER_VALUE * (len(zero) + len(one))
        return "each of its values has one label only" if is_common else None


def _usable(name: str, dataset: Dataset) -> tuple[Values | None, str | None]:
    """What a column holds, or why nothing can be made of it."""
    try:
        types = []
        for path, schema in dataset.schemas:
            find_column(name, schema, path, "the data")
            types.append((path, schema.field(name).type))
        kinds = {_values_of(arrow_type, name, path) for path, arrow_type in types} - {"none"}
        if "numbers" not in kinds:
            check_agreement(name, types)
        elif not kinds <= {"numbers", "integers", "booleans"}:
            raise DataError(
                f'column "{name}" holds {" and ".join(sorted(kinds))} in different files',
                "store it alike in all files",
            )
    except DataError as exc:
        return None, exc.what
    for widest in ("numbers", "integers"):
        if widest in kinds:
            return cast(Values, widest), None
    return (kinds.pop() if kinds else "none"), None


def _values_of(arrow_type: Any, name: str, path: str) -> Values:
    plain = storage_type(arrow_type)
    listed = is_list(plain)
    inner = storage_type(plain.value_type) if listed else plain
    if pa.types.is_dictionary(inner):
        inner = storage_type(inner.value_type)
    if pa.types.is_floating(inner) or pa.types.is_decimal(inner):
        if listed:
            raise DataError(
                f'{path}: column "{name}" holds {arrow_type}: lists of numbers are no feature',
                "store each number in a column of its own",
            )
        check_numeric(arrow_type, name, path)
        return "numbers"
    if key_class(arrow_type, name, path) is None:
        return "none"
    if pa.types.is_boolean(inner):
        return "booleans"
    if pa.types.is_date(inner):
        return "dates"
    if pa.types.is_timestamp(inner):
        return "timestamps"
    return "strings" if key_class(arrow_type, name, path) == "string" else "integers"
