"""The tokens that an engine chooses, and how far the specification has others ahead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....refimpl.config import LM
from ....refimpl.decoding.loop import GeneratedSequence, generate
from ..report import Row
from ..streamed_reference import Inputs, Precision, outputs
from . import replay
from .context import VerifyContext

GREEDY = 32  # tokens of the greedy comparison


def greedy(climb: VerifyContext) -> Iterator[Row]:
    """The tokens that the engine chooses are those that the specification would, given the same past."""
    golden, config = climb.golden, climb.bundle.config
    if not isinstance(config.head, LM):
        return
    prompt = golden.tokens[0, : golden.split].tolist()
    text = GeneratedSequence(prompt, max_new_tokens=min(GREEDY, config.context - len(prompt)))
    first = slice(0, 1)
    chosen = list(generate(climb.engine, text, replay.start(climb.engine, golden, first)))
    if not chosen:
        yield Row("greedy tokens equal the specification's", note="the context has no room")
        return
    ids = np.array([[*prompt, *chosen[:-1]]])
    read = () if golden.source is None else (golden.source[first], golden.source_lengths[first])  # pyright: ignore[reportOptionalSubscript]
    given, run = Inputs(ids, np.array([ids.shape[1]]), *read), Precision(np.dtype(np.float32))
    truth = outputs(config, climb.bundle.params(), given, [run])[0][0, len(prompt) - 1 :]
    best = truth.argmax(-1)
    gaps = truth.max(-1) - truth[np.arange(len(chosen)), chosen]
    differ = np.flatnonzero(best != chosen)
    note = ""
    if len(differ):
        i = differ[0]
        note = f"token {i}: {chosen[i]} for {best[i]}, which the specification has {gaps[i]:.2g} ahead"
    # Two logits may each have moved by the budget.
    ok = bool(gaps.max() <= 2 * golden.own.budget)
    yield Row(
        "greedy tokens equal the specification's", len(chosen) - len(differ), len(chosen), "tokens", ok, note
    )
