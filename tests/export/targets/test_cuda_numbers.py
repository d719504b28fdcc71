"""Graphs for ort-cuda compute the specification, on the CPU, whose float16 kernels stand for the GPU's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from families import ROWS
from helpers import tiny_models
from helpers.exported import exported
from helpers.hf_oracle import draw_keys
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import Config, FirstToken, Pool, QuestionTokens
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.laws.kit.budget import cast
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.ort import engine as runtime
from tfm.runtime.ort.device_buffer import zeros
from tfm.runtime.ort.encoder_session import EncoderSession

pytestmark = pytest.mark.long
# The step of float16 is 1e-3, and layers add theirs up: as a share of the largest number. A wrong operator,
# such as a sink that is left out, moves a number by more than a tenth of it.
HALF = 1e-2


def family(name: str) -> Config:
    row = ROWS[name]
    return read_config(row.config(**draw_keys(name, 1)[0], architectures=[row.models[0].__name__]).to_dict())[
        0
    ]


MODELS = {
    "sinks": tiny_models.sinks,
    "keys of another layer": tiny_models.shared_kv,
    "latents": tiny_models.latents,
    "norms of outputs": tiny_models.normed_outputs,
    "a window and the first token": lambda: tiny_models.windowed(spread=FirstToken()),
    "a window and a question": lambda: tiny_models.windowed(spread=QuestionTokens(5)),
    "summaries": lambda: tiny_models.summarized(head=Pool()),
    "distances and segments": tiny_models.relative,
    "gemma3n_text": lambda: family("gemma3n_text"),
    "deberta-v2": lambda: family("deberta-v2"),
}


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_the_specifications(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MODELS[name]()
    bundle = exported(tmp_path, config, seed=3, target="ort-cuda", quant="fp16")
    exact = NumpyEngine(config, map_leaves(lambda _, leaf: cast(leaf, np.float64), bundle.params()))
    ids = np.random.default_rng(1).integers(3, config.embedding.vocabulary, (2, 9))
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    if "decoder" not in config.stacks:
        # With the runtime's own options ONNX Runtime crashes here while it prepares the weights.
        session = ort.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
        lengths = np.array([9, 5])
        encoder = EncoderSession(session, bundle.graphs[0], config, np.dtype(bundle.dtype))
        outputs = {
            name: zeros(shape, np.dtype(np.float32), "cpu") for name, shape in encoder.shapes(ids).items()
        }
        encoder.run(ids, lengths, None, outputs)
        got = outputs["predictions"].read()
        want = exact.predict(ids, lengths)
        rows = zip(got, want, lengths, strict=True)
        pairs += [(a[:n], b[:n]) if want.ndim == 3 else (a, b) for a, b, n in rows]
    else:
        monkeypatch.setattr(runtime, "choose", lambda *_: "cpu")
        engine = runtime.OrtEngine(bundle, "cpu", threads=1)
        cache, other = engine.start(2), exact.start(2)
        for part in (ids[:, :6], ids[:, 6:7], ids[:, 7:]):
            at = np.stack([np.arange(part.shape[1])] * 2)
            got, cache = engine.step(part, cache, at=at)
            want, other = exact.step(part, other, at=at)
            pairs.append((got, want))
    for got, want in pairs:
        assert np.abs(got - want).max() < HALF * np.abs(want).max()
