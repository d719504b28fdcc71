"""Offer tasks as callables for Ray Data's `map_batches`. A Ray actor loads its bundle once and gets batches
of NumPy arrays.

    texts.map_batches(Embed, fn_constructor_args=["/models/minilm"], num_cpus=1, concurrency=(1, 8))

Each callable returns its batch with additional columns. The callables are plain Python and work the same
without Ray. A model computes with `threads` threads. Give Ray the same number as `num_cpus`. The other
texts of a batch can change how a text's sums are rounded, unless the model promises the same bits for any
batch (`runtime.bundle.same_bits`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from ...refimpl import config
from ...refimpl.checkpoint.labels import Aggregation
from ...refimpl.errors import ArgumentError, LimitError
from ..tasks import GenerateOptions, Model, encoder_batches, generate_batch, load
from ..tasks.tag import OUTSIDE

Columns = dict[str, np.ndarray]  # a batch: the columns' names, and of each as many values
ROW = "row"  # the column with the numbers of rows


class BatchTask(ABC):
    """The base class of the callables for Ray Data.

    - `model`: a loaded model, or the path of a bundle on the machine that computes.
    - `column`: the name of the column of texts.
    - `batch`: how many texts the model computes at a time.
    - `device`, `threads`: where and with how many threads a bundle runs.
    """

    head: type[config.Head]

    def __init__(
        self,
        model: Path | str | Model,
        *,
        column: str = "text",
        batch: int = encoder_batches.BATCH,
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        """Load the model. Raises ConfigError if the model is for another task, and the errors of
        `tfm.runtime.load`.
        """
        self.model = model if isinstance(model, Model) else load(Path(model), device, threads)
        self.model.expect(self.head)
        self._column, self._batch = column, batch

    @abstractmethod
    def __call__(self, batch: Columns) -> Columns:
        """Return the batch with the columns that the task adds. Raises the errors of `texts` and of the
        task.
        """

    def texts(self, batch: Columns) -> list[str]:
        """Return the texts of a batch as a list.

        Raises ArgumentError if the batch has no column of texts, or LimitError if a value is blank or not
        a text.
        """
        if self._column not in batch:
            raise ArgumentError(f"a batch must have the column {self._column!r}, got {', '.join(batch)}")
        texts = [text.item() if isinstance(text, np.generic) else text for text in batch[self._column]]
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise LimitError(f"text {i + 1} must be a text that isn't blank, got {text!r:.80}")
        return texts


class Embed(BatchTask):
    """A callable that adds the column `embedding`, [N, D] in float32: one vector for each text. See
    `Model.embed`.
    """

    head = config.Pool

    def __call__(self, batch: Columns) -> Columns:
        return {**batch, "embedding": self.model.embed(self.texts(batch), batch=self._batch)}


class Classify(BatchTask):
    """A callable that adds the column `labels`: for each text a list of {label, score}, the likeliest label
    first. See `Model.classify`.
    """

    head = config.Classify

    def __call__(self, batch: Columns) -> Columns:
        found = self.model.classify(self.texts(batch), batch=self._batch)
        return {**batch, "labels": _objects([[one._asdict() for one in labels] for labels in found])}


class Tag(BatchTask):
    """A callable that adds the column `entities`: for each text a list of {label, score, start, end, text}.
    See `Model.tag`.
    """

    head = config.Tag

    def __init__(
        self,
        model: Path | str | Model,
        *,
        aggregation: Aggregation = "simple",
        outside: Sequence[str] = (OUTSIDE,),
        column: str = "text",
        batch: int = encoder_batches.BATCH,
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        super().__init__(model, column=column, batch=batch, device=device, threads=threads)
        self._aggregation: Aggregation = aggregation
        self._outside = outside

    def __call__(self, batch: Columns) -> Columns:
        found = self.model.tag(
            self.texts(batch), aggregation=self._aggregation, outside=self._outside, batch=self._batch
        )
        return {**batch, "entities": _objects([[one._asdict() for one in entities] for entities in found])}


class Generate(BatchTask):
    """A callable that adds the columns `completion` and `finish_reason`. See `Model.generate_many`.

    The random numbers for a text depend on the seed and on the text's number in the column `row`, but not
    on the batch of the text. Without the column `row`, only greedy decoding is possible.
    """

    head = config.LM

    def __init__(
        self,
        model: Path | str | Model,
        *,
        raw: bool = False,
        column: str = "text",
        batch: int = generate_batch.BATCH,
        device: str = "cpu",
        threads: int | None = 1,
        **options: Unpack[GenerateOptions],
    ) -> None:
        super().__init__(model, column=column, batch=batch, device=device, threads=threads)
        self._raw, self._options = raw, options
        self._draws = not self.model.options(raw=raw, **options).sampler.greedy

    def __call__(self, batch: Columns) -> Columns:
        if self._draws and ROW not in batch:
            raise ArgumentError(
                f"a batch must have the column {ROW!r} with a whole number for each text, from which tfm "
                "makes the text's random numbers; without this column, use greedy=True"
            )
        numbers = [int(number) for number in batch[ROW]] if ROW in batch else None
        made = self.model.generate_many(
            self.texts(batch), numbers=numbers, raw=self._raw, batch=self._batch, **self._options
        )
        return {
            **batch,
            "completion": _objects([one.text for one in made]),
            "finish_reason": _objects([one.finish_reason for one in made]),
        }


def _objects(values: Sequence[object]) -> np.ndarray:
    """Return a column [N] of Python objects. NumPy itself would turn lists into further axes."""
    column = np.empty(len(values), object)
    column[:] = values
    return column
