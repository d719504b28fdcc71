"""Read the rows of a file of texts, JSON lines or Parquet, in order. The file is read in parts, so it may be
larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.errors import ArgumentError, LimitError

Format = Literal["jsonl", "parquet"]
LINE = 2**20  # bytes of a line, with its other columns
FEW = 256  # rows of Parquet that are read at a time


def format_of(path: Path) -> Format:
    """Return the format of a file, according to the ending of its name. Raises ArgumentError for an unknown
    ending.
    """
    match path.suffix:
        case ".jsonl":
            return "jsonl"
        case ".parquet":
            return "parquet"
        case _:
            raise ArgumentError(f"a file of rows must be named .jsonl or .parquet, got {path.name!r:.80}")


def texts(path: Path, column: str) -> Iterator[str]:
    """Yield the text in the column `column` of each row.

    Raises ArgumentError with the row's number, counted from 0, if the value is missing, blank or not a
    text. Also raises ArgumentError if the file can't be read. Raises LimitError for a line of more than
    LINE bytes.
    """
    read = _jsonl if format_of(path) == "jsonl" else _parquet
    for number, value in enumerate(read(path, column)):
        if not isinstance(value, str) or not value.strip():
            raise ArgumentError(
                f"{path.name}, row {number}: {column!r:.80} must be a text that isn't blank, got "
                f"{value!r:.80}"
            )
        try:
            value.encode()
        except UnicodeEncodeError:  # "\ud800" in JSON
            raise ArgumentError(
                f"{path.name}, row {number}: {column!r:.80} must be Unicode, but it has half a surrogate pair"
            ) from None
        yield value


def blocks(path: Path, column: str, size: int) -> Iterator[list[str]]:
    """Yield the texts in blocks of `size` rows. The last block may have fewer rows."""
    rows = texts(path, column)
    return iter(lambda: list(islice(rows, size)), [])


def _jsonl(path: Path, column: str) -> Iterator[object]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE + 1):
            where = f"{path.name}, row {number}"
            if len(line) > LINE:
                raise LimitError(f"{where}: a line may have at most {LINE} bytes, but it has more")
            row = parse(line, where, ArgumentError)
            if not isinstance(row, dict) or column not in row:
                raise ArgumentError(f"{where}: must be an object with {column!r:.80}, got {row!r:.80}")
            yield row[column]
            number += 1


def _parquet(path: Path, column: str) -> Iterator[object]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if (count := names.count(column)) != 1:
                has = f"{count} columns of this name" if count else f"{names!r:.200}"
                raise ArgumentError(
                    f"{path.name} must have exactly one column {column!r:.80}, but it has {has}"
                )
            for batch in file.iter_batches(FEW, columns=[column]):
                yield from batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path.name} must be Parquet: {' '.join(str(error).split()):.200}") from None
