"""What a tiny model is trained for: sentences of a small world, and which answers are right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from compare import models
from loop import Row, train
from tfm.refimpl.checkpoint.open import save_checkpoint
from tfm.refimpl.checkpoint.tokenizers import training
from tfm.refimpl.checkpoint.tokenizers.tokenizer import dumps, read
from tfm.refimpl.config import Attention, Config, Layer, Plain, RMSNorm
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.progress import Progress, silent
from tfm.runtime.tasks import Model
from tfm.runtime.text.tokenizer import Tokenizer

WIDTH, HEADS = 64, 4
BATCH = 32
NORM = RMSNorm(1e-5)


class Example(NamedTuple):
    """A text, and the right answer."""

    text: Any  # or a pair of texts
    answer: Any


@dataclass(frozen=True)
class Task:
    """A world and its model.

    `draw` makes an example, `row` what is learned of it; `answers` asks a model, whatever its engine, and
    `score` says how much of its answers is right, by the measure of that name. `rules` are keys of
    generation_config.json, `mask` is the name of the mask token, `alike` is of `loop.train`, and weights
    are saved as `dtype`.
    """

    name: str
    measure: str
    steps: int
    draw: Callable[[np.random.Generator], Example]
    tokenizer: Callable[[Iterable[str]], str]
    config: Callable[[int], Config]
    row: Callable[[Tokenizer, Example], Row]
    answers: Callable[[Model, list[str]], list[Any]]
    score: Callable[[Sequence[Any], Sequence[Any]], float]
    labels: tuple[str, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)
    mask: str | None = None
    alike: bool = False
    dtype: type[np.floating] = np.float32


def layer(**more: Any) -> Layer:
    """A layer of all these models; `more` is for its attention."""
    return Layer(attention(**more), Plain(2 * WIDTH, "gelu", pre=NORM))


def attention(**more: Any) -> Attention:
    return Attention(HEADS, HEADS, WIDTH // HEADS, pre=NORM, **more)


def trained(texts: Iterable[str], method: training.Method, size: int) -> str:
    """tokenizer.json of a vocabulary that the specification's own training makes of these texts."""
    words = training.count_words(list(texts), method)
    return dumps(training.train(words, method, size))


def opened(tokenizer: str) -> Tokenizer:
    """The tokenizer of a model that has a logit for each of its tokens."""
    return Tokenizer(tokenizer, len(read(tokenizer).vocabulary))


def right(answers: Sequence[Any], expected: Sequence[Any]) -> float:
    """The share of right answers."""
    return sum(a == w for a, w in zip(answers, expected, strict=True)) / len(expected)


def batches(task: Task, tokenizer: Tokenizer, seed: int, held_out: Iterable[str]) -> Iterator[list[Row]]:
    """Fresh examples without end, none of whose texts are held out."""
    rng, kept = np.random.default_rng(seed), frozenset(held_out)
    while True:
        rows: list[Row] = []
        while len(rows) < BATCH:
            example = task.draw(rng)
            if example.text not in kept:
                rows.append(task.row(tokenizer, example))
        yield rows


def learn(
    task: Task, folder: Path, examples: Sequence[Example], *, seed: int, progress: Progress = silent
) -> Path:
    """The directory in `folder` of a model that was trained without these examples."""
    rng = np.random.default_rng([seed, 1])
    tokenizer = task.tokenizer(task.draw(rng).text for _ in range(300))
    text = opened(tokenizer)
    config = task.config(text.vocabulary)
    rows = batches(task, text, seed, (example.text for example in examples))
    params = train(config, rows, task.steps, seed=seed, alike=task.alike, progress=progress)
    params = map_leaves(lambda _, leaf: leaf.astype(task.dtype), params)
    save_checkpoint(
        folder / task.name,
        config,
        params,
        tokenizer,
        labels=task.labels,
        mask=task.mask,
        generation=task.rules or None,
    )
    return folder / task.name


def compared(
    task: Task, path: Path, examples: Sequence[Example], quants: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Engine -> its score on the examples, and the share of them that it answers as NumPy does."""
    texts, expected = [e.text for e in examples], [e.answer for e in examples]
    answers = {name: task.answers(model, texts) for name, model in models(path, quants)}
    return {
        name: {"score": task.score(answer, expected), "as_numpy": right(answer, answers["numpy"])}
        for name, answer in answers.items()
    }
