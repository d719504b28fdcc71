"""Check that the graph's outputs for the golden tokens are within the budgets stored with these tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.config import CTC, LM, Config, MaskedLM, Pool
from ....refimpl.error_budget import largest_difference
from ...ort.session import choose
from ..golden import Expected, Golden, rms
from ..metrics import row_cosines
from ..report import Row, judged
from . import replay
from .context import VerifyContext

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from ...ort.engine import OrtEngine

ORT = "ONNX Runtime"
INTEGER_PRODUCTS, FLOAT_PRODUCTS = f"{ORT}, products of integers", f"{ORT}, products in float"
COSINE = "against unquantized weights: mean cosine"


def check_session(context: VerifyContext) -> Iterator[Row]:
    """Check that the graph starts on its device and that ONNX Runtime didn't fall back to another one."""
    provider = context.engine.session.get_providers()[0]
    yield Row("ONNX Runtime starts on", provider, ok=True)


def float_products_here(context: VerifyContext) -> OrtEngine | None:
    """Return an engine that runs the graph with products of blocks in float.

    Return None if no product rounds its input, or if the bundle doesn't run on the CPU.
    """
    from ...ort.engine import OrtEngine

    if context.golden.plain is None or choose(context.device, context.bundle.target) != "cpu":
        return None
    return OrtEngine(context.bundle, context.device, context.threads, plain=True)


def check_float_products(context: VerifyContext) -> Iterator[Row]:
    """Check the graph's outputs with products of blocks in floating point. In these products no input is
    rounded to a code, so the budget is tight.
    """
    expected, engine = context.golden.plain, float_products_here(context)
    if expected is None or engine is None:
        return
    outputs = context.backends[FLOAT_PRODUCTS] = replay.run_at_once(engine, context.golden)
    unit = output_unit(engine.config)
    yield from _errors("products in float", context.golden.view(outputs), expected, unit)


def check_golden_outputs(context: VerifyContext) -> Iterator[Row]:
    """Check the graph's outputs for the golden tokens, given all at once and in each other possible way, such
    as in chunks.
    """
    backend = ORT if context.golden.plain is None else INTEGER_PRODUCTS
    yield from golden_rows(context, context.engine, context.golden, backend)


def golden_rows(context: VerifyContext, engine: OrtEngine, golden: Golden, backend: str) -> Iterator[Row]:
    """Check an engine's outputs for the golden tokens, given all at once and in each other possible way, such
    as in chunks.

    `backend` is the engine's name in `context.backends`.
    """
    all_outputs = context.backends[backend] = replay.run_at_once(engine, golden)
    outputs, unit = golden.view(all_outputs), output_unit(engine.config)
    yield from _errors("whole", outputs, golden.own, unit)
    if isinstance(engine.config.head, LM | MaskedLM | CTC):
        yield _best_tokens(all_outputs, golden)
    if context.bundle.manifest.schemes:
        for name, distance in (("largest", largest_difference), ("RMS", rms)):
            figure = distance(outputs, golden.floats)
            yield Row(f"against unquantized weights: {name} error", figure, unit=unit)
        if isinstance(engine.config.head, Pool):
            yield Row(COSINE, float(row_cosines(outputs, golden.floats).mean()))
    if isinstance(engine.config.head, LM):
        first = golden.split
        rest = golden.tokens.shape[1] - first
        chunks = {
            "cached, token by token": [first] + [1] * rest,
            "in chunks": [first, rest] if rest else [first],
        }
        for name, lengths in chunks.items():
            yield _largest_error(context, golden, name, replay.run_in_chunks(engine, golden, lengths))
    elif engine.config.stem is None:  # a sound has no padding
        yield _largest_error(context, golden, "with more padding", replay.predict(engine, golden, padding=3))
    alone = [replay.run_at_once(engine, golden, slice(row, row + 1)) for row in range(len(golden.tokens))]
    yield _largest_error(context, golden, "each row alone", np.concatenate(alone))


def output_unit(config: Config) -> str:
    """Return the unit of the numbers that a model's head computes."""
    return "in vectors" if isinstance(config.head, Pool) else "logits"


def _best_tokens(outputs: Array, golden: Golden) -> Row:
    """Return a row that counts how many of the likeliest tokens are the specification's. Another token is
    allowed if the two tokens are nearly tied.
    """
    chosen, best = outputs.argmax(-1), golden.best[:, 0]
    different = np.flatnonzero(chosen != best)
    most = 2 * golden.own.budget  # each of two logits may be off by a budget
    note = ""
    if len(different):
        gap = golden.gap[different].max()
        note = f"the specification's are up to {gap:.2g} logits better; rounding explains up to {most:.2g}"
    ok = bool((golden.gap[different] <= most).all())
    equal = len(chosen) - len(different)
    return Row("likeliest tokens equal", equal, unit="tokens", ok=ok, note=note, of=len(chosen))


def _errors(name: str, outputs: Array, expected: Expected, unit: str) -> Iterator[Row]:
    error = largest_difference(outputs, expected.logits)
    yield judged(f"{name}: largest error", error, expected.budget, unit)
    yield judged(f"{name}: RMS error", rms(outputs, expected.logits), expected.rms_budget, unit)


def _largest_error(context: VerifyContext, golden: Golden, name: str, outputs: Array) -> Row:
    error = largest_difference(golden.view(outputs), golden.own.logits)
    unit = output_unit(context.bundle.config)
    return judged(f"{name}: largest error", error, golden.own.budget, unit)
