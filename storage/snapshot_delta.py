"""What a version changed since another: a bundle from which the whole version follows.

    versions/v-0000000015.delta/
        delta.rows     u32 or i64 [n]           the numbers of the changed rows, ascending
        rows           uint8 [n, row_bytes]     these rows, as the codec stores them
        files          those of the version, tower.onnx for one
        content        {"snapshot": that of the version, "snapshot_delta": the link below}

Codec and layout are the parent's, codebooks, bases and vocabularies included, so they are not
stored again. `digest` is that of the manifest which the whole version has, wherever it is made:
`apply_delta` gives the very bytes of an export in full, or refuses. A delta's parent may itself be
there as a delta only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from features.errors import SnapshotError
from storage import canonical
from storage.bundle import Bundle, Verify, open_bundle
from storage.names import is_name
from storage.snapshot import DELTA, ROWS, Snapshot, open_snapshot
from storage.snapshot_record import Record, record_in
from storage.tensors import DTYPES
from storage.versions import DELTA_SUFFIX, is_version

NUMBERS = "delta.rows"
# A chain of deltas is read through once for each of them.
MAX_CHAIN = 64
_COPY = "take it from a copy, or export the version in full"

Count = Annotated[int, Field(ge=0)]


class Link(BaseModel):
    """What a delta says of its parent and of the version it leads to."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    parent: str
    """Name of the version the rows are compared with."""
    parent_digest: str
    digest: str
    """sha256 of the manifest of the whole version."""
    rows: Count
    """Rows of the whole version."""
    changed: Count


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delta:
    """A delta that is open; arrays are mapped."""

    bundle: Bundle
    path: Path
    link: Link
    record: Record
    numbers: NDArray[np.integer[Any]]
    raw: NDArray[np.uint8]

    @property
    def name(self) -> str:
        """The name of the version it leads to."""
        return self.record.name

    def overlay(self, first: int, rows: NDArray[np.uint8]) -> None:
        """Writes the changed ones among the rows from `first` on."""
        low, high = np.searchsorted(self.numbers, [first, first + len(rows)])
        rows[self.numbers[low:high].astype(np.int64) - first] = self.raw[low:high]


def is_delta(bundle: Bundle) -> bool:
    """Whether a bundle is a delta of a snapshot."""
    return bundle.manifest.kind == "snapshot" and DELTA in bundle.content


def open_delta(path: Path, verify: Verify = True) -> Delta:
    """Opens a delta alone; SnapshotError naming what of it is not as it was written."""
    bundle = open_bundle(path, verify)
    try:
        return _read(bundle, path)
    except BaseException:
        bundle.close()
        raise


class Chain:
    """A version as its base and the deltas on it, the oldest first."""

    def __init__(self, base: Snapshot, deltas: list[Delta]) -> None:
        """Use `open_chain`."""
        self.base = base
        self.deltas = deltas

    @property
    def last(self) -> Delta:
        """The delta that leads to the version itself."""
        return self.deltas[-1]

    def rows(self, first: int, end: int) -> NDArray[np.uint8]:
        """Returns the encoded rows [first, end) of the version."""
        rows = np.array(self.base.rows[first:end])
        for delta in self.deltas:
            delta.overlay(first, rows)
        return rows

    def blocks(self, first: int, end: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the encoded rows [first, end), a few MiB at a time."""
        step = max(1, (4 << 20) // self.base.codec.row_bytes)
        for low in range(first, end, step):
            yield self.rows(low, min(low + step, end))

    def close(self) -> None:
        """Closes the base and all deltas."""
        self.base.close()
        for delta in self.deltas:
            delta.bundle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_chain(path: Path, verify: Verify = True) -> Chain:
    """Opens a delta with its parents, which lie beside it.

    SnapshotError where one is missing, is not the one that was compared with, or does not fit.
    """
    deltas = [open_delta(path, verify)]
    try:
        while True:
            link = deltas[0].link
            parent = path.parent / link.parent
            if parent.exists():
                base = open_snapshot(parent, verify, link.parent_digest)
                break
            beside = parent.with_name(f"{link.parent}{DELTA_SUFFIX}")
            if not beside.exists():
                raise SnapshotError(
                    f'"{deltas[0].path}" holds what changed since "{link.parent}", which is not'
                    " beside it",
                    f'put "{link.parent}" into "{path.parent}", whole or as its delta',
                )
            if len(deltas) == MAX_CHAIN:
                raise SnapshotError(
                    f'"{path}" stands on more than {MAX_CHAIN} deltas', "apply one further down"
                )
            deltas.insert(0, open_delta(beside, verify))
            _check_link(deltas[1], deltas[0])
        try:
            for delta in deltas:
                _check_base(delta, base)
        except BaseException:
            base.close()
            raise
    except BaseException:
        for delta in deltas:
            delta.bundle.close()
        raise
    return Chain(base, deltas)


def _read(bundle: Bundle, path: Path) -> Delta:
    where = f'"{path}"'
    if not is_delta(bundle):
        raise SnapshotError(f"{where} is no delta of a snapshot", "give one that ends in .delta")
    record = record_in(bundle.content, where)
    try:
        link = Link.model_validate_json(canonical.encode(bundle.content[DELTA]))
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        key = ".".join(str(part)[:80] for part in error["loc"])
        raise SnapshotError(
            f'{where}: its link is damaged: "{key}": {error["msg"]}', _COPY
        ) from exc
    is_sound = (
        is_version(link.parent)
        and is_version(record.name)
        and link.parent != record.name
        and is_name("digest", link.parent_digest)
        and is_name("digest", link.digest)
        and bundle.manifest.parent == link.parent_digest
        and link.rows == record.rows
    )
    numbers, rows = bundle.entry(NUMBERS), bundle.entry(ROWS)
    if (
        not is_sound
        or numbers.dtype not in ("U32", "I64")
        or numbers.shape != (link.changed,)
        or DTYPES[rows.dtype] != np.uint8
        or rows.shape != (link.changed, record.row_bytes)
    ):
        raise SnapshotError(f"{where} does not say soundly what it holds", _COPY)
    found = bundle.tensor(NUMBERS)
    rises = bool((found[1:] > found[:-1]).all())
    if not rises or (len(found) and not (found[0] >= 0 and found[-1] < link.rows)):
        raise SnapshotError(f"{where}: its row numbers do not rise within the table", _COPY)
    return Delta(
        bundle=bundle,
        path=path,
        link=link,
        record=record,
        numbers=found,
        raw=bundle.tensor(ROWS),
    )


def _check_link(delta: Delta, parent: Delta) -> None:
    if delta.link.parent_digest != parent.link.digest:
        raise SnapshotError(
            f'"{delta.path}" stands on another "{delta.link.parent}" than the one beside it',
            "bring the delta's own parent",
        )


def _check_base(delta: Delta, base: Snapshot) -> None:
    """Raises SnapshotError unless a delta kept layout and codec."""
    record, ours = delta.record, base.record
    if (record.layout, record.codec) != (ours.layout, ours.codec):
        raise SnapshotError(f'"{delta.path}" has another layout or codec than "{base.path}"', _COPY)
