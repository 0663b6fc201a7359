"""Whether files hold the columns a model needs, of types that fit and mean the same in all of them.

Files may store a column differently as long as its values have the same keys or are the same
numbers: int32 beside int64, string beside large_string or a dictionary. An id that is an integer in
one file and a string in another is refused, since 7 and "7" are different values.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from features.arrow import storage_type
from features.dense import check_numeric
from features.errors import DataError
from features.ids import INTEGERS, check_type, is_list, is_string
from features.schema import Feature, FeatureSet
from features.statistics import KeyClass

# A file and the schema that stands in its footer.
Named = tuple[str, Any]


def check_columns(
    schemas: Sequence[Named],
    feature_set: FeatureSet,
    key_classes: Mapping[str, KeyClass | None] | None = None,
) -> None:
    """Raises DataError naming file and column unless every file has what the features need.

    `key_classes` are those the features were trained on, where they were.
    """
    classes = key_classes or {}
    for path, schema in schemas:
        for feature in (*feature_set.features, *feature_set.dense):
            for column in feature.columns:
                find_column(column, schema, path, f'feature "{feature.name}"')
            _check_feature(feature, schema, path, classes.get(feature.name))
        for role, name in (("label", feature_set.label), ("weight", feature_set.weight)):
            if name is not None:
                find_column(name, schema, path, f"the {role}")
                check_role_type(schema.field(name).type, name, role, path)
    for column, derived in _embedded_columns(feature_set).items():
        check_agreement(
            column, ((path, schema.field(column).type) for path, schema in schemas), derived
        )


def find_column(column: str, schema: Any, path: str, user: str) -> None:
    """Raises DataError, with the nearest right name, where a file has no such column."""
    if column in schema.names:
        return
    near = difflib.get_close_matches(column, schema.names, n=1, cutoff=0.6)
    known = ", ".join(schema.names[:12]) + (", ..." if len(schema.names) > 12 else "")
    raise DataError(
        f'{path}: column "{column}" of {user} is missing',
        f'did you mean "{near[0]}"?' if near else f"the file has {known or 'no columns'}",
    )


def _check_feature(
    feature: Feature, schema: Any, path: str, trained_class: KeyClass | None
) -> None:
    if feature.kind == "cross":
        return  # its parts are features of their own
    arrow_type = schema.field(feature.column).type
    if feature.kind in ("dense", "bucketized"):
        check_numeric(arrow_type, feature.column, path)
    else:
        check_type(arrow_type, feature, path, trained_class)


def check_role_type(arrow_type: Any, column: str, role: str, where: str) -> None:
    """Raises DataError unless a label or weight column holds numbers or booleans."""
    plain = storage_type(arrow_type)
    if pa.types.is_dictionary(plain):
        plain = plain.value_type
    if plain in INTEGERS or pa.types.is_boolean(plain) or pa.types.is_floating(plain):
        return
    if pa.types.is_decimal(plain) or pa.types.is_null(plain):
        return
    fix = "store 0 and 1" if role == "label" else "store numbers"
    raise DataError(f'{where}: {role} column "{column}" holds {arrow_type}, not numbers', fix)


def _embedded_columns(feature_set: FeatureSet) -> dict[str, bool]:
    """The columns of ids, each with whether all its features derive a part of a date."""
    columns: dict[str, bool] = {}
    for feature in feature_set.features:
        if feature.kind not in ("cross", "bucketized"):
            derived = columns.get(feature.column, True)
            columns[feature.column] = derived and feature.derive is not None
    return columns


def check_agreement(column: str, types: Iterable[Named], is_derived: bool = False) -> None:
    """Raises DataError naming two files whose values of a column of ids would not be the same."""
    first: tuple[str, Any, str] | None = None
    for path, arrow_type in types:
        family = _family(arrow_type, is_derived)
        if family is None:
            continue
        if first is None:
            first = path, arrow_type, family
        elif family != first[2]:
            raise DataError(
                f'column "{column}" is {first[1]} in {first[0]}, but {arrow_type} in {path}',
                f"store it as {first[2]} in all files: the same id would be two different values",
            )


def _family(arrow_type: Any, is_derived: bool) -> str | None:
    """What the values are, for people; None for a column of nulls, which goes with all."""
    plain = storage_type(arrow_type)
    if is_list(plain):
        inner = _family(plain.value_type, is_derived)
        return None if inner is None else f"lists of {inner}"
    if pa.types.is_dictionary(plain):
        return _family(plain.value_type, is_derived)
    if pa.types.is_null(plain):
        return None
    if plain in INTEGERS or pa.types.is_boolean(plain):
        return "integers"
    if is_string(plain):
        return "strings"
    if is_derived and (pa.types.is_date(plain) or pa.types.is_timestamp(plain)):
        return "dates or timestamps"
    if pa.types.is_date(plain):
        return "dates"
    return "timestamps" if pa.types.is_timestamp(plain) else str(plain)
