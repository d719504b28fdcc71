"""Tasks as callables for Ray Data's `map_batches`: an actor loads its bundle once and gets NumPy batches.

    texts.map_batches(Embed, fn_constructor_args=["/models/minilm"], num_cpus=1, concurrency=(1, 8))

Each callable returns its batch with additional columns. The callables are plain Python and work the same
without Ray. A model computes with `threads` threads. Give Ray the same number as `num_cpus`. The other texts
of a batch can change how a text's sums are rounded, unless the model promises the same bits for any batch
(`runtime.bundle.same_bits`).
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
    """The base class of the callables.

    A callable takes a bundle, as a path on the machine that computes, or a model that is already loaded. A
    callable also takes the name of the column of texts, and the number of texts to compute at a time.
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
        """Raise ConfigError for a model that is for another task, and the errors of `tfm.runtime.load`."""
        self.model = model if isinstance(model, Model) else load(Path(model), device, threads)
        self.model.expect(self.head)
        self._column, self._batch = column, batch

    @abstractmethod
    def __call__(self, batch: Columns) -> Columns:
        """Return the batch with the columns of the task; raises what `texts` and the task's method raise."""

    def texts(self, batch: Columns) -> list[str]:
        """Return the texts of a batch.

        Raises ArgumentError for a missing column, LimitError for a value that isn't a text or is blank.
        """
        if self._column not in batch:
            raise ArgumentError(f"a batch must have the column {self._column!r}, got {', '.join(batch)}")
        texts = [text.item() if isinstance(text, np.generic) else text for text in batch[self._column]]
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise LimitError(f"text {i + 1} must be a text that isn't blank, got {text!r:.80}")
        return texts


class Embed(BatchTask):
    """Adds `embedding`, [N, D] in float32: one vector for each text. `Model.embed` explains the options."""

    head = config.Pool

    def __call__(self, batch: Columns) -> Columns:
        return {**batch, "embedding": self.model.embed(self.texts(batch), batch=self._batch)}


class Classify(BatchTask):
    """Adds `labels`: for each text a list of {label, score}, the likeliest first; see `Model.classify`."""

    head = config.Classify

    def __call__(self, batch: Columns) -> Columns:
        found = self.model.classify(self.texts(batch), batch=self._batch)
        return {**batch, "labels": _objects([[one._asdict() for one in labels] for labels in found])}


class Tag(BatchTask):
    """Adds `entities`: for each text a list of {label, score, start, end, text}; see `Model.tag`."""

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
    """Adds `completion` and `finish_reason`; see `Model.generate_many`.

    The random numbers for a text depend on the seed and on the text's number in the column `row`, but not on
    the batch that the text is in. Without that column, only greedy decoding is possible.
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
                f"a batch must have the column {ROW!r}, whole numbers from which each text's random "
                "numbers are made; without this column, use greedy=True"
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
    """A column [N] of Python objects; NumPy would make more axes of lists."""
    column = np.empty(len(values), object)
    column[:] = values
    return column
