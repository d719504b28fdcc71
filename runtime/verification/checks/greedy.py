"""The tokens that the engine chooses greedily are the specification's, or nearly tied with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....refimpl.config import LM
from ....refimpl.decoding.loop import GeneratedSequence, generate
from ..report import Row
from ..streamed_reference import Inputs, Precision, outputs
from . import replay
from .context import VerifyContext

GREEDY_TOKENS = 32


def check_greedy_tokens(context: VerifyContext) -> Iterator[Row]:
    """Each token that the engine chooses is the specification's, given the engine's tokens before it.

    Another token is allowed where the specification's two logits differ by no more than two budgets.
    """
    name = "greedy tokens equal the specification's"
    golden, config = context.golden, context.bundle.config
    if not isinstance(config.head, LM):
        return
    first_row = slice(0, 1)
    prompt = golden.tokens[0, : golden.split].tolist()
    sequence = GeneratedSequence(prompt, max_new_tokens=min(GREEDY_TOKENS, config.context - len(prompt)))
    cache = replay.start(context.engine, golden, first_row)
    chosen = list(generate(context.engine, sequence, cache))
    if not chosen:
        yield Row(name, note="the context has no room")
        return
    ids = np.array([[*prompt, *chosen[:-1]]])
    inputs = Inputs(ids, np.array([ids.shape[1]]))
    if golden.encoder_ids is not None and golden.encoder_lengths is not None:
        encoder_ids, encoder_lengths = golden.encoder_ids[first_row], golden.encoder_lengths[first_row]
        inputs = Inputs(ids, inputs.lengths, encoder_ids, encoder_lengths)
    (logits,) = outputs(config, context.bundle.params(), inputs, [Precision(np.dtype(np.float32))])
    logits = logits[0, len(prompt) - 1 :]
    best = logits.argmax(-1)
    gaps = logits.max(-1) - logits[np.arange(len(chosen)), chosen]
    different = np.flatnonzero(best != chosen)
    note = ""
    if len(different):
        i = different[0]
        note = f"token {i}: {chosen[i]} for {best[i]}, which the specification has {gaps[i]:.2g} ahead"
    # Each of the two logits may be off by a budget.
    ok = bool(gaps.max() <= 2 * golden.own.budget)
    yield Row(name, len(chosen) - len(different), len(chosen), "tokens", ok, note)
