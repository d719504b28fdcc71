"""Compare the tokens that the engine chooses greedily, and the resulting texts, with the specification's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.decoding.loop import GeneratedSequence, generate
from ....refimpl.decoding.speculative import DraftModel, speculate
from ....refimpl.engine.cache_kinds import cache_kinds, recurrent
from ....refimpl.engine.numpy_engine import NumpyEngine
from ...bundle.golden_files import EXPECTED, HALF
from ..golden import Expected, Golden
from ..golden import golden as golden_arrays
from ..report import NOT_REACHED, Row
from ..streamed_reference import Inputs, Precision, outputs
from . import replay
from .context import VerifyContext
from .kernels import all_backends
from .text import bundle_tokenizer, reference_engine, why_no_texts

if TYPE_CHECKING:
    from ...ort.engine import OrtEngine

GREEDY_TOKENS = 32
PROMPTS = ("The best way to learn a language is", "A spider isn't an insect, because", "Once upon a time")
TEXT_TOKENS = 24


def check_greedy_tokens(context: VerifyContext) -> Iterator[Row]:
    """Check that each token that a backend chooses greedily is the specification's choice after the same
    tokens.

    Another token is allowed if its logit and the best logit, both in the specification, differ by no more
    than twice the budget. If they differ by more, the budget is measured again over the chosen tokens: a
    token that chooses other experts or blocks of keys after rounding moves logits by more than the golden
    tokens do.
    """
    backends = all_backends(context)
    for name, (engine, golden) in backends.items():
        yield _greedy_row(context, f"{name}greedy tokens equal the specification's", engine, golden)


def _greedy_row(context: VerifyContext, name: str, engine: OrtEngine, golden: Golden) -> Row:
    config, first_row = context.bundle.config, slice(0, 1)
    prompt = golden.tokens[0, : golden.split].tolist()
    sequence = GeneratedSequence(prompt, max_new_tokens=min(GREEDY_TOKENS, config.context - len(prompt)))
    cache = replay.start(engine, golden, first_row)
    chosen = list(generate(engine, sequence, cache))
    if not chosen:
        return Row(name, note="the model's context is too short")
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
    budget = golden.own.budget
    if gaps.max() > 2 * budget:
        budget = max(budget, _budget_over(context, golden, inputs))
    most = 2 * budget  # each of the two logits may be off by a budget
    note = ""
    if len(different):
        i = different[0]
        note = (
            f"token {i}: {chosen[i]} instead of {best[i]}, which is {gaps[i]:.2g} logits better for the "
            f"specification; rounding explains up to {most:.2g}"
        )
    ok = bool(gaps.max() <= most)
    equal = len(chosen) - len(different)
    return Row(name, equal, unit="tokens", ok=ok, note=note, of=len(chosen))


def _budget_over(context: VerifyContext, golden: Golden, inputs: Inputs) -> float:
    """Return the error budget of logits, measured over these inputs as `golden` measures it over its own."""
    bundle = context.bundle
    halved = "" if golden is context.golden else bundle.manifest.halved  # only kernels halve their cache
    known = replace(golden, **vars(inputs))
    arrays = golden_arrays(bundle.config, bundle.params(), dtype=bundle.dtype, halved=halved, like=known)
    own = Expected(*(arrays[f"own.{name}"] for name in EXPECTED))
    return replace(golden, own=own, half=arrays.get(HALF)).with_half_cache.own.budget


def check_greedy_texts(context: VerifyContext) -> Iterator[Row]:
    """Generate texts after some prompts, with the bundle on each backend and with the specification.

    The rows count how many tokens at the beginning of both texts are equal. The bundle and the specification
    decode independently, so after the first different token the texts are unrelated.
    """
    name = "greedy text"
    if missing := why_no_texts(context):
        yield Row(name, note=missing)
        return
    bundle, reference = context.bundle, reference_engine(context)
    tokenizer = bundle_tokenizer(bundle)
    backends = all_backends(context)
    for number, prompt in enumerate(PROMPTS, 1):
        if context.is_over(number - 1, len(PROMPTS)):
            yield Row(f"{name} {number}", missing=NOT_REACHED)
            return
        ids = tokenizer.encode(prompt)
        room = min(TEXT_TOKENS, bundle.config.context - len(ids))
        if not ids or room < 1:
            yield Row(f"{name} {number}", note="the model's context is too short")
            continue
        specified = _specified_tokens(context, reference, ids, room)
        for backend, (engine, _) in backends.items():
            own = list(generate(engine, _sequence(context, ids, room)))
            longest = max(len(own), len(specified))
            pairs = zip_longest(own, specified)
            shared = next((i for i, (one, other) in enumerate(pairs) if one != other), longest)
            texts = (prompt, tokenizer.decode(own), tokenizer.decode(specified))
            row_name = f"{backend}{name} {number}"
            yield Row(row_name, shared, unit="tokens shared", of=longest, texts=texts)


def _sequence(context: VerifyContext, ids: list[int], count: int) -> GeneratedSequence:
    stop_ids = frozenset(context.bundle.generation.eos)
    return GeneratedSequence(ids, stop_ids=stop_ids, max_new_tokens=count)


def _specified_tokens(
    context: VerifyContext, reference: NumpyEngine, ids: list[int], count: int
) -> list[int]:
    """Return at most `count` tokens that the specification chooses greedily after a prompt."""
    sequence = _sequence(context, ids, count)
    if recurrent(cache_kinds(context.bundle.config)):  # it can't take tokens back
        return list(generate(reference, sequence))
    # The bundle drafts, so that the specification computes a step only where the two disagree.
    return list(speculate(reference, sequence, DraftModel(context.engine, reference), count))
