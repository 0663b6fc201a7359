"""Opens the raw files of a data set: plain, .gz or .zst, comma, tab or `::` separated."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from features.errors import DataError

_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a raw file is written."""

    delimiter: str = ","
    encoding: str = "utf8"
    column_names: tuple[str, ...] | None = None
    types: Mapping[str, pa.DataType]
    quoted: bool = True


def find_file(source: Path, patterns: Iterable[str], what: str) -> Path:
    """Returns the first file in `source` (or `source` itself) that a pattern matches.

    Compressed files (.zst, .gz, .bz2) match too; raises DataError naming what was looked for.
    """
    patterns = list(patterns)
    found = find_optional(source, patterns)
    if found is None:
        raise DataError(
            f"{source}: no {what} there", f"it should hold {' or '.join(patterns)} (or .zst, .gz)"
        )
    return found


def find_optional(source: Path, patterns: Iterable[str]) -> Path | None:
    """Returns the first file that a pattern matches, or None."""
    if source.is_file():
        return source
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder", "give the folder of the raw files")
    for pattern in patterns:
        for suffix in ("", *_CODECS):
            found = sorted(source.glob(pattern + suffix))
            if found:
                return found[0]
    return None


def read_batches(path: Path, form: Format, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yields the rows of a file in pieces of a few MiB; raises DataError naming file and line."""
    with _translated(path):
        reader = pacsv.open_csv(
            _open(path, form),
            pacsv.ReadOptions(
                use_threads=False,
                block_size=4 << 20,
                column_names=list(form.column_names) if form.column_names else None,
                encoding="utf8" if form.delimiter == "::" else form.encoding,
            ),
            pacsv.ParseOptions(
                delimiter="\x1f" if form.delimiter == "::" else form.delimiter,
                quote_char='"' if form.quoted else False,
            ),
            pacsv.ConvertOptions(
                column_types=dict(form.types),
                include_columns=columns,
                strings_can_be_null=True,
                null_values=["", "NA"],
                true_values=[],
                false_values=[],
            ),
        )
    while True:
        with _translated(path):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        yield pa.Table.from_batches([batch])


def read_table(path: Path, form: Format) -> pa.Table:
    """Returns all rows of a file."""
    return pa.concat_tables(list(read_batches(path, form)))


def _open(path: Path, form: Format) -> Any:
    codec = _CODECS.get(path.suffix)
    raw = pa.OSFile(str(path))
    stream = pa.CompressedInputStream(raw, codec) if codec else raw
    if form.delimiter != "::":
        return stream
    # The CSV reader wants one character between fields; these files are a few megabytes.
    text = stream.read().decode(form.encoding)
    return io.BytesIO(text.replace("::", "\x1f").encode())


class _translated:  # noqa: N801 - used like a function
    """Turns errors of reading into DataError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, exc: BaseException | None, trace: Any) -> None:
        if isinstance(exc, pa.ArrowInvalid | pa.ArrowKeyError | UnicodeDecodeError | EOFError) or (
            isinstance(exc, OSError) and exc.errno is None
        ):
            first = str(exc).splitlines()[0]
            raise DataError(
                f"{self._path}: {first}", "check that this is the file of that data set, and whole"
            ) from exc
