"""int8 of a model with large channels: smoothed with random tokens, it is more accurate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models
from tfm.export.bundle_writer import export
from tfm.export.quantization import plan
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint, save_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.verification.verify import verify

CONFIG = tiny_models.llama(layers=2, bias=True, tied=False, width=96)
NORM = "decoder.layers.1.attn_pre.weight"


def saved(path: Path) -> Path:
    """A checkpoint two of whose channels are far larger than the others, and are read by smaller weights."""
    params_of = tiny_models.weights(CONFIG)

    def loud(name: str, leaf: np.ndarray) -> np.ndarray:
        if name.endswith("_pre.weight"):
            leaf = leaf.copy()
            leaf[[3, 70]] *= 40
        if name.endswith((".wq", ".wk", ".wv", ".gate", ".up")):
            leaf = leaf.copy()
            leaf[[3, 70]] /= 40
        return leaf

    save_checkpoint(path, CONFIG, map_leaves(loud, params_of))
    return path


@pytest.mark.parametrize(
    ("quant", "target"),
    [("int8", "ort-cpu"), pytest.param("int8-dynamic", "ort-cpu", marks=pytest.mark.long)],
)
def test_large_channels_are_smoothed(
    quant: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = saved(tmp_path / "model")
    checkpoint = open_checkpoint(source)
    tokens = np.random.default_rng(1).integers(0, CONFIG.embedding.vocabulary, (2, 9))
    at = np.tile(np.arange(9), (2, 1))
    spec = NumpyEngine(CONFIG, materialize(checkpoint.params))
    want = spec.step(tokens, spec.start(2), at=at)[0]

    def error(out: Path) -> float:
        export(open_checkpoint(source), out, quant=quant, target=target, verify=False)
        engine = OrtEngine(open_bundle(out), threads=1)
        got = engine.step(tokens, engine.start(2), at=at)[0]
        return float(np.sqrt(np.mean((got - want) ** 2)))

    smoothed = error(tmp_path / "smoothed")
    rows = {row.name: row for row in verify(tmp_path / "smoothed", source=source).rows}
    assert rows["weights equal the source's"].ok
    factors = checkpoint.leaf(NORM) / open_bundle(tmp_path / "smoothed").leaf(NORM)
    assert (np.frexp(factors)[0] == 0.5).all(), "powers of two, so that the float model stays what it was"
    assert factors[3] > 4 * np.median(factors)
    monkeypatch.setattr(plan, "smoothed_sites", lambda *_: ())
    assert smoothed < 0.6 * error(tmp_path / "plain")
