"""One model in both dialects, safetensors and GGUF, gives equal leaves."""

import random
import re
import struct

import gguf
import numpy as np
import pytest
import torch
import transformers
from tfm.refimpl.checkpoint import open_checkpoint
from tfm.refimpl.config import LinearScaling, Llama3Scaling
from tfm.refimpl.errors import CheckpointError, ConfigError, TfmError
from tfm.refimpl.ops.quant import dequantize
from tfm.refimpl.params import flatten

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 5e5},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
KEYS = {
    "vocab_size": 40, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32,
    "max_position_embeddings": 512, "rms_norm_eps": 2.0**-17,
}  # fmt: skip


def original(rope: str = "default", *, tied: bool = True, bias: bool = False) -> torch.nn.Module:
    """transformers' Llama with random weights that Q8_0 and float16 also hold exactly enough."""
    config = transformers.LlamaConfig(
        **KEYS, rope_parameters=ROPES[rope], tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias
    )
    model = transformers.LlamaForCausalLM(config).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
    return model


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to query and key rows."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, kind: str = "F32", **extra) -> None:
    """The model as llama.cpp's converter writes it, by gguf's own writer and table of names."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    for key, value in extra.items():
        writer.add_uint32(f"llama.{key}", value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    if config.rope_parameters["rope_type"] == "llama3":
        inv_freq = model.model.rotary_emb.inv_freq.numpy()
        plain = config.rope_parameters["rope_theta"] ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / inv_freq).astype(np.float32))
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            array = permute(array, heads) if part in name else array
        renamed = names.get_name(name, try_suffixes=(".weight", ".bias"))
        stored = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        writer.add_tensor(renamed, gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize(("tied", "bias"), [(True, False), (False, True)])
def test_both_dialects_give_equal_leaves(tmp_path, rope, tied, bias):
    model = original(rope, tied=tied, bias=bias)
    model.save_pretrained(tmp_path / "hf")
    write_gguf(tmp_path / "model.gguf", model)
    one, other = open_checkpoint(tmp_path / "hf"), open_checkpoint(tmp_path / "model.gguf")
    assert one.config == other.config
    want = dict(flatten(one.params))
    for name, leaf in flatten(other.params):
        assert np.array_equal(leaf, want[name]), name
    scaling = one.config.ropes[0].scaling
    assert isinstance(
        scaling, {"default": type(None), "linear": LinearScaling, "llama3": Llama3Scaling}[rope]
    )


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
        ({"unheard.of": 1}, "'unheard.of' isn't known"),
        ({"expert_count": 8}, "expert_count must be 0"),
        ({"rope.scaling.yarn_log_multiplier": 1}, "isn't known"),
    ],
)
def test_refused_metadata(tmp_path, extra, message):
    write_gguf(tmp_path / "model.gguf", original(), **extra)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("find", "replace", "message"),
    [
        (b"llama.vocab_size", b"llama.vocab_sizE", "'vocab_sizE' isn't known"),
        (b"llama.block_count", b"llama.block_counT", "block_count is missing"),
        (
            b"llama.rope.dimension_count\4\0\0\0\x20",
            b"llama.rope.dimension_count\4\0\0\0\x10",
            "head's size, 32",
        ),
        (b"llama.vocab_size\4\0\0\0\x28", b"llama.vocab_size\4\0\0\0\x29", "rows of token_embd.weight, 40"),
        (b"llama.embedding_length", b"other.embedding_length", "key 'other.embedding_length' isn't known"),
        (
            b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
            None,
            "general.architecture must be one of .*llama",
        ),
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
    with pytest.raises(CheckpointError, match=r"'rope_freqs.weight' must equal rope_freqs"):
        open_checkpoint(tmp_path / "model.gguf")
    model.model.rotary_emb.inv_freq[:] = torch.inf
    write_gguf(tmp_path / "model.gguf", model)
    with pytest.raises(ConfigError, match="must hold 16 positive divisors"):
        open_checkpoint(tmp_path / "model.gguf")


def test_damaged_models_are_opened_or_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, original("llama3", tied=False, bias=True))
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
    with pytest.raises(ConfigError, match=r"token_embd.weight must be there, a table"):
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
