"""A block of texts becomes the bytes of a result file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...refimpl.errors import BundleError, TfmError
from .callables import ROW, BatchTask, Columns
from .job import TASKS, identity
from .rows import Format

TEXT = "text"


class ComputeBlock:
    """A callable for Ray Data: of each block its number and the bytes of its results.

    BundleError where the bundle on this machine is another one than the job's.
    """

    def __init__(
        self, task: str, bundle: Path, options: Mapping[str, Any], expected: str, rows: int, format: Format
    ) -> None:
        if identity(bundle) != expected:
            raise BundleError(f"{bundle} must be the bundle that it is where the job was started")
        self._task = TASKS[task](bundle, column=TEXT, **options)
        self._rows = rows
        self._format: Format = format

    def __call__(self, batch: Any) -> Columns:
        """Of a pyarrow.Table with the columns block and texts, block and data."""
        numbers, texts = (batch.column(name).to_pylist() for name in ("block", "texts"))
        data = np.empty(len(numbers), object)
        for i, (number, some) in enumerate(zip(numbers, texts, strict=True)):
            data[i] = results(self._task, number * self._rows, some, self._format)
        return {"block": np.array(numbers), "data": data}


def results(task: BatchTask, first: int, texts: Sequence[str], format: Format) -> bytes:
    """What a task says of texts, with the numbers of their rows from `first` on, as a file."""
    numbers = np.arange(first, first + len(texts))
    column = np.empty(len(texts), object)
    column[:] = texts
    try:
        columns = task({ROW: numbers, TEXT: column})
    except TfmError as error:
        raise type(error)(f"of the rows {first} to {first + len(texts) - 1}, {error}") from None
    del columns[TEXT]
    return as_jsonl(columns) if format == "jsonl" else as_parquet(columns)


def as_jsonl(columns: Columns) -> bytes:
    """A line of JSON for each row; float32 in nine digits, which are enough to read the same number back."""
    values = {
        name: [[float(f"{x:.9g}") for x in row] for row in column] if column.ndim == 2 else column.tolist()
        for name, column in columns.items()
    }
    rows = (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))
    return "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows).encode()


def as_parquet(columns: Columns) -> bytes:
    """The columns as Parquet, vectors as lists of one length."""
    import pyarrow
    import pyarrow.parquet

    arrays = {
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(column.ravel()), column.shape[1])
        if column.ndim == 2
        else pyarrow.array(column.tolist())
        for name, column in columns.items()
    }
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(arrays), sink)
    return sink.getvalue().to_pybytes()
