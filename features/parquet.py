"""Parquet files as one dataset: opened and checked before a row is used, then read by row group.

What is read is held against what the footer promised, and a file that changes while it is in use is
refused: the order of the data is a function of the footers.
"""

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from features.agreement import check_columns
from features.arrow import storage_type
from features.errors import DataError
from features.footer import WRITE_AGAIN, read_footer, translated
from features.ids import is_string
from features.patterns import FileEntry, find_files
from features.schema import FeatureSet
from features.statistics import KeyClass

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


# Footers kept parsed, by their size on disk; others are parsed again when their file is opened.
_KEPT_FOOTER_BYTES = 16 << 20
_OPEN_FILES = 4
_REMOTE_THREADS = 8
# Column chunks of row groups too large to be read at once are fetched through buffers of this size.
_FORWARD_BUFFER_BYTES = 1 << 20
# A dictionary pays unless it has more values than these: a number, and a share of the rows.
_FEW_VALUES = 1024
_REPEATED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """One file of a dataset: its name and what its footer says of its rows."""

    path: str
    size: int
    num_rows: int
    row_groups: tuple[int, ...]
    """Rows of each row group."""


class Dataset:
    """Files with their footers read, in the order that the data has."""

    def __init__(self, entries: Sequence[FileEntry]) -> None:
        self._entries = tuple(entries)
        self._metadata: dict[int, Any] = {}
        self._schemas: list[tuple[str, Any]] = []
        files = []
        kept = 0
        for index, (entry, metadata, schema) in enumerate(_footers(self._entries)):
            rows = tuple(
                metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)
            )
            files.append(ParquetFile(entry.path, entry.size, sum(rows), rows))
            kept += metadata.serialized_size
            if kept <= _KEPT_FOOTER_BYTES:
                self._metadata[index] = metadata
            if not any(schema.equals(known) for _, known in self._schemas):
                self._schemas.append((entry.path, schema))
        self.files = tuple(files)
        self.num_rows = sum(file.num_rows for file in self.files)
        _refuse_empty(self.files, self.num_rows)
        self._strings = frozenset(
            field.name for field in self.schema if is_string(storage_type(field.type))
        )

    @property
    def row_groups(self) -> tuple[tuple[int, ...], ...]:
        """The rows of each row group of each file."""
        return tuple(file.row_groups for file in self.files)

    @property
    def schemas(self) -> tuple[tuple[str, Any], ...]:
        """The different schemas there are, each with the first file that has it."""
        return tuple(self._schemas)

    @property
    def schema(self) -> Any:
        """The schema of the first file."""
        return self._schemas[0][1]

    def digest(self) -> str:
        """Returns the sha256 of the paths, sizes and rows: what a resumed run must find again."""
        facts = [[file.path, file.size, file.row_groups] for file in self.files]
        return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()

    def check(
        self, feature_set: FeatureSet, key_classes: Mapping[str, KeyClass | None] | None = None
    ) -> None:
        """Raises DataError naming file and column unless the files hold what the features need.

        `key_classes` are those that the features were trained on, where they were.
        """
        check_columns(self._schemas, feature_set, key_classes)

    def place(self, file: int, row_group: int, first_row: int = 0) -> str:
        """Returns where rows come from, for errors that count rows from `first_row`."""
        place = f"{self.files[file].path}, row group {row_group}"
        return f"{place} from row {first_row} on" if first_row else place

    def open_reader(self, columns: Sequence[str]) -> "Reader":
        """Returns a handle for one thread that reads these columns."""
        return Reader(self, columns)

    def read_row_group(self, file: int, row_group: int, columns: Sequence[str]) -> Any:
        """Returns the columns of one row group as an Arrow table."""
        with self.open_reader(columns) as reader:
            return reader.row_group(file, row_group)

    def coded_columns(self, columns: Sequence[str]) -> frozenset[str]:
        """Returns which of these columns are to be read as dictionaries.

        Making strings is half the cost of reading them, and of a dictionary each value is hashed
        once; but where nearly every row has a value of its own, building one costs more.
        """
        return frozenset(columns) & self._strings

    def note_dictionaries(self, table: Any) -> None:
        """Takes back the choice for columns whose dictionaries hardly repeat a value."""
        for name in self.coded_columns(table.column_names):
            chunks = table.column(name).chunks
            if chunks and pa.types.is_dictionary(chunks[0].type):
                values, rows = len(chunks[0].dictionary), len(chunks[0])
                if values > max(_FEW_VALUES, _REPEATED_SHARE * rows):
                    self._strings -= {name}

    def open_file(self, file: int, coded: Collection[str] = (), buffer_bytes: int = 0) -> Any:
        """Opens a file anew; DataError where it changed since its footer was read."""
        entry = self._entries[file]
        with translated(entry.path):
            _refuse_changed(entry)
            source = entry.filesystem.open_input_file(entry.location)
            try:
                opened = pq.ParquetFile(
                    source,
                    metadata=self._metadata.get(file),
                    read_dictionary=sorted(coded),
                    buffer_size=buffer_bytes,
                    # Worth its memory where a round trip is slow.
                    pre_buffer=entry.is_remote and not buffer_bytes,
                    page_checksum_verification=True,
                )
                rows = tuple(
                    opened.metadata.row_group(group).num_rows
                    for group in range(opened.num_row_groups)
                )
                if rows != self.files[file].row_groups:
                    raise DataError(f"{entry.path}: its rows changed while in use", _KEEP_STILL)
            except BaseException:
                source.close()
                raise
        return opened


class Reader:
    """Reads row groups of a dataset in one thread, keeping the last few files open."""

    def __init__(self, dataset: Dataset, columns: Sequence[str]) -> None:
        self._dataset = dataset
        self._columns = list(columns)
        self._coded = dataset.coded_columns(columns)
        self._open: OrderedDict[int, Any] = OrderedDict()

    def row_group(self, file: int, row_group: int) -> Any:
        """Returns the columns of a row group; DataError naming file and row group."""
        handle = self._handle(file)
        with translated(self._dataset.place(file, row_group)):
            table = handle.read_row_group(row_group, columns=self._columns, use_threads=False)
            table.validate()
            table = self._checked(table, file, row_group)
        self._dataset.note_dictionaries(table)
        return table

    def rows(self, file: int, row_group: int, first_row: int, num_rows: int) -> Any:
        """Returns some rows of a row group; what stands behind them is not decoded."""
        whole = self._dataset.files[file].row_groups[row_group]
        if num_rows == whole:
            return self.row_group(file, row_group)
        if first_row + num_rows == whole:
            return self.row_group(file, row_group).slice(first_row)
        with translated(self._dataset.place(file, row_group)):
            batches = self._batches(self._handle(file), row_group, first_row + num_rows)
            table = next(_regroup(batches, [first_row + num_rows]))
        return table.slice(first_row)

    def forward(
        self, file: int, row_group: int, block_rows: int, first_block: int
    ) -> Iterator[Any]:
        """Yields a row group in tables of `block_rows` rows, from a block on, in bounded memory.

        The blocks before it have to be decoded and are dropped.
        """
        whole = self._dataset.files[file].row_groups[row_group]
        sizes = [min(block_rows, whole - first) for first in range(0, whole, block_rows)]
        coded = self._dataset.coded_columns(self._columns)
        handle = self._dataset.open_file(file, coded, _FORWARD_BUFFER_BYTES)
        try:
            tables = _regroup(self._batches(handle, row_group, block_rows), sizes)
            for block in range(len(sizes)):
                with translated(self._dataset.place(file, row_group)):
                    table = next(tables)
                self._dataset.note_dictionaries(table)
                if block >= first_block:
                    yield table
        finally:
            handle.close(force=True)

    def close(self) -> None:
        """Closes all files."""
        while self._open:
            self._open.popitem()[1].close(force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _handle(self, file: int) -> Any:
        coded = self._dataset.coded_columns(self._columns)
        if coded != self._coded:
            self.close()
            self._coded = coded
        handle = self._open.pop(file, None)
        if handle is None:
            while len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close(force=True)
            handle = self._dataset.open_file(file, coded)
        self._open[file] = handle
        return handle

    def _batches(self, handle: Any, row_group: int, batch_rows: int) -> Iterator[Any]:
        for batch in handle.iter_batches(
            batch_size=batch_rows, row_groups=[row_group], columns=self._columns, use_threads=False
        ):
            yield pa.Table.from_batches([batch]).select(self._columns)

    def _checked(self, table: Any, file: int, row_group: int) -> Any:
        promised = self._dataset.files[file].row_groups[row_group]
        if table.num_rows != promised:
            raise DataError(
                f"{self._dataset.place(file, row_group)}: {table.num_rows} rows, but the footer "
                f"says {promised}",
                WRITE_AGAIN,
            )
        # Names with dots also bring columns below and beside them.
        return table.select(self._columns)


_KEEP_STILL = "leave the input alone while it is read; write new data under a new name"


def open_dataset(patterns: str | Sequence[str], base: Path) -> Dataset:
    """Finds the files of one pattern or several and reads their footers.

    Relative patterns start at `base`, the folder of the job file. Raises DataError naming the
    pattern or the file: nothing matches, empty, cut short, encrypted, not Parquet, unreadable,
    two columns of one name.
    """
    return Dataset(find_files(patterns, base))


def _footers(entries: Sequence[FileEntry]) -> Iterator[tuple[FileEntry, Any, Any]]:
    if not any(entry.is_remote for entry in entries):
        for entry in entries:
            yield entry, *read_footer(entry)
        return
    with ThreadPoolExecutor(_REMOTE_THREADS, "footer") as pool:
        for entry, (metadata, schema) in zip(entries, pool.map(read_footer, entries), strict=True):
            yield entry, metadata, schema


def _refuse_empty(files: Sequence[ParquetFile], num_rows: int) -> None:
    if num_rows == 0:
        raise DataError(
            f"no rows: {len(files)} file(s), the first {files[0].path}, have none",
            "check what wrote them, or widen the pattern",
        )
    empty = [file.path for file in files if file.num_rows == 0]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        logger.warning("%s%s: the file has no rows and is skipped", empty[0], more)


def _refuse_changed(entry: FileEntry) -> None:
    info = entry.filesystem.get_file_info(entry.location)
    if info.type == pyarrow.fs.FileType.NotFound:
        raise DataError(f"{entry.path}: the file is gone", _KEEP_STILL)
    if info.size != entry.size or info.mtime_ns != entry.modified_ns:
        raise DataError(f"{entry.path}: the file changed while it was in use", _KEEP_STILL)


def _regroup(tables: Iterator[Any], sizes: Sequence[int]) -> Iterator[Any]:
    """Yields tables of exactly `sizes` rows from a run of tables of any size."""
    held: list[Any] = []
    num_held = 0
    for size in sizes:
        while num_held < size:
            table = next(tables, None)
            if table is None:
                raise ValueError("it ends before the rows that its footer promises")
            held.append(table)
            num_held += table.num_rows
        joined = pa.concat_tables(held)
        yield joined.slice(0, size)
        num_held -= size
        held = [joined.slice(size)] if num_held else []
