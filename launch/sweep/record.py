"""What is known of a point: a row of points.parquet for each codec that its table was stored by.

Times, memory and nothing else differ from run to run (WALL_CLOCK). A row without a result has a
status and a reason:

    infeasible    the table does not fit its budget, or the codec does not suit the table
    failed        its training ended in an error, as it would again: a loss that is no number
    lost          its worker died, or had too little memory: the next sweep tries it again
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import SnapshotError

WALL_CLOCK = ("step_s", "training_s", "wall_s", "peak_bytes")

Status = Literal["done", "infeasible", "failed", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A point by one codec; what was not measured is None."""

    method: str
    multiplexed: bool | None
    budget: str | None
    lookups: int
    width: int
    """table.width."""
    columns: int
    """Of a feature's embedding."""
    more: tuple[tuple[str, str], ...]
    """Other keys that vary, and their values."""
    codec: str
    seed: int
    hash_seed: int
    status: Status
    reason: str | None = None
    auc_valid: float | None = None
    log_loss_valid: float | None = None
    auc_test: float | None = None
    log_loss_test: float | None = None
    best_step: int | None = None
    steps: int | None = None
    epochs: int | None = None
    optimizer: str | None = None
    """Of the table."""
    rows: int | None = None
    row_width: int | None = None
    """Floats of a row: table.width or what the method makes of it."""
    table_bytes: int | None = None
    """Parameters while training: what the budget limits."""
    rows_bytes: int | None = None
    """Served: the rows by the codec."""
    dictionary_bytes: int | None = None
    """Served: the dictionaries of features whose values are numbered or own rows."""
    codebook_bytes: int | None = None
    """Served: what the codec learned."""
    tower_bytes: int | None = None
    """Served: the model on top."""
    served_bytes: int | None = None
    """All files of a version, its manifest included."""
    relative_error: float | None = None
    """Of the coded rows, against their norm."""
    step_s: float | None = None
    training_s: float | None = None
    """With validation, over all starts."""
    wall_s: float | None = None
    """Of the last start, with reading, evaluation and codecs."""
    peak_bytes: int | None = None
    key: str = ""
    version: str = ""

    @property
    def auc(self) -> float | None:
        """The AUC that points are compared by: of the test files, without them of validation."""
        return self.auc_valid if self.auc_test is None else self.auc_test

    @property
    def log_loss(self) -> float | None:
        """The log loss beside that AUC."""
        return self.log_loss_valid if self.auc_test is None else self.log_loss_test

    @property
    def embedding_bytes(self) -> int:
        """Bytes that the embeddings take when served: the tower and the manifest left out."""
        return sum(
            part or 0 for part in (self.rows_bytes, self.dictionary_bytes, self.codebook_bytes)
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the record as plain JSON values."""
        return {**asdict(self), "more": dict(self.more)}


_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "Status": pa.string(),
    "tuple[tuple[str, str], ...]": pa.map_(pa.string(), pa.string()),
}
SCHEMA = pa.schema(
    (field.name, _TYPES[str(field.type).removesuffix(" | None")]) for field in fields(Record)
)


def to_bytes(records: list[Record]) -> bytes:
    """Returns a Parquet file of the records."""
    table = pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def read_records(path: Path) -> list[Record]:
    """Returns the records of a Parquet file; SnapshotError where it is damaged or another's."""
    try:
        rows = pq.read_table(path, schema=SCHEMA, partitioning=None).to_pylist()
        return [Record(**{**row, "more": tuple(map(tuple, row["more"]))}) for row in rows]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError, TypeError, ValueError) as exc:
        raise SnapshotError(
            f'"{path}" is no point of a sweep: {str(exc).splitlines()[0]}',
            "remove it: the point is then trained again",
        ) from exc
