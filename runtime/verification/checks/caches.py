"""Check the cost of smaller caches: caches that drop tokens outside of windows, and caches in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.engine.cache_kinds import CHUNK, cache_kinds
from ....refimpl.error_budget import largest_difference
from ...bundle.manifest import CACHE_BUDGET
from ..metrics import fidelity
from ..report import NOT_REACHED, Row, judged
from ..streamed_reference import SEED
from .context import VerifyContext
from .replay import start
from .rounding_limit import float_products
from .text import DEFAULT_TEXT, bundle_tokenizer, window_of_text

if TYPE_CHECKING:
    pass


def check_window_caches(context: VerifyContext) -> Iterator[Row]:
    """Check that two caches give the same logits: one that drops tokens outside of windows, and one that
    keeps all tokens.
    """
    bundle = context.bundle
    config = bundle.config
    name = "caches of windows, tokens dropped: largest error"
    kinds = cache_kinds(config, windowed=True)
    entries = max(kind.entries(config.context) for kind in kinds if kind.window is not None)
    # The buffer is filled, and once more a whole run is added: the last run then sees no early token.
    length = min(entries + CHUNK, config.context)
    ids = np.random.default_rng(SEED).integers(0, config.embedding.vocabulary, (1, length))
    from ...ort.engine import OrtEngine

    keeps_all = OrtEngine(bundle, context.device, context.threads, chunk=config.context)
    results = []
    for engine in (context.engine, keeps_all):
        cache = start(engine, context.golden, slice(1))
        logits = np.zeros((1, 1, 0))
        for begin in range(0, length, CHUNK):
            if context.is_over(len(results) * length + begin, 2 * length):
                yield Row(name, note=f"reading {2 * length} tokens takes too long", missing=NOT_REACHED)
                return
            logits, cache = engine.step(ids[:, begin : begin + CHUNK], cache)
        results.append(logits)
    error = largest_difference(results[0], results[1])
    yield judged(name, error, context.golden.own.budget, "logits", f"after {length} tokens")


def check_stated_cost(context: VerifyContext) -> Iterator[Row]:
    """Check that the cost of keys and values in 4 bits, which the export measured, is within its limit."""
    name = "KL divergence over the text of its scales, of the cache in int4"
    cost = context.bundle.manifest.cache_kl
    assert cost is not None
    yield judged(name, cost, CACHE_BUDGET, "nats a token", "measured by the export")


def check_quantized_cache(context: VerifyContext) -> Iterator[Row]:
    """Measure the cost of keys and values in few bits: the KL divergence from the specification with keys and
    values in floats.

    Products are computed in floating point. Otherwise some activations would be rounded to other codes, and
    that would outweigh the effect of the cache.
    """
    bundle = context.bundle
    name = f"KL divergence over a text, of the cache in {bundle.config.kv}"
    if bundle.tokenizer is None:
        yield Row(name, note="the bundle has no tokenizer")
        return

    rounded, exact = float_products(bundle), float_products(bundle, bundle.config.with_kv("float"))
    tokenizer = bundle_tokenizer(bundle)
    ids = tokenizer.encode(context.text or DEFAULT_TEXT)
    window, before = window_of_text(bundle.config, tokenizer)
    result = fidelity(
        rounded, exact, ids, window, before=before, enough=lambda done: context.is_over(done, len(ids))
    )
    note = f"{result.positions} of {len(ids)} tokens, products in float"
    yield Row(name, result.kl, unit="nats a token", ok=None if np.isfinite(result.kl) else False, note=note)
