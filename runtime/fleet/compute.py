"""Turn a block of texts into the bytes of a result file."""

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
    """A callable for Ray Data that computes blocks of texts. It returns the number of each block and the
    bytes of its results.

    The constructor raises BundleError if the bundle on this machine isn't the job's bundle.
    """

    def __init__(
        self, task: str, bundle: Path, options: Mapping[str, Any], expected: str, rows: int, format: Format
    ) -> None:
        if identity(bundle) != expected:
            raise BundleError(
                f"the bundle {bundle} must be the same on every machine of the job, but this machine's "
                "bundle differs"
            )
        self._task = TASKS[task](bundle, column=TEXT, **options)
        self._rows = rows
        self._format: Format = format

    def __call__(self, batch: Any) -> Columns:
        """Compute a pyarrow.Table with the columns "block" and "texts". Returns the columns "block" and
        "data".
        """
        numbers, texts = (batch.column(name).to_pylist() for name in ("block", "texts"))
        data = np.empty(len(numbers), object)
        for i, (number, some) in enumerate(zip(numbers, texts, strict=True)):
            data[i] = results(self._task, number * self._rows, some, self._format)
        return {"block": np.array(numbers), "data": data}


def results(task: BatchTask, first: int, texts: Sequence[str], format: Format) -> bytes:
    """Compute a task for texts, and return the results as the bytes of a result file.

    The first text has the row number `first`, and the others follow.
    """
    numbers = np.arange(first, first + len(texts))
    column = np.empty(len(texts), object)
    column[:] = texts
    try:
        columns = task({ROW: numbers, TEXT: column})
    except TfmError as error:
        raise type(error)(f"rows {first} to {first + len(texts) - 1}: {error}") from None
    del columns[TEXT]
    return as_jsonl(columns) if format == "jsonl" else as_parquet(columns)


def as_jsonl(columns: Columns) -> bytes:
    """Return the columns as bytes with one line of JSON for each row.

    A float32 is written with nine digits, from which a reader gets back the same number.
    """
    values = {
        name: [[float(f"{x:.9g}") for x in row] for row in column] if column.ndim == 2 else column.tolist()
        for name, column in columns.items()
    }
    rows = (dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True))
    return "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows).encode()


def as_parquet(columns: Columns) -> bytes:
    """Return the columns as the bytes of a Parquet file. A column of vectors becomes lists of a fixed
    length.
    """
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
