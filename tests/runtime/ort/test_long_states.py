"""A text longer than a run through the states of recurrences, or over latents, however it is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint, save_checkpoint
from tfm.refimpl.config import Decoder
from tfm.refimpl.engine.cache_kinds import cache_kinds, recurrent
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import TRIES, error_terms, largest_difference
from tfm.refimpl.errors import LimitError
from tfm.refimpl.laws.kit.budget import cast, map_floats
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine

LENGTH = 512
CONFIGS = {
    "gated deltas": tiny_models.gated_deltas(LENGTH),
    "state spaces": tiny_models.state_spaces(LENGTH),
    "selective scans": tiny_models.selective_scans(LENGTH),
    "convolutions": tiny_models.convolutions(LENGTH),
    "latents": tiny_models.latents(LENGTH),
    "channels that decay": tiny_models.kimi(LENGTH),
}
CELLS = [
    *((name, target) for target in ("ort-cpu", "standard") for name in list(CONFIGS)[:3]),
    *((name, "ort-cpu") for name in list(CONFIGS)[3:]),
    ("channels that decay", "standard"),
]
IDS = np.random.default_rng(3).integers(0, 97, (1, LENGTH))
EVERY = np.arange(LENGTH)[None]


def specified(config: Decoder, params: Any) -> tuple[np.ndarray, float]:
    """Logits of the whole text in float64, and how far those of another implementation may be off."""
    leaves, rng = dict(flatten(params)), np.random.default_rng(0)

    def moved(a: np.ndarray) -> np.ndarray:
        towards = np.where(rng.random(a.shape) < 0.5, np.inf, -np.inf).astype(np.float32)
        return np.nextafter(a.astype(np.float32), towards).astype(np.float64)

    def logits(change: Any) -> np.ndarray:
        tree = unflatten({name: change(leaves[name]) for name in parameter_shapes(config)})
        engine = NumpyEngine(config, tree)
        return engine.step(IDS, engine.start(1), at=EVERY)[0]

    exact = logits(lambda leaf: cast(leaf, np.float64))
    others = [logits(lambda leaf: map_floats(leaf, moved)) for _ in range(TRIES)]
    return exact, error_terms(exact, logits(lambda leaf: cast(leaf, np.float32)), others).budget


def in_steps(engine: Any, sizes: list[int]) -> np.ndarray:
    """The text's logits, `sizes` tokens a step."""
    cache, results = engine.start(1), []
    for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
        at = np.arange(size)[None]
        logits, cache = engine.step(IDS[:, stop - size : stop], cache, at=at)
        results.append(logits)
    return np.concatenate(results, 1)


@pytest.mark.long
@pytest.mark.parametrize(("name", "target"), CELLS)
def test_a_long_text_however_it_is_read(tmp_path: Path, name: str, target: str):
    """At once, in steps of any size, token by token and in a batch of rows of other lengths; then a state
    can't be cut back, but to nothing."""
    config = CONFIGS[name]
    # Two of its layers, as attention's own rounding over so long a text isn't what is looked at.
    config = replace(config, stack=replace(config.stack, layers=config.layers[:2]))
    save_checkpoint(tmp_path / "source", config, tiny_models.weights(config, seed=2))
    export(open_checkpoint(tmp_path / "source"), tmp_path / "out", target=target, quant="fp32", verify=False)
    bundle = open_bundle(tmp_path / "out")
    engine = OrtEngine(bundle, "cpu", threads=1)
    exact, allowed = specified(config, materialize(bundle.params()))
    for sizes in ([LENGTH], [1, 200, 128, 129, 3, 51], [1] * LENGTH):
        assert largest_difference(in_steps(engine, sizes), exact) <= allowed, sizes
    rows = np.concatenate([IDS[:, ::-1], IDS, IDS[:, ::-1]])
    lengths, at = np.array([7, LENGTH, 0]), np.repeat(EVERY, 3, axis=0)
    logits, cache = engine.step(rows, engine.start(3), lengths, at)
    assert largest_difference(logits[1:2], exact) <= allowed
    if recurrent(cache_kinds(config)):
        with pytest.raises(LimitError, match=r"a recurrence can't go back|keeps its last inputs alone"):
            cache.truncate(np.array([7, LENGTH - 1, 0]))
    # A row that is cut to nothing begins anew.
    logits, _ = engine.step(IDS.repeat(3, 0), cache.truncate(np.array([0, 0, 0])), at=at)
    for row in logits:
        assert largest_difference(row[None], exact) <= allowed
