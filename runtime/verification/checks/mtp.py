"""Check that a module for drafts (MTP) makes the same predictions as the specification's module from the same
vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

from ....refimpl.engine.numpy_engine import NumpyEngine
from ....refimpl.error_budget import largest_difference
from ..report import Row, judged
from .context import VerifyContext

SUBJECT = "the module for drafts (mtp)"


def check_module(context: VerifyContext) -> Iterator[Row]:
    """Check the logits of the module for drafts after the last golden token of the first row.

    The module reads pairs of a token and a vector. In one run the module reads all pairs at once. In another
    run it reads the last pair by itself, after the others. The specification runs only the module, so the
    vectors come from the bundle's graph; other checks compare the logits of this graph. The budget is the
    same as for the model's own logits.
    """
    name, golden = f"{SUBJECT}: largest error", context.golden
    tokens = golden.tokens[:1, : int(golden.lengths[0])]
    if tokens.shape[1] < 3:
        yield Row(name, note="the golden text has fewer than three tokens")
        return
    engine, specification = context.engine, NumpyEngine(context.bundle.config, context.bundle.params())
    _, hidden, _ = engine.step_with_hidden(tokens, engine.start(1))
    pairs, vectors = tokens[:, 1:], hidden[:, :-1]
    expected, _, _ = specification.step_mtp(pairs, vectors, specification.start_mtp())
    whole, _, _ = engine.step_mtp(pairs, vectors, engine.start_mtp())
    _, _, cache = engine.step_mtp(pairs[:, :-1], vectors[:, :-1], engine.start_mtp())
    last, _, _ = engine.step_mtp(pairs[:, -1:], vectors[:, -1:], cache)
    for how, logits in (("all pairs at once", whole), ("the last alone", last)):
        error = largest_difference(logits[0, -1], expected[0, -1])
        yield judged(f"{name}, {how}", error, golden.own.budget, "logits")
