"""The tokens that the engine chooses greedily, and texts of them, beside the specification's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from ....refimpl.decoding.loop import GeneratedSequence, generate
from ....refimpl.decoding.speculative import DraftModel, speculate
from ....refimpl.engine.cache_kinds import cache_kinds, recurrent
from ....refimpl.engine.numpy_engine import NumpyEngine
from ..report import NOT_REACHED, Row
from ..streamed_reference import Inputs, Precision, outputs
from . import replay
from .context import VerifyContext
from .text import bundle_tokenizer, reference_engine, why_no_texts

GREEDY_TOKENS = 32
PROMPTS = ("The best way to learn a language is", "A spider isn't an insect, because", "Once upon a time")
TEXT_TOKENS = 24


def check_greedy_tokens(context: VerifyContext) -> Iterator[Row]:
    """Each token that the engine chooses is the specification's, given the engine's tokens before it.

    Another token is allowed where the specification's two logits differ by no more than two budgets.
    """
    name = "greedy tokens equal the specification's"
    golden, config = context.golden, context.bundle.config
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
    most = 2 * golden.own.budget  # each of the two logits may be off by a budget
    note = ""
    if len(different):
        i = different[0]
        note = (
            f"token {i}: {chosen[i]} for {best[i]}, which the specification has {gaps[i]:.2g} logits ahead; "
            f"up to {most:.2g} count as a tie"
        )
    ok = bool(gaps.max() <= most)
    equal = len(chosen) - len(different)
    yield Row(name, equal, unit="tokens", ok=ok, note=note, of=len(chosen))


def check_greedy_texts(context: VerifyContext) -> Iterator[Row]:
    """What the bundle and the specification write after some prompts, and how many tokens they share.

    Both decode on their own, so after the first other token the texts have nothing to do with each other.
    """
    name = "greedy text"
    if missing := why_no_texts(context):
        yield Row(name, note=missing)
        return
    bundle, reference = context.bundle, reference_engine(context)
    tokenizer = bundle_tokenizer(bundle)
    for number, prompt in enumerate(PROMPTS, 1):
        if context.is_over(number - 1, len(PROMPTS)):
            yield Row(f"{name} {number}", missing=NOT_REACHED)
            return
        ids = tokenizer.encode(prompt)
        room = min(TEXT_TOKENS, bundle.config.context - len(ids))
        if not ids or room < 1:
            yield Row(f"{name} {number}", note="the context has no room")
            continue

        own, specified = _greedy_tokens(context, reference, ids, room)
        longest = max(len(own), len(specified))
        pairs = zip_longest(own, specified)
        shared = next((i for i, (one, other) in enumerate(pairs) if one != other), longest)
        texts = (prompt, tokenizer.decode(own), tokenizer.decode(specified))
        yield Row(f"{name} {number}", shared, unit="tokens shared", of=longest, texts=texts)


def _greedy_tokens(
    context: VerifyContext, reference: NumpyEngine, ids: list[int], count: int
) -> tuple[list[int], list[int]]:
    """The bundle's and the specification's greedy tokens after a prompt."""

    def sequence() -> GeneratedSequence:
        stop_ids = frozenset(context.bundle.generation.eos)
        return GeneratedSequence(ids, stop_ids=stop_ids, max_new_tokens=count)

    if recurrent(cache_kinds(context.bundle.config)):  # it can't take tokens back
        return list(generate(context.engine, sequence())), list(generate(reference, sequence()))
    # The bundle drafts, so that the specification computes a step only where the two disagree.
    drafts = DraftModel(context.engine, reference)
    specified = list(speculate(reference, sequence(), drafts, count))
    return list(generate(context.engine, sequence())), specified
