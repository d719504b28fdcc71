"""Compare outputs over a text with the specification's: predictions of tokens, or outputs of an encoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ....refimpl.config import LM, Config, Decoder
from ....refimpl.engine.numpy_engine import NumpyEngine
from ....refimpl.engine.protocol import Engine
from ....refimpl.error_budget import kl_budget
from ...bundle.bundle import Bundle
from ...text.tokenizer import Tokenizer, read_tokenizer
from ..golden import Golden
from ..metrics import Likeness, Pair, fidelities, fidelity, likeness
from ..report import Row, judged
from ..specification_error import Figure, budget_over_text, kl_budget_over_text
from .context import VerifyContext
from .kernels import all_backends
from .logits import float_products_here, output_unit
from .rounding_limit import FLOATS, REFERENCE, pairs, rounding_limit, yardsticks

WINDOW = 512
KL = "KL divergence over a text"
PLAIN = "ONNX Runtime, products in float"
FLOAT_KL = f"products in float: {KL}"
AGREEMENT, PERPLEXITY = "same best token over a text", "perplexity over a text"
REFERENCE_PERPLEXITY = "perplexity of the specification"
DEFAULT_TEXT = (
    "Water boils at one hundred degrees at sea level, and at a lower temperature on a mountain, "
    "because the air above it presses less. A kettle that sings in the valley is quiet longer up "
    "there, and an egg needs more time. People who live high up know this without a thermometer. "
    "They put a lid on the pot, wait a little longer, and talk about the weather, which changes "
    "quickly where the clouds pass through the village instead of over it. In the evening the wind "
    "turns, the smoke of the fires goes down the slope, and the first lights of the town below can "
    "be seen. Then somebody says that tomorrow will be clear, and most of the time this is true."
)


def check_text(context: VerifyContext) -> Iterator[Row]:
    """Compare outputs over a text that both models read. If both have the same weights, a budget limits the
    difference.

    The reference is the specification over the source's weights. Without a source, it uses the bundle's
    weights.
    """
    bundle, source = context.bundle, context.source
    generates = isinstance(bundle.config.head, LM)
    name = KL if generates else "likeness over a text"
    if missing := why_no_texts(context):
        yield Row(name, note=missing)
        return
    exact = source is None or (
        bundle.dtype == "float32" and not bundle.manifest.schemes and source.config == bundle.config
    )
    over = "the bundle's weights" if source is None else "the source"
    compare = _compare_predictions if generates else _compare_encoders
    note, text = f"against the specification over {over}", context.text or DEFAULT_TEXT
    yield from compare(context, reference_engine(context), bundle_tokenizer(bundle), text, note, exact)


def why_no_texts(context: VerifyContext) -> str:
    """Return the reason why the bundle can't be compared on texts. Return an empty text if it can."""
    if context.bundle.tokenizer is None:
        return "the bundle has no tokenizer"
    if context.source is None and context.bundle.dtype == "float16":
        return "a bundle in float16 needs its source for this check"
    return ""


def reference_engine(context: VerifyContext) -> NumpyEngine:
    """Return the specification over the source's weights. Without a source, return the specification over the
    bundle's weights.
    """
    if context.source is None:
        return NumpyEngine(context.bundle.config, context.bundle.params())
    return NumpyEngine(context.source.config, context.source.params)


def bundle_tokenizer(bundle: Bundle) -> Tokenizer:
    """Return the tokenizer of a bundle; the bundle must have one."""
    tokenizer = read_tokenizer(bundle, bundle.config)
    assert tokenizer is not None
    return tokenizer


def window_of_text(config: Config, tokenizer: Tokenizer) -> tuple[int, list[int]]:
    """Return the number of tokens in a window of text, and the special tokens with which each window begins.

    Only a decoder without an encoder has such tokens at the beginning of its windows.
    """
    window = min(WINDOW, config.context)
    before = tokenizer.before_text if isinstance(config, Decoder) else []
    return window, before[: window - 1]


def _compare_predictions(
    context: VerifyContext, reference: NumpyEngine, tokenizer: Tokenizer, text: str, note: str, exact: bool
) -> Iterator[Row]:
    """Compare predictions of the next token over a text. Yield rows for each backend that runs the bundle."""
    ids = tokenizer.encode(text)
    if not ids:
        yield Row(KL, note="the text has no token")
        return
    window, before = window_of_text(reference.config, tokenizer)
    measured = yardsticks(context, reference)
    plain = float_products_here(context)
    own = {} if plain is None else {PLAIN: plain}
    backends = all_backends(context)
    results = fidelities(
        {**measured, **own, **{name: engine for name, (engine, _) in backends.items()}},
        [*pairs(measured), *((FLOATS, name) for name in own), *((REFERENCE, name) for name in backends)],
        ids,
        window,
        before=before,
        enough=lambda done: context.is_over(done, len(ids)),
    )
    kls = {pair: result.kl for pair, result in results.items()}
    read = ids[: results[REFERENCE, ""].positions]
    note = f"{len(read)} of {len(ids)} tokens, {note}"

    def kl_of(truth: Engine) -> Figure:
        return lambda engine: fidelity(engine, truth, read, window, before=before).kl

    for name, (_, golden) in backends.items():
        result = results[REFERENCE, name]
        row = _divergence(context, reference, golden, kls, result.kl, kl_of(reference), note, exact)
        yield replace(row, name=f"{name}{KL}")
        yield Row(f"{name}{AGREEMENT}", result.agreement, unit="of positions", note=note)
        yield Row(f"{name}{PERPLEXITY}", result.perplexity, note=note)
        if not name:
            yield Row(REFERENCE_PERPLEXITY, result.reference_perplexity, note=note)
    if own:
        yield _float_divergence(context, measured[FLOATS], kls[FLOATS, PLAIN], kl_of(measured[FLOATS]), note)


def _float_divergence(
    context: VerifyContext, specification: NumpyEngine, kl: float, kl_of: Figure, note: str
) -> Row:
    """Return a row with the KL divergence between the graph and the specification, both with products in
    float. No input is rounded to a code, so the budget is tight.
    """
    assert context.golden.plain is not None
    budget = kl_budget(context.golden.plain.budget)
    if kl > budget:
        budget = kl_budget_over_text(specification, context.golden.plain.budget, kl_of)
    return judged(FLOAT_KL, kl, budget, "nats a token", note)


def _divergence(
    context: VerifyContext,
    reference: NumpyEngine,
    golden: Golden,
    kls: Mapping[Pair, float],
    kl: float,
    kl_of: Figure,
    note: str,
    exact: bool,
) -> Row:
    """Return a row with a backend's KL divergence from the reference.

    For weights in few bits, the divergence must be within what rounding explains. For the same weights in
    floats, it must be within the budget of the golden outputs."""
    budget = np.inf
    if context.bundle.manifest.schemes:
        budget = rounding_limit(kls, golden)
    elif exact:
        budget = kl_budget(golden.own.budget)
        if kl > budget:
            budget = kl_budget_over_text(reference, golden.own.budget, kl_of)
    # Equal probabilities for all tokens are at most log V nats away: a wider budget says nothing.
    if budget < np.log(reference.config.embedding.vocabulary):
        return judged(KL, kl, budget, "nats a token", note)
    finite = None if np.isfinite(kl) else False
    return Row(KL, kl, unit="nats a token", ok=finite, note=note)


def _compare_encoders(
    context: VerifyContext, reference: NumpyEngine, tokenizer: Tokenizer, text: str, note: str, exact: bool
) -> Iterator[Row]:
    """Compare the outputs of an encoder's head, sentence by sentence. Yield rows for each backend that runs
    the bundle.
    """
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", text) if s.strip()]
    texts = [tokenizer.encode(s, add_special_tokens=True)[: reference.config.context] for s in sentences]
    texts = [ids for ids in texts if ids]
    if not texts:
        yield Row("likeness over a text", note="the text has no token")
        return
    backends = all_backends(context)
    for name, (engine, golden) in backends.items():
        result = likeness(engine, reference, texts, enough=lambda done: context.is_over(done, len(texts)))
        of_all = f"{result.texts} of {len(texts)} sentences, {note}"
        for row in _encoder_rows(context, reference, golden, result, texts, of_all, exact):
            yield replace(row, name=f"{name}{row.name}")


def _encoder_rows(
    context: VerifyContext,
    reference: NumpyEngine,
    golden: Golden,
    result: Likeness,
    texts: list[list[int]],
    note: str,
    exact: bool,
) -> Iterator[Row]:
    unit, compared = output_unit(reference.config), texts[: result.texts]
    if exact:
        budget = golden.own.rms_budget
        if result.rms > budget and not context.bundle.manifest.schemes:
            budget = budget_over_text(
                reference, budget, lambda engine: likeness(engine, reference, compared).rms
            )
        yield judged("RMS error over a text", result.rms, budget, unit, note)
    else:
        finite = None if np.isfinite(result.rms) else False
        yield Row("RMS error over a text", result.rms, unit=unit, ok=finite, note=note)
    yield Row("mean cosine over a text", result.cosine)
    yield Row("lowest cosine over a text", result.lowest)
    if result.kl is not None:

        def kl_of(engine: Engine, truth: Engine = reference) -> float:
            kl = likeness(engine, truth, compared).kl
            assert kl is not None, "the head predicts tokens"
            return kl

        engines = yardsticks(context, reference)
        kls = {(truth, model): kl_of(engines[model], engines[truth]) for truth, model in pairs(engines)}
        yield _divergence(context, reference, golden, kls, result.kl, kl_of, note, exact)
        yield Row(AGREEMENT, result.agreement, unit="of positions", note=note)
