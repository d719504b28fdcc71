"""One model in both dialects, safetensors and GGUF, gives equal leaves."""

import copy
import math
import random
import re
import struct

import gguf
import numpy as np
import pytest
import torch
from families import ROWS
from helpers.refused import refused
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import LinearScaling, Llama3Scaling, LongRope, Yarn
from tfm.refimpl.errors import CheckpointError, ConfigError, TfmError
from tfm.refimpl.ops.quant import dequantize
from tfm.refimpl.params.tree import flatten

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 5e5},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128,
    },
    "llama3": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
    "longrope": {
        "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1 + i / 8 for i in range(16)],
        "long_factor": [2 + i / 4 for i in range(16)],
    },
}  # fmt: skip
SCALINGS = {"linear": LinearScaling, "yarn": Yarn, "llama3": Llama3Scaling, "longrope": LongRope}
KEYS = {
    "vocab_size": 40, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32,
    "max_position_embeddings": 512, "rms_norm_eps": 2.0**-17, "pad_token_id": None, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def original(rope: str = "default", *, family: str = "llama", **keys) -> torch.nn.Module:
    """transformers' model with random weights that Q8_0 and float16 also hold exactly enough."""
    row = ROWS[family]
    config = row.config(**{**KEYS, "rope_parameters": copy.deepcopy(ROPES[rope]), **keys})
    model = row.models[0](config).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
    return model


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to query and key rows."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def metadata(writer: gguf.GGUFWriter, config) -> None:
    """What the converter writes of a config; of windows, for the families that llama.cpp reads them of."""
    rope, size = config.rope_parameters, config.hidden_size // config.num_attention_heads
    size = getattr(config, "head_dim", None) or size
    writer.add_chat_template([{"name": name, "template": name} for name in ("default", "tool_use", "rag")])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1)))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "phi3":
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_sliding_window(config.sliding_window or 0)
    else:
        writer.add_key_length(size)
        writer.add_value_length(size)
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "longrope":
        trained = config.original_max_position_embeddings
        ratio = config.max_position_embeddings / trained
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(ratio) / math.log(trained)))


def write_gguf(path, model, kind: str = "F32", **extra) -> None:
    """The model as llama.cpp's converter writes it, by gguf's own writer and table of names."""
    config, rope = model.config, model.config.rope_parameters
    writer = gguf.GGUFWriter(path, config.model_type)
    metadata(writer, config)
    for key, value in extra.items():
        writer.add_uint32(f"{config.model_type}.{key}", value)
    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    if rope["rope_type"] == "llama3":
        inv_freq = model.model.rotary_emb.inv_freq.numpy()
        plain = rope["rope_theta"] ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / inv_freq).astype(np.float32))
    if rope["rope_type"] == "longrope":
        for length in ("short", "long"):
            divisors = np.array(rope[f"{length}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", divisors)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.numpy()
        if config.model_type in ("llama", "smollm3", "granite", "arcee"):
            for part, heads in (
                ("q_proj", config.num_attention_heads),
                ("k_proj", config.num_key_value_heads),
            ):
                array = permute(array, heads) if part in name else array
        renamed = names.get_name(name, try_suffixes=(".weight", ".bias"))
        stored = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        writer.add_tensor(renamed, gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


BIASES = {"attention_bias": True, "mlp_bias": True}
PHI = {"head_dim": 32, "original_max_position_embeddings": 256}
DIALECTS = {
    "llama": ("llama", "default", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", "default", BIASES),
    "llama, linear": ("llama", "linear", {}),
    "llama, yarn": ("llama", "yarn", {}),
    "llama, llama3": ("llama", "llama3", {}),
    "qwen2": ("qwen2", "default", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen2, yarn": ("qwen2", "yarn", {"head_dim": 32}),
    "qwen3": ("qwen3", "default", {"attention_bias": True}),
    "qwen3, yarn": ("qwen3", "yarn", {"tie_word_embeddings": True}),
    "phi3": ("phi3", "default", PHI | {"sliding_window": 9}),
    "phi3, tied": ("phi3", "default", PHI | {"partial_rotary_factor": 0.75, "tie_word_embeddings": True}),
    "phi3, longrope": ("phi3", "longrope", PHI | {"max_position_embeddings": 2**18}),  # a magnitude of 1.5
    "granite": (
        "granite",
        "default",
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 2.0**-7,
            "residual_multiplier": 0.25,
            "logits_scaling": 8.0,
        },
    ),
    "granite, biases": ("granite", "linear", BIASES | {"tie_word_embeddings": True}),
    "smollm3": ("smollm3", "default", {"num_hidden_layers": 5, "tie_word_embeddings": False}),
    "smollm3, biases": ("smollm3", "llama3", BIASES),
    "arcee": ("arcee", "llama3", {}),
    "arcee, biases": ("arcee", "yarn", BIASES | {"tie_word_embeddings": True}),
    "exaone4": ("exaone4", "llama3", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "seed_oss": ("seed_oss", "default", BIASES | {"tie_word_embeddings": True}),
    "seed_oss, linear": ("seed_oss", "linear", {"attention_bias": False, "attention_out_bias": True}),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_both_dialects_give_equal_leaves(tmp_path, name):
    family, rope, keys = DIALECTS[name]
    model = original(rope, family=family, **keys)
    model.save_pretrained(tmp_path / "hf")
    write_gguf(tmp_path / "model.gguf", model)
    one, other = open_checkpoint(tmp_path / "hf"), open_checkpoint(tmp_path / "model.gguf")
    assert one.config == other.config
    assert (other.chat_template, other.tool_use_template) == ("default", "tool_use")
    want = dict(flatten(one.params))
    for name, leaf in flatten(other.params):
        assert np.array_equal(leaf, want[name]), name
    assert isinstance(one.config.ropes[0].scaling, SCALINGS.get(rope, type(None)))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_native_blocks_stand_where_the_leaf_does(tmp_path, kind):
    write_gguf(tmp_path / "model.gguf", original(), kind)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
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
def test_other_types_are_read(tmp_path, kind):
    model = original()
    write_gguf(tmp_path / "model.gguf", model, kind)
    got = open_checkpoint(tmp_path / "model.gguf").leaf("decoder.layers.1.attn.wk")
    want = model.state_dict()["model.layers.1.self_attn.k_proj.weight"].numpy().T
    assert np.abs(got - want).max() < {"F16": 2e-3, "BF16": 2e-2}.get(kind, 0.2)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"unheard.of": 1}, r"'unheard\.of'"),
        ({"expert_count": 8}, "expert_used_count.*missing"),
        ({"rope.scaling.yarn_log_multiplier": 1}, "known"),
    ],
)
def test_refused_metadata(tmp_path, extra, message):
    write_gguf(tmp_path / "model.gguf", original(), **extra)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("rope", "extra", "message"),
    [
        ("yarn", {"rope.scaling.yarn_attn_factor": 2}, r"rope\.scaling\.yarn_attn_factor.*1"),
        ("default", {"rope.scaling.yarn_ext_factor": 1}, r"'rope\.scaling\.yarn_ext_factor'"),
        ("llama3", {"rope.scaling.factor": 2}, r"rope\.scaling\.factor.*1.*rope_freqs\.weight"),
    ],
)
def test_refused_rotary_metadata(tmp_path, rope, extra, message):
    write_gguf(tmp_path / "model.gguf", original(rope), **extra)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("find", "replace", "message"),
    [
        (b"rope_factors_short", b"rope_factors_Short", r"rope_factors_short\.weight.*16.*positive"),
        (b"attention.sliding_window", b"attention.sliding_windoW", r"attention\.sliding_window.*missing"),
        (b"rope.dimension_count\4\0\0\0\x20", b"rope.dimension_count\4\0\0\0\x21", "most.*32"),
    ],
)
def test_phis_metadata_that_lie(tmp_path, find, replace, message):
    path = tmp_path / "model.gguf"
    write_gguf(path, original("longrope", family="phi3", **PHI))
    data = path.read_bytes()
    assert find in data
    path.write_bytes(data.replace(find, replace))
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(path)


def test_other_divisors_than_the_configs(tmp_path):
    """A tensor of divisors that nobody turns by is an error: of a Qwen, whose converter writes none."""
    model = original("llama3", family="qwen3")
    write_gguf(tmp_path / "model.gguf", model)
    with refused(CheckpointError, "tensor", "rope_freqs.weight"):
        open_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("find", "replace", "message"),
    [
        (b"llama.vocab_size", b"llama.vocab_sizE", "'vocab_sizE'"),
        (b"llama.block_count", b"llama.block_counT", "block_count.*missing"),
        (b"llama.rope.dimension_count\4\0\0\0\x20", b"llama.rope.dimension_count\4\0\0\0\x10", "size.*32"),
        (b"llama.vocab_size\4\0\0\0\x28", b"llama.vocab_size\4\0\0\0\x29", r"token_embd\.weight.*40"),
        (b"llama.embedding_length", b"other.embedding_length", r"'other\.embedding_length'"),
        (b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama", None, r"general\.architecture.*llama"),
    ],
)
def test_metadata_that_lie(tmp_path, find, replace, message):
    path = tmp_path / "model.gguf"
    write_gguf(path, original())
    data = path.read_bytes()
    assert find in data
    path.write_bytes(data.replace(find, find[:-5] + b"llamb" if replace is None else replace))
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(path)


def test_divisors_that_are_not_llama3s(tmp_path):
    model = original("llama3")
    model.model.rotary_emb.inv_freq *= torch.linspace(1, 0.5, 16)
    write_gguf(tmp_path / "model.gguf", model)
    with refused(CheckpointError, "'rope_freqs.weight'", "rope_freqs"):
        open_checkpoint(tmp_path / "model.gguf")
    model.model.rotary_emb.inv_freq[:] = torch.inf
    write_gguf(tmp_path / "model.gguf", model)
    with refused(ConfigError, "rope_freqs.weight", 16, "positive"):
        open_checkpoint(tmp_path / "model.gguf")


def test_damaged_models_are_opened_or_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, original("llama3", **BIASES))
    data = path.read_bytes()
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


def test_a_token_table_without_dimensions(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for add in (writer.add_embedding_length, writer.add_head_count, writer.add_context_length):
        add(8)
    writer.add_tensor("token_embd.weight", np.zeros((), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with refused(ConfigError, "token_embd.weight"):
        open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.real
def test_the_real_checkpoint(smollm2_gguf):
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
