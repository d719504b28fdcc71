"""BigBird's attention and whole models in blocks against transformers' outside of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.float64 import in_float64, randomize
from helpers.hf_oracle import make_model, transformers_outputs
from helpers.tolerances import equal
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.config import Encoder, FullAttention
from tfm.refimpl.engine.attention_maps import attention_maps
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.ops.bigbird import bigbird_attend
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine
from transformers import BigBirdConfig, BigBirdModel
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

H, K = 3, 5
KEYS: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 48, "block_size": 2, "num_random_blocks": 1,
}  # fmt: skip
# In blocks, the last one cut short; in whole blocks; the longest text that is seen whole; a short one.
LENGTHS = np.array([23, 18, 14, 9])


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 2), st.integers(0, 5), st.data())
def test_bigbird_is_bigbirds(seed: int, size: int, chosen: int, more: int, data: st.DataObject):
    """Queries, keys and values of transformers' module, whose padding to whole blocks is masked."""
    blocks = 6 + 2 * chosen + more
    length = blocks * size - data.draw(st.integers(0, size - 1), label="cut")
    config: Any = BigBirdConfig(
        hidden_size=H * K, num_attention_heads=H, block_size=size, num_random_blocks=chosen
    )
    attention, rng = randomize(BigBirdBlockSparseAttention(config), seed), np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((2, blocks * size, H * K)))
    real = torch.from_numpy(np.tile(np.arange(blocks * size) < length, (2, 1))).double()
    blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(real, size)
    expected = in_float64(attention, x, band, rows, columns, blocked, blocked)[0].detach().numpy()
    parts = (getattr(attention, name)(x[:, :length]) for name in ("query", "key", "value"))
    q, k, v = (part.detach().numpy().reshape(2, length, H, K) for part in parts)
    got = bigbird_attend(q, k, v, np.full(2, length), block_size=size, random_blocks=chosen)
    equal(got.reshape(2, length, -1), expected[:, :length])


def model_and_texts(folder: Path, kind: int = 0) -> tuple[Any, dict[str, np.ndarray]]:
    """A model, saved, and a batch of texts of `LENGTHS`."""
    model = make_model("big_bird", KEYS, kind)
    model.save_pretrained(folder)
    rng, time = np.random.default_rng(5), max(LENGTHS)
    real = (np.arange(time) < LENGTHS[:, None]).astype(np.int64)
    tokens, types = rng.integers(1, 61, (4, time)), rng.integers(0, 2, (4, time))
    return model, {"input_ids": tokens, "attention_mask": real, "token_type_ids": types}


def test_each_text_of_a_batch_is_read_as_by_a_fresh_model_alone(tmp_path: Path):
    model, texts = model_and_texts(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    engine, real = NumpyEngine(checkpoint.config, params), texts["attention_mask"] == 1
    given_ = texts["input_ids"], LENGTHS, texts["token_type_ids"]
    states, pooled = transformers_outputs(model, texts)
    equal(engine.encode(*given_)[real], states[real])
    equal(engine.predict(*given_), pooled)


def test_maps_have_keys_as_often_as_they_count(tmp_path: Path):
    """The third block sees the first one twice, its neighbours and the last, by the shares of seeing all."""
    _, texts = model_and_texts(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    config, params = checkpoint.config, materialize(checkpoint.params)
    assert isinstance(config, Encoder)
    first = config.stack.layers[0]
    whole = replace(first, attention=replace(first.attention, mask=FullAttention()))
    full = replace(config, stack=replace(config.stack, layers=(whole, whole)))
    maps: list[np.ndarray] = []
    for c in (config, full):
        attention_maps(c, params, texts["input_ids"][0], lambda _, weights: maps.append(weights), layers=1)
    got, seen = maps
    count = np.zeros(23)
    count[:2], count[2:8], count[22:] = 2, 1, 1
    expected = seen[:, 4:6] * count
    equal(got[:, 4:6], expected / expected.sum(-1, keepdims=True), 1e-6)
    equal(got[:, :2], seen[:, :2], 1e-6)


@pytest.mark.long
@pytest.mark.parametrize(("target", "kind"), [("ort-cpu", 0), ("standard", 5)])
def test_a_bundle_reads_long_texts_in_blocks(tmp_path: Path, target: str, kind: int):
    model, texts = model_and_texts(tmp_path / "model", kind)
    expected = transformers_outputs(model, texts)[-1]
    export(open_checkpoint(tmp_path / "model"), tmp_path / "bundle", target=target, quant="fp32")
    engine = OrtEngine(open_bundle(tmp_path / "bundle"))
    got = engine.predict(texts["input_ids"], LENGTHS, texts["token_type_ids"])
    for row, length in enumerate(LENGTHS):
        some = slice(None, length if kind else None)
        error = np.abs(got[row][some] - expected[row][some]).max() / np.abs(expected[row][some]).max()
        assert error < 1e-5, f"{length} tokens: {error:.2g}"
