"""Models in GGUF: logits are llama.cpp's, what files state is taken or refused, blocks stand for leaves."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from helpers.gguf_models import AT, MODELS, TOKENS, tensors, written
from helpers.gguf_writer import write
from helpers.refused import refused
from tfm.refimpl.checkpoint.config_readers.keys import Keys
from tfm.refimpl.checkpoint.families.deepseek_v2 import V2, V3, table
from tfm.refimpl.checkpoint.open import Checkpoint, materialize, open_checkpoint
from tfm.refimpl.checkpoint.weights.steps import STEPS
from tfm.refimpl.config import Attention, BlockIndexer, Llama3Scaling, Window
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import CheckpointError, ConfigError, TfmError
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.indexed_attention import IndexedAttention
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.quant import dequantize, quantize
from tfm.refimpl.params.tree import flatten, map_leaves

# llama.cpp takes GELU from a table of float16.
GELU = ("bloom", "falcon", "gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "gpt2", "gptneox", "mpt", "phi2",
        "starcoder", "starcoder2")  # fmt: skip


def logits(checkpoint: Checkpoint) -> np.ndarray:
    """In float64, so that only llama.cpp's rounding is between the two, on any processor."""
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), materialize(checkpoint.params))
    engine = NumpyEngine(checkpoint.config, params)
    return engine.step(np.array([TOKENS]), engine.start(1), at=np.array([AT]))[0][0]


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_llama_cpp(tmp_path: Path, name: str):
    row = MODELS[name]
    checkpoint = open_checkpoint(written(tmp_path / "x.gguf", name))
    want = np.array(row["logits"])
    allowed = 2e-3 if row["arch"] in GELU else 1e-5 if row["arch"] == "qwen2vl" else 2e-6
    assert abs(logits(checkpoint) - want).max() < allowed * abs(want).max()


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon-h1", "bamba", "nemotron_h"])
def test_axes_of_one_may_be_dropped(tmp_path: Path, name: str):
    """As llama.cpp's tools do."""
    squeezed = {tensor: array.squeeze() for tensor, array in tensors(name).items()}
    one = open_checkpoint(written(tmp_path / "x.gguf", name))
    other = open_checkpoint(written(tmp_path / "y.gguf", name, squeezed))
    want = dict(flatten(one.params))
    assert one.config == other.config
    assert all(np.array_equal(array, want[leaf]) for leaf, array in flatten(other.params))


@pytest.mark.parametrize("name", ["phi", "glm"])
def test_queries_keys_and_values_may_be_fused(tmp_path: Path, name: str):
    plain = tensors(name)
    both, fused = dict(plain), dict(plain)
    for i in range(3):
        for kind in ("weight", "bias"):
            parts = [fused.pop(f"blk.{i}.attn_{part}.{kind}") for part in "qkv"]
            both[f"blk.{i}.attn_qkv.{kind}"] = fused[f"blk.{i}.attn_qkv.{kind}"] = np.concatenate(parts)
    one = open_checkpoint(written(tmp_path / "plain.gguf", name))
    other = open_checkpoint(written(tmp_path / "fused.gguf", name, fused))
    want = dict(flatten(one.params))
    assert one.config == other.config
    assert all(np.array_equal(array, want[leaf]) for leaf, array in flatten(other.params))
    with refused(CheckpointError, 6, "tensors", "'blk.0.attn_qkv"):
        open_checkpoint(written(tmp_path / "both.gguf", name, both))


def test_norms_of_kimi_linears_mixers_have_the_files_eps(tmp_path: Path):
    """As llama.cpp computes them; transformers' class has a constant in those of latents."""
    eps = 2.0**-17
    stated = {"attention.layer_norm_rms_epsilon": eps}
    config = open_checkpoint(written(tmp_path / "x.gguf", "kimi_linear", **stated)).config
    mixers = [layer.attention for layer in config.layers]
    assert [mixer.norm_eps for mixer in mixers if isinstance(mixer, LatentAttention)] == [eps]
    assert [mixer.eps for mixer in mixers if isinstance(mixer, GatedDelta)] == [eps] * 2


@pytest.mark.parametrize(
    ("layers", "tokens", "form"),
    [(48, 154_880, V3), (47, 154_880, V3), (46, 154_880, V2), (48, 154_881, V2)],
)
def test_scores_of_glm_47_flash_are_sigmoids_without_a_key(layers: int, tokens: int, form: Any):
    """As llama.cpp knows the first files of this model."""
    assert table(Keys({"block_count": layers, "vocab_size": tokens}, "x.gguf")) is form


def test_indexers_of_minimax_m3(tmp_path: Path):
    """llama.cpp chooses blocks only where it computes attention in float16, so its row has room for all."""
    few = {"attention.indexer.top_k": 2, "attention.indexer.local_blocks": 0}
    opened = open_checkpoint(written(tmp_path / "x.gguf", "minimax_m3", **few))
    mixers = [layer.attention for layer in opened.config.layers]
    assert [mixer.indexer for mixer in mixers if isinstance(mixer, IndexedAttention)] == [
        BlockIndexer(24, 4, 2, 0)
    ] * 2
    assert isinstance(mixers[0], Attention)
    for leaf, tensor in {"q_index_norm": "q_norm", "k_index_norm": "k_norm", "wk_index": "k_proj"}.items():
        want = tensors("minimax_m3")[f"blk.1.indexer.{tensor}.weight"].T
        assert np.array_equal(opened.leaf(f"decoder.layers.1.attn.{leaf}"), want)


@pytest.mark.parametrize("name", ["minimax_01", "qwen3next", "qwen35", "qwen35moe"])
def test_recurrent_layers_are_marked_or_counted(tmp_path: Path, name: str):
    counted = open_checkpoint(written(tmp_path / "x.gguf", name)).config
    marks = [not isinstance(layer.attention, Attention) for layer in counted.layers]
    listed = {"full_attention_interval": 7, "attention.recurrent_layers": marks}
    assert open_checkpoint(written(tmp_path / "y.gguf", name, **listed)).config == counted


def test_layers_of_exaone4_see_as_the_file_says(tmp_path: Path):
    """llama.cpp heeds a window in files of 64 layers alone; the model has it where its config does."""
    stated = {"attention.sliding_window": 7, "attention.sliding_window_pattern": [True, False]}
    layers = open_checkpoint(written(tmp_path / "x.gguf", "exaone4", **stated)).config.layers
    assert [isinstance(layer.attention.mask, Window) for layer in layers] == [True, False]
    assert [layer.attention.position is None for layer in layers] == [False, True]


@pytest.mark.parametrize(
    "name",
    ["glm4_moe", "glm4_moe_lite", "glm_ocr", "deepseek_v32", "exaone_moe", "qwen3next", "qwen35",
     "qwen35moe", "cohere2_moe", "hy_v3", "mimo2", "sarvam_moe", "step35"],
)  # fmt: skip
def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path, name: str):
    plain, metadata = tensors(name), MODELS[name]["metadata"]
    count = metadata["block_count"]
    draft = {
        f"blk.{count}.{tensor}.weight": np.ones(128, np.float32) for tensor in ("attn_norm", "nextn.enorm")
    }
    lists = {key: value for key, value in metadata.items() if isinstance(value, list) and len(value) == count}
    stated = {key: [*value, value[-1]] for key, value in lists.items()}
    stated |= {"block_count": count + 1, "nextn_predict_layers": 1}
    opened = open_checkpoint(written(tmp_path / "x.gguf", name, plain | draft, **stated))
    assert opened.config == open_checkpoint(written(tmp_path / "plain.gguf", name)).config
    assert list(opened.left_out) == [f"blk.{count}"]
    after = {f"blk.{count + 1}.nextn.enorm.weight": np.ones(128, np.float32)}
    with refused(CheckpointError, 1, "tensors", f"'blk.{count + 1}.nextn"):
        open_checkpoint(written(tmp_path / "y.gguf", name, plain | after))


def test_a_module_that_predicts_further_tokens(tmp_path: Path):
    """The last of three layers becomes GLM-4.5's module: a hidden state and an embedding, side by side."""
    plain, rng = tensors("glm4_moe"), np.random.default_rng(0)
    shapes = {"enorm": (128,), "hnorm": (128,), "shared_head_norm": (128,), "eh_proj": (128, 256)}
    further = {f"blk.2.nextn.{name}.weight": rng.random(size, np.float32) for name, size in shapes.items()}
    further["blk.2.nextn.embed_tokens.weight"] = plain["token_embd.weight"]
    further["blk.2.nextn.shared_head_head.weight"] = plain["output.weight"]
    stated = {"nextn_predict_layers": 1}
    path = written(tmp_path / "x.gguf", "glm4_moe", plain | further, **stated)
    opened = open_checkpoint(path, mtp=True)
    got, whole = (
        dict(flatten(opened.params)),
        dict(flatten(open_checkpoint(written(tmp_path / "w.gguf", "glm4_moe")).params)),
    )
    layer = "decoder.layers.2."
    module = {
        leaf.removeprefix("mtp.layers.0."): array
        for leaf, array in got.items()
        if leaf.startswith("mtp.layers.0.")
    }
    assert module.keys() == {leaf.removeprefix(layer) for leaf in whole if leaf.startswith(layer)}
    assert all(np.array_equal(array, whole[layer + leaf]) for leaf, array in module.items())
    assert np.array_equal(got["mtp.project"], further["blk.2.nextn.eh_proj.weight"].T)
    plainly = open_checkpoint(path)
    assert (plainly.config.mtp, list(plainly.left_out)) == (None, ["blk.2"])
    table = {"blk.2.nextn.embed_tokens.weight": plain["token_embd.weight"] + 1}
    with refused(CheckpointError, "nextn.embed_tokens.weight'", "embedding.table"):
        open_checkpoint(written(tmp_path / "y.gguf", "glm4_moe", plain | further | table, **stated), mtp=True)
    with refused(ConfigError, "multi-token", "prediction"):
        open_checkpoint(tmp_path / "w.gguf", mtp=True)


EXPERTS = {
    "layers.1.mlp.experts.{}.gate": "blk.1.ffn_gate_exps.weight",
    "layers.1.mlp.experts.{}.down": "blk.1.ffn_down_exps.weight",
}
STREAMS = {"streams.{}.enter": "altup_proj.weight", "streams.{}.leave": "altup_unembd_proj.weight"}


@pytest.mark.parametrize(
    ("name", "kind", "parts", "count"),
    [
        ("qwen3_moe", "Q8_0", EXPERTS, 5),
        ("qwen3_moe", "Q4_1", EXPERTS, 5),
        ("gpt-oss", "MXFP4", EXPERTS, 5),
        ("gemma3n", "Q8_0", STREAMS, 3),
    ],
)
def test_parts_of_a_tensor_in_blocks(tmp_path: Path, name: str, kind: str, parts: dict[str, str], count: int):
    checkpoint = open_checkpoint(written(tmp_path / "x.gguf", name, kind=kind))
    stored, plain = gguf.GGMLQuantizationType[kind], tensors(name)
    for leaf, tensor in parts.items():
        whole = gguf.quants.dequantize(gguf.quants.quantize(plain[tensor], stored), stored)
        for i in range(count):
            path = f"decoder.{leaf.format(i)}"
            blocks = checkpoint.native(path)
            assert blocks is not None
            assert np.array_equal(dequantize(blocks), whole[i].T)
            assert np.array_equal(checkpoint.leaf(path), whole[i].T)


def test_value_heads_in_blocks(tmp_path: Path):
    """Columns of blocks are in another order; rows aren't, where a block is of several heads."""
    checkpoint = open_checkpoint(written(tmp_path / "x.gguf", "qwen35", kind="Q8_0"))
    for leaf in ("wi", "wz"):
        blocks = checkpoint.native(f"decoder.layers.0.attn.{leaf}")
        assert blocks is not None
        assert np.array_equal(dequantize(blocks), checkpoint.leaf(f"decoder.layers.0.attn.{leaf}"))
    assert checkpoint.native("decoder.layers.0.attn.wo") is None
    mixer = GatedDelta(6, 2, key_size=8, value_size=16)
    step = STEPS["values_by_key_head"].bound("decoder.layers.0.attn.wo", mixer)
    rows = np.random.default_rng(0).standard_normal((96, 5)).astype(np.float32)
    blocks = quantize(rows, bits=8, block=16)
    assert step.takes(blocks)
    assert np.array_equal(dequantize(step.apply(blocks)), step.apply(dequantize(blocks)))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_native_blocks_stand_where_the_leaf_does(tmp_path: Path, kind: str):
    checkpoint = open_checkpoint(written(tmp_path / "x.gguf", "llama", kind=kind))
    assert checkpoint.float_dtype == kind
    for name in checkpoint.leaves.names:
        blocks, leaf = checkpoint.native(name), checkpoint.leaf(name)
        if leaf.ndim == 1:
            assert blocks is None
            continue
        assert blocks is not None
        assert blocks.axis == (1 if name.endswith("table") else 0), name
        assert np.array_equal(dequantize(blocks), leaf), name


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q5_0", "Q5_1"])
def test_other_types_are_read(tmp_path: Path, kind: str):
    got = open_checkpoint(written(tmp_path / "x.gguf", "qwen2", kind=kind)).leaf("decoder.layers.1.attn.wk")
    want = tensors("qwen2")["blk.1.attn_k.weight"].T
    assert np.abs(got - want).max() < {"F16": 2e-4, "BF16": 2e-3}.get(kind, 0.02)


REFUSED = [
    ("llama", {"unheard.of": 1}, "'unheard.of'"),
    ("llama", {"expert_count": 8}, "expert_used_count missing"),
    ("llama", {"rope.scaling.yarn_log_multiplier": 1}, "'rope.scaling.yarn_log_multiplier'"),
    ("llama_yarn", {"rope.scaling.yarn_attn_factor": 2}, "rope.scaling.yarn_attn_factor 1"),
    ("llama", {"rope.scaling.yarn_ext_factor": 1}, "'rope.scaling.yarn_ext_factor'"),
    ("llama_llama3", {"rope.scaling.factor": 2}, "rope.scaling.factor 1 rope_freqs.weight"),
    ("mixtral", {"expert_used_count": 6}, "experts 1 5 6"),
    ("mixtral", {"expert_weights_norm": False}, "expert_weights_norm true llama.cpp"),
    ("qwen2_moe", {"expert_weights_norm": True}, "expert_weights_norm false"),
    ("qwen2_moe", {"expert_group_count": 2}, "'expert_group_count'"),
    ("qwen2vl", {"rope.dimension_sections": [4, 6, 5, 1]}, "dimension_sections"),
    ("qwen2vl", {"rope.dimension_sections": 16}, "rope.dimension_sections"),
    ("qwen3vl", {"attention.head_count_kv": [2, 2, 2]}, "head_count_kv'"),
    ("starcoder2", {"attention.causal": False}, "attention.causal true False"),
    ("olmo2", {"attention.sliding_window_pattern": [True] * 3}, "sliding_window_pattern'"),
    ("olmo3", {"attention.sliding_window_pattern": [True]}, "sliding_window_pattern 5"),
    ("olmo3", {"rope.freq_base_swa": 1e4}, "freq_base_swa rope.freq_base 500000.0"),
    ("glm4_moe", {"expert_gating_func": 1}, "expert_gating_func 2 1"),
    ("dots1", {"expert_group_count": 2}, "experts 5 2"),
    ("minimax_m2", {"expert_weights_norm": True}, "'expert_weights_norm'"),
    ("gpt-oss", {"attention.sliding_window_pattern": 3}, "'attention.sliding_window_pattern'"),
    ("deepseek_v2", {"expert_gating_func": 3}, "expert_gating_func 2 1"),
    ("deepseek_v2", {"attention.head_count_kv": 2}, "head_count_kv 4 2"),
    ("deepseek_v2", {"attention.key_length": 12}, "key_length rope.dimension_count"),
    ("deepseek_v3", {"attention.head_count_kv": 4}, "head_count_kv 1 4"),
    ("deepseek_v3", {"attention.key_length": 20}, "key_length 36 20"),
    ("deepseek_v3", {"attention.value_length": 16}, "value_length 24 16"),
    ("deepseek_v3", {"rope.scaling.yarn_log_multiplier": 0.0}, "yarn_log_multiplier"),
    (
        "mistral4",
        {"rope.scaling.yarn_log_multiplier": 0.2},
        "rope.scaling.yarn_log_multiplier 0.1 mscale_all_dim",
    ),
    ("mistral4", {"attention.temperature_scale": -1.0}, "temperature_scale 0"),
    ("mistral4", {"expert_gating_func": 3}, "expert_gating_func 1"),
    ("glm4v", {"rope.dimension_sections": [3, 3, 1, 1]}, "rope.dimension_sections"),
    ("glm4v_moe", {"rope.dimension_sections": [3, -3, 2, 0]}, "rope.dimension_sections"),
    ("glm4_moe_lite", {"nextn_predict_layers": 3}, "nextn_predict_layers 0 block_count (3)"),
    ("glm4_moe_lite", {"attention.key_length": 36}, "key_length 44 36"),
    ("glm4_moe", {"nextn_predict_layers": 3}, "nextn_predict_layers 0"),
    ("glm4_moe", {"nextn_predict_layers": -1}, "nextn_predict_layers 0"),
    ("glm_moe_dsa", {"attention.indexer.types": [True] * 4}, "types value each 5 layers"),
    ("glm_moe_dsa", {"attention.indexer.types": [False] * 5}, "each 5 layers first layer"),
    ("glm_moe_dsa", {"attention.indexer.types": [1, 1, 0, 1, 0]}, "types value each 5 layers"),
    ("glm_moe_dsa", {"attention.indexer.types": True}, "indexer.types"),
    ("deepseek_v32", {"attention.indexer.types": [True] * 3}, "types'"),
    ("deepseek_v32", {"attention.indexer.key_length": 11}, "rope.dimension_count 12"),
    ("deepseek_v32", {"expert_gating_func": 1}, "expert_gating_func 2 1"),
    ("kimi_linear", {"expert_weights_norm": False}, "expert_weights_norm true llama.cpp"),
    ("lfm2", {"attention.head_count_kv": [0, 2, 1]}, "0 number 0 2 1"),
    ("starcoder2", {"rope.dimension_count": 16}, "rope.dimension_count 32"),
    ("gemma", {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping'"),
    ("command-r", {"attention.value_length": 16}, "attention.value_length 32"),
    (
        "exaone4",
        {"attention.sliding_window": 7, "attention.sliding_window_pattern": [True]},
        "sliding_window_pattern 2 true false",
    ),
    ("exaone4", {"attention.head_count_kv": [2, 2, 2]}, "value 3"),
    ("granitemoe", {"attention.head_count_kv": [2, 2, 1]}, "type 2 2 1"),
    ("granitemoe", {"attention.head_count_kv": [2, 2]}, "type 2 2"),
    ("cohere2", {"attention.sliding_window": 0}, "attention.sliding_window 1"),
    ("nemotron", {"attention.layer_norm_rms_epsilon": 0.5}, "attention.layer_norm_epsilon"),
    ("stablelm", {"embedding_length": 127}, "embedding_length attention.head_count"),
    ("qwen35", {"ssm.inner_size": 97}, "ssm.inner_size ssm.time_step_rank 6"),
    ("qwen35moe", {"rope.dimension_sections": [3, 3, 1, 1]}, "rope.dimension_sections"),
    ("qwen3next", {"rope.dimension_sections": 3}, "'rope.dimension_sections'"),
    ("gemma3n", {"altup.active_idx": 4}, "altup.active_idx 0 3 altup.num_inputs"),
    ("gemma3n", {"activation_sparsity_scale": [1.0] * 4}, "activation_sparsity_scale 5"),
    ("gemma3n", {"activation_sparsity_scale": [float("nan")] * 5}, "quantile normal"),
    ("gemma3n", {"attention.shared_kv_layers": 5}, "attention.shared_kv_layers 0 4"),
    ("gemma4", {"attention.value_length": 32}, "attention.value_length 64"),
    ("gemma4", {"rope.dimension_count_swa": 16}, "rope.dimension_count_swa 32"),
    ("gemma4", {"feed_forward_length": [64, 128]}, "least 1 5"),
    ("gemma4", {"expert_count": 5}, "'expert_count'"),
    ("llama4", {"attention.sliding_window": 0}, "attention.sliding_window 8192 llama.cpp"),
    ("qwen35", {":xielu.beta": 0.5}, "'xielu.beta'"),
    ("mamba2", {"ssm.time_step_rank": 7}, "ssm.inner_size ssm.time_step_rank 7"),
    ("mamba2", {"feed_forward_length": 8}, "feed_forward_length 0 8"),
    ("mamba", {"attention.head_count": 2}, "attention.head_count 0 2"),
    ("mamba", {"ssm.group_count": 1}, "'ssm.group_count'"),
    ("jamba", {"attention.head_count_kv": [0, 2, 1]}, "0 number"),
    ("jamba", {"attention.head_count_kv": [0, 2]}, "number 3"),
    ("jamba", {"expert_weights_norm": True}, "expert_weights_norm false llama.cpp"),
    ("jamba", {"rope.freq_base": 1e4}, "'rope.freq_base'"),
    ("nemotron_h", {"feed_forward_length": [24, 0, 0, 0, 24, 0, 0]}, "mixture another type"),
    ("nemotron_h", {"feed_forward_length": [0, 24, 0, 0, 12, 0, 0]}, "0 number"),
    ("nemotron_h", {"rope.scaling.finetuned": True}, "rope.scaling.finetuned false True"),
    ("nemotron_h_with_experts", {"expert_gating_func": 1}, "expert_gating_func 2 1"),
    ("granitehybrid", {"ssm.time_step_rank": 7}, "ssm.time_step_rank 64 7"),
    ("bamba", {"rope.dimension_count": 8}, "size 16 8"),
    ("afmoe", {"expert_weights_norm": False}, "expert_weights_norm true False"),
    ("bailing_hybrid", {"kda.safe_gate": False}, "kda.safe_gate true llama.cpp"),
    ("cohere2_moe", {"expert_gating_func": 1, "expert_weights_norm": False}, "expert_gating_func 2 1"),
    ("cohere2_moe", {"rope.scaling.type": "linear"}, "rope.scaling.type none linear"),
    ("hy_v3", {"expert_shared_feed_forward_length": 50}, "expert_shared_feed_forward_length 24 50"),
    ("laguna", {"expert_shared_count": 2}, "expert_shared_count 1 llama.cpp"),
    ("granite_swa", {"attention.rope_pattern": [True, False]}, "attention.rope_pattern 3 true false"),
    ("granite_swa", {"attention.rope_pattern": [1, 1, 0]}, "attention.rope_pattern 3 true false"),
    ("granite_swa", {"expert_count": 4}, "'expert_count'"),
    ("minimax_01", {"attention.recurrent_layers": [True] * 2}, "attention.recurrent_layers 3 true false"),
    ("minimax_01", {"attention.recurrent_layers": [1, 0, 1]}, "attention.recurrent_layers 3 true false"),
    ("minimax_01", {"expert_weights_scale": 2.0}, "expert_weights_scale 1.0 llama.cpp"),
    ("qwen4_exp", {"attention.compress_ratios": [0, 4, 4]}, "attention.compress_ratios one 0 4 4"),
    ("qwen4_exp", {"attention.compress_ratios": [0, 0, 0]}, "attention.compress_ratios 0"),
    ("qwen4_exp", {"ple.layers": [0, 2]}, "ple.layers at most one"),
    ("qwen4_exp", {"ple.layers": [1]}, "ple.layers linear_attention"),
    ("qwen4_exp", {"ple.layer_multipliers": [3, 5]}, "ple.layer_multipliers 3 positive"),
    ("qwen4_exp", {"ple.head_vocab_sizes": [31, 37, 41]}, "ple.head_vocab_sizes 4 positive"),
    ("qwen4_exp", {"ple.head_offsets": [0, 31, 68, 110]}, "ple.head_offsets sums ple.head_vocab_sizes"),
    ("minimax_m3", {"expert_weights_norm": False}, "expert_weights_norm true"),
    ("minimax_m3", {"attention.indexer.head_count": 4}, "attention.indexer.head_count num_key_value_heads 2"),
    ("minimax_m3", {"expert_gating_func": 1}, "expert_gating_func 2 1"),
    ("mellum", {"expert_weights_norm": False}, "expert_weights_norm true llama.cpp"),
    ("mimo2", {"attention.head_count_kv": [2, 2, 4, 2]}, "head_count_kv twice 2 2 4 2"),
    ("sarvam_moe", {"expert_shared_feed_forward_length": 25}, "expert_shared_feed_forward_length 24 25"),
    ("step35", {"attention.head_count": [4, 6, 4, 4]}, "head_count window 4 6 4 4"),
]


@pytest.mark.parametrize(("name", "metadata", "message"), REFUSED)
def test_refused_metadata(tmp_path: Path, name: str, metadata: dict[str, Any], message: str):
    with refused(ConfigError, *message.split()):
        open_checkpoint(written(tmp_path / "x.gguf", name, **metadata))


@pytest.mark.parametrize(
    ("name", "change", "metadata", "words"),
    [
        ("mamba", {"blk.0.ssm_in.bias": np.ones(128, np.float32)}, {}, ("blk.0.ssm_in.bias",)),
        ("qwen3", {"rope_freqs.weight": np.ones(16, np.float32)}, {}, ("tensors", "rope_freqs.weight")),
        ("qwen3_moe", {}, {"expert_count": 4}, ("ffn_gate_inp.weight'", "[4, 128]")),
        ("qwen3_moe", {}, {"expert_count": 6}, ("ffn_gate_inp.weight'", "[6, 128]")),
        ("apertus", {}, {":xielu.beta": [0.75] * 3}, ("xielu",)),
        ("apertus", {}, {":xielu.eps": [-1e-5] * 3}, ("xielu",)),
        ("apertus", {}, {":xielu.alpha_p": [0.5] * 4}, ("xielu",)),
    ],
)
def test_refused_tensors(tmp_path: Path, name: str, change: Any, metadata: Any, words: tuple[Any, ...]):
    with refused(CheckpointError, *words):
        open_checkpoint(written(tmp_path / "x.gguf", name, tensors(name) | change, **metadata))


@pytest.mark.parametrize(
    ("name", "find", "replace", "message"),
    [
        ("llama", b"llama.vocab_size", b"llama.vocab_sizE", "'vocab_sizE'"),
        ("llama", b"llama.vocab_size\4\0\0\0\x28", b"llama.vocab_size\4\0\0\0\x29", "token_embd.weight 40"),
        ("llama", b"llama.block_count", b"llama.block_counT", "block_count missing"),
        ("llama", b"llama.rope.dimension_count\4\0\0\0\x20", b"llama.rope.dimension_count\4\0\0\0\x10", "32"),
        ("llama", b"llama.embedding_length", b"other.embedding_length", "'other.embedding_length'"),
        ("llama", b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0llamb", "general.architecture llama"),
        (
            "phi3_longrope",
            b"rope_factors_short",
            b"rope_factors_Short",
            "rope_factors_short.weight 16 positive",
        ),
        ("phi3", b"attention.sliding_window", b"attention.sliding_windoW", "sliding_window missing"),
        ("phi3", b"rope.dimension_count\4\0\0\0\x20", b"rope.dimension_count\4\0\0\0\x21", "most 32"),
    ],
)
def test_metadata_that_lie(tmp_path: Path, name: str, find: bytes, replace: bytes, message: str):
    path = written(tmp_path / "x.gguf", name)
    data = path.read_bytes()
    assert find in data
    path.write_bytes(data.replace(find, replace))
    with refused(ConfigError, *message.split()):
        open_checkpoint(path)


def test_divisors_are_those_of_the_scaling(tmp_path: Path):
    """Llama 3's scaling can be told from its divisors."""
    plain = tensors("llama_llama3")
    scaling = open_checkpoint(written(tmp_path / "x.gguf", "llama_llama3")).config.ropes[0].scaling
    assert isinstance(scaling, Llama3Scaling)
    other = {"rope_freqs.weight": plain["rope_freqs.weight"] * np.linspace(1, 2, 16, dtype=np.float32)}
    with refused(CheckpointError, "'rope_freqs.weight'", "rope_freqs"):
        open_checkpoint(written(tmp_path / "y.gguf", "llama_llama3", plain | other))
    none = {"rope_freqs.weight": np.zeros(16, np.float32)}
    with refused(ConfigError, "rope_freqs.weight", 16, "positive"):
        open_checkpoint(written(tmp_path / "z.gguf", "llama_llama3", plain | none))


def test_damaged_models_are_opened_or_refused(tmp_path: Path):
    data = written(tmp_path / "x.gguf", "llama_llama3").read_bytes()
    marks = [m.start() for m in re.finditer(rb"llama\.|blk\.0|_embd|output|rope_freqs", data)]
    numbers = [0, 1, 2, 7, 8, 24, 2**20, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
    opened = 0
    for seed in range(800):
        rng = random.Random(seed)
        at = rng.choice(marks) + rng.randrange(-12, 64)
        new = struct.pack("<Q", rng.choice(numbers))[: rng.choice([1, 4, 8])]
        (tmp_path / "mutant.gguf").write_bytes(data[:at] + new + data[at + len(new) :])
        try:
            checkpoint = open_checkpoint(tmp_path / "mutant.gguf")
            for name in checkpoint.leaves.names:
                checkpoint.leaf(name)
            opened += 1
        except TfmError:
            pass
        (tmp_path / "mutant.gguf").unlink()
    assert 20 < opened < 780, "mutants should fall on both sides"


def test_a_vision_part_alone_is_refused_for_what_it_is(tmp_path: Path):
    path = write(tmp_path / "mmproj.gguf", "clip", {}, {"v.patch_embd.weight": np.zeros((4, 4), np.float32)})
    with refused(ConfigError, "(mmproj)"):
        open_checkpoint(path)


def test_a_token_table_without_dimensions(tmp_path: Path):
    sizes = dict.fromkeys(("embedding_length", "attention.head_count", "context_length"), 8)
    path = write(tmp_path / "x.gguf", "llama", sizes, {"token_embd.weight": np.zeros((), np.float32)})
    with refused(ConfigError, "token_embd.weight"):
        open_checkpoint(path)


@pytest.mark.real
def test_the_real_checkpoint(smollm2_gguf: Path):
    checkpoint = open_checkpoint(smollm2_gguf)
    oracle = {t.name: t for t in gguf.GGUFReader(smollm2_gguf).tensors}
    assert len(oracle) == len(checkpoint.leaves.names) == 272
    for name, theirs in {
        "embedding.table": "token_embd.weight",
        "decoder.layers.29.mlp.down": "blk.29.ffn_down.weight",
        "decoder.layers.7.attn.wo": "blk.7.attn_output.weight",
        "decoder.norm.weight": "output_norm.weight",
    }.items():
        tensor = oracle[theirs]
        want = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        got = checkpoint.leaf(name)
        assert np.array_equal(got, want if name.endswith("table") else want.T), name
    assert checkpoint.generation.eos == (2,)
    assert checkpoint.chat_template is not None
    assert checkpoint.tokenizer is not None
