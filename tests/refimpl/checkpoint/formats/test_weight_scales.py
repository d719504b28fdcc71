"""Scales beside a GGUF file's weights: multiplied in, and refused where they aren't what llama.cpp reads."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers import gguf_writer
from tfm.refimpl.checkpoint.formats.gguf import GGUF
from tfm.refimpl.checkpoint.formats.named_tensors import Rescaled
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.errors import CheckpointError
from tfm.refimpl.ops.quant import dequantize

ONE, EXPERTS = np.array([0.3], np.float32), np.array([3, 0.7], np.float32)
METADATA = {
    "block_count": 1, "context_length": 16, "embedding_length": 16, "feed_forward_length": 16,
    "attention.head_count": 1, "attention.head_count_kv": 1, "rope.dimension_count": 16,
    "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": 8,
}  # fmt: skip


def written(path: Path, **scales: np.ndarray) -> GGUF:
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.integers(0, 120, (3, 36), np.uint8),
        "e.weight": rng.integers(0, 120, (2, 5, 20), np.uint8),
        "plain.weight": rng.standard_normal((2, 32)).astype(np.float32),
    }
    kinds = {"a.weight": gguf.GGMLQuantizationType.NVFP4, "e.weight": gguf.GGMLQuantizationType.Q4_1}
    named = {name.replace("_", ".", 1): scale for name, scale in scales.items()}
    return GGUF(gguf_writer.write(path / "x.gguf", "llama", {}, tensors | named, kinds))


def test_weights_are_multiplied_by_their_scales(tmp_path: Path):
    file = written(tmp_path, a_scale=ONE, a_input_scale=ONE, e_scale=EXPERTS, free_scale=ONE)
    got = Rescaled(file)
    assert got.names == ("a.weight", "e.weight", "plain.weight", "free.scale")
    assert (got.kind("a.weight"), got.shape("e.weight")) == ("NVFP4", (2, 5, 32))
    np.testing.assert_array_equal(got.load("a.weight"), file.load("a.weight") * ONE)
    np.testing.assert_array_equal(got.load("e.weight"), file.load("e.weight") * EXPERTS[:, None, None])
    np.testing.assert_array_equal(got.load("e.weight", 1), file.load("e.weight", 1) * EXPERTS[1])
    np.testing.assert_array_equal(got.load("plain.weight"), file.load("plain.weight"))
    for name, part in (("a.weight", None), ("e.weight", 0)):
        blocks = got.native(name, part)
        assert blocks is not None
        np.testing.assert_allclose(dequantize(blocks), got.load(name, part), rtol=1e-6, atol=1e-6)
    assert got.native("plain.weight") is None


@pytest.mark.parametrize(
    "scales",
    [
        {"a_scale": np.ones(3, np.float32)},
        {"a_input_scale": np.ones((1, 1), np.float32)},
        {"a_scale": np.ones(1, np.float16)},
        {"e_scale": np.ones(5, np.float32)},
    ],
)
def test_other_scales_are_refused(tmp_path: Path, scales: dict[str, np.ndarray]):
    with pytest.raises(CheckpointError, match=r"scale' .*F32 \[1\].* is F(32|16) \["):
        Rescaled(written(tmp_path, **scales))


def test_a_checkpoint_with_scales(tmp_path: Path):
    rng = np.random.default_rng(0)

    def matrix(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, 16)).astype(np.float32)

    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = {f"blk.0.{part}.weight": matrix(16) for part in parts} | {"token_embd.weight": matrix(8)}
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    tensors |= {f"{name}.weight": np.ones(16, np.float32) for name in norms}
    tensors |= {"blk.0.ffn_up.scale": ONE, "blk.0.ffn_up.input_scale": ONE}
    checkpoint = open_checkpoint(gguf_writer.write(tmp_path / "x.gguf", "llama", METADATA, tensors))
    for leaf, part, scale in (("up", "ffn_up", ONE), ("gate", "ffn_gate", 1)):
        want = (tensors[f"blk.0.{part}.weight"] * scale).T
        np.testing.assert_array_equal(checkpoint.leaf(f"decoder.layers.0.mlp.{leaf}"), want)
