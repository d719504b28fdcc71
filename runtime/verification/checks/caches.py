"""What caches cost that keep less: those that drop what no window sees, and those that keep 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.config import Config
from ....refimpl.engine.numpy_engine import NumpyEngine
from ....refimpl.error_budget import largest_difference
from ....refimpl.ops.quant import Blocks
from ....refimpl.params import shapes as trees
from ....refimpl.params.lazy import lazily
from ...bundle import window_sizes
from ...text.tokenizer import Tokenizer
from ..metrics import fidelity
from ..report import Row, judged
from ..streamed_reference import SEED
from .context import VerifyContext
from .text import PROSE, WINDOW

if TYPE_CHECKING:
    from numpy import ndarray as Array


def forgetting(climb: VerifyContext) -> Iterator[Row]:
    """A cache that drops what its windows can't see any more says what one does that keeps all."""
    bundle, context = climb.bundle, climb.bundle.config.context
    if bundle.cache != "windowed":
        return
    name = "caches of windows, tokens dropped: largest error"
    kept = window_sizes.places(max(window_sizes.sizes(bundle.config)), context)
    # As many tokens again as a buffer takes in a run: then the next ones see none that was there at first.
    length = min(kept + window_sizes.PIECE, context)
    ids = np.random.default_rng(SEED).integers(0, bundle.config.embedding.vocabulary, (1, length))
    from ...ort.engine import OrtEngine

    whole, said = OrtEngine(bundle, climb.device, climb.threads, piece=context), []
    for engine in (climb.engine, whole):
        cache, logits = engine.start(1), np.zeros((1, 1, 0))
        for first in range(0, length, window_sizes.PIECE):
            if climb.late():
                yield Row(name, note=f"out of time: it takes twice {length} tokens")
                return
            logits, cache = engine.step(ids[:, first : first + window_sizes.PIECE], cache)
        said.append(logits)
    yield judged(name, largest_difference(*said), climb.golden.own.budget, note=f"after {length} tokens")


def kept(climb: VerifyContext) -> Iterator[Row]:
    """What keys and values in 8 bits cost: the specification over the same weights, with and without them.

    Products are in float, or codes of activations would flip and outweigh what the cache does.
    """
    bundle, name = climb.bundle, "KL divergence over a text, of the cache's rounding"
    if not bundle.config.rounds_cache:
        return
    if bundle.tokenizer is None:
        yield Row(name, note="the bundle has no tokenizer")
        return

    def plain(leaf: str) -> Array | Blocks:
        held = bundle.leaf(leaf)
        return replace(held, activations="none") if isinstance(held, Blocks) else held

    def engine(config: Config) -> NumpyEngine:
        return NumpyEngine(config, lazily(trees.shapes(config), plain))

    codes, floats = engine(bundle.config), engine(bundle.config.keeping("float"))
    ids = Tokenizer(bundle.tokenizer, codes.config.embedding.vocabulary).encode(climb.text or PROSE)
    found = fidelity(codes, floats, ids, min(WINDOW, codes.config.context), enough=climb.late)
    note = f"{found.positions} of {len(ids)} tokens, products in float"
    yield Row(name, found.kl, unit="nats", ok=None if np.isfinite(found.kl) else False, note=note)
