"""A text longer than a run through the states of recurrences, over latents or chosen blocks, however cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models
from helpers.exported import exported
from helpers.long_texts import EVERY, LENGTH, STEPS, in_a_batch, in_steps, specified
from helpers.refused import refused
from tfm.refimpl.checkpoint.open import materialize
from tfm.refimpl.engine.cache_kinds import cache_kinds, recurrent
from tfm.refimpl.error_budget import largest_difference
from tfm.refimpl.errors import LimitError
from tfm.runtime.ort.engine import OrtEngine

CONFIGS = {
    "gated deltas": tiny_models.gated_deltas(LENGTH),
    "state spaces": tiny_models.state_spaces(LENGTH),
    "selective scans": tiny_models.selective_scans(LENGTH),
    "convolutions": tiny_models.convolutions(LENGTH),
    "latents": tiny_models.latents(LENGTH),
    "channels that decay": tiny_models.kimi(LENGTH),
    "heads that fade": tiny_models.ling(LENGTH),
    "a block is shared": tiny_models.shared_blocks(LENGTH),
    "time is mixed": tiny_models.time_mixes(LENGTH),
    "blocks are chosen": tiny_models.indexed_blocks(LENGTH),
    "n-grams are looked up": tiny_models.hyper_connected(LENGTH),
}
CELLS = [
    *((name, "ort-cpu") for name in CONFIGS),
    # Without a loop: of a matrix of each chunk, and of sums.
    *((name, "standard") for name in ("channels that decay", "state spaces")),
]
IDS = np.random.default_rng(3).integers(0, 97, (1, LENGTH))


@pytest.mark.long
@pytest.mark.parametrize(("name", "target"), CELLS)
def test_a_long_text_however_it_is_read(tmp_path: Path, name: str, target: str):
    """At once, in steps of any size, token by token and in a batch of rows of other lengths; then a state
    can't be cut back, but to nothing."""
    config = CONFIGS[name]
    # Two of its layers, as attention's own rounding over so long a text isn't what is looked at.
    config = replace(config, stack=replace(config.stack, layers=config.layers[:2]))
    bundle = exported(tmp_path, config, seed=2, target=target)
    engine = OrtEngine(bundle, "cpu", threads=1)
    exact, allowed = specified(config, materialize(bundle.params()), IDS)
    for sizes in STEPS:
        assert largest_difference(in_steps(engine, IDS, sizes), exact) <= allowed, sizes
    logits, cache = in_a_batch(engine, IDS)
    assert largest_difference(logits, exact) <= allowed
    if recurrent(cache_kinds(config)):
        with refused(LimitError, "row", 1, LENGTH, LENGTH - 1):
            cache.truncate(np.array([7, LENGTH - 1, 0]))
    # A row that is cut to nothing begins anew.
    logits, _ = engine.step(IDS.repeat(3, 0), cache.truncate(np.array([0, 0, 0])), at=EVERY.repeat(3, axis=0))
    for row in logits:
        assert largest_difference(row[None], exact) <= allowed
