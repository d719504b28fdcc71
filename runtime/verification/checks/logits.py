"""The graph says what the specification says of the golden tokens, within the budgets kept with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.config import LM
from ....refimpl.error_budget import largest_difference
from ...ort.session import choose
from ..golden import Says, rms
from ..report import Row, judged
from . import replay
from .context import VerifyContext

if TYPE_CHECKING:
    from numpy import ndarray as Array


def session(climb: VerifyContext) -> Iterator[Row]:
    """The graph starts on the device that it was made for, and not on another one in silence."""
    engine = climb.engine
    provider = engine.session.get_providers()[0]  # pyright: ignore[reportAttributeAccessIssue]
    yield Row("ONNX Runtime starts on", provider, ok=True)


def sharp(climb: VerifyContext) -> Iterator[Row]:
    """The same graph with products of blocks in float, where no code can flip: every digit counts."""
    from ...ort.engine import OrtEngine

    plain = climb.golden.plain
    if plain is None or choose(climb.device, climb.bundle.target) != "cpu":
        return
    engine = OrtEngine(climb.bundle, climb.device, climb.threads, plain=True)
    found = replay.whole(engine, climb.golden)
    yield from _errors("products in float", climb.golden.view(found), plain)


def numbers(climb: VerifyContext) -> Iterator[Row]:
    """What is said of the golden tokens, whole, and however the tokens are handed over."""
    golden, engine = climb.golden, climb.engine
    length = golden.tokens.shape[1]
    whole = golden.view(replay.whole(engine, golden))
    yield from _errors("whole", whole, golden.own)
    if climb.bundle.manifest.schemes:
        for name, measure in (("largest", largest_difference), ("RMS", rms)):
            figure = measure(whole, golden.floats)
            yield Row(f"against unquantized weights: {name} error", figure)
    if not isinstance(engine.config.head, LM):
        yield _way(climb, "with more padding", replay.predict(engine, golden, padding=3))
    else:
        ways = {
            "cached, token by token": [golden.split] + [1] * (length - golden.split),
            "in chunks": [golden.split, length - golden.split] if length > 1 else [1],
        }
        for name, pieces in ways.items():
            yield _way(climb, name, replay.run(engine, golden, pieces))
    alone = [replay.whole(engine, golden, slice(row, row + 1)) for row in range(len(golden.tokens))]
    yield _way(climb, "each row alone", np.concatenate(alone))


def _errors(name: str, found: Array, says: Says) -> Iterator[Row]:
    yield judged(f"{name}: largest error", largest_difference(found, says.logits), says.budget)
    yield judged(f"{name}: RMS error", rms(found, says.logits), says.rms_budget)


def _way(climb: VerifyContext, name: str, logits: Array) -> Row:
    golden = climb.golden
    error = largest_difference(golden.view(logits), golden.own.logits)
    return judged(f"{name}: largest error", error, golden.own.budget)
