"""Decoders whose queries, keys and values are one tensor: hub checkpoints old and new, and GGUF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from families import ROWS
from helpers.refused import refused
from safetensors.torch import save_file
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.params.tree import flatten

EPS = 2.0**-17  # GGUF holds it in float32


def plain(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """A converter that changes nothing."""
    return array


def output_first(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """GPT-2's maps are stored input-first on the hub."""
    return array.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else array


def ungrouped(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """Queries, keys and values stand head by head on the hub, one after the other in GGUF."""
    if "query_key_value" not in name:
        return array
    heads = array.reshape(config.num_attention_heads, 3, -1, *array.shape[1:])
    return heads.swapaxes(0, 1).reshape(array.shape)


def ungrouped_falcon(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """The same for groups: all queries, then all keys, then all values (the layout `jploski`)."""
    if "query_key_value" not in name:
        return array
    groups = config.num_kv_heads if config.new_decoder_architecture else 1
    share = config.num_attention_heads // groups
    q, k, v = np.split(array.reshape(groups, share + 2, -1, array.shape[1]), [share, share + 1], axis=1)
    return np.concatenate([part.reshape(-1, array.shape[1]) for part in (q, k, v)])


@dataclass(frozen=True)
class Dialect:
    """One model in transformers' words, and how llama.cpp's converter says it."""

    family: str
    keys: dict[str, Any]
    arch: gguf.MODEL_ARCH
    metadata: dict[str, Any]
    change: Callable[[str, np.ndarray, Any], np.ndarray] = plain


SPECIAL = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1}
HUB_SIZES = {"hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 3}
FALCON = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_hidden_size": 10}
FALCON |= {"max_position_embeddings": 16, "layer_norm_epsilon": EPS}
COMMON = {
    "context_length": 16,
    "embedding_length": 24,
    "feed_forward_length": 10,
    "block_count": 2,
    "attention.head_count": 3,
    "attention.layer_norm_epsilon": EPS,
}
DIALECTS = {
    "gpt2": Dialect(
        "gpt2",
        {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16, "layer_norm_epsilon": EPS},
        gguf.MODEL_ARCH.GPT2,
        {**COMMON, "embedding_length": 12, "feed_forward_length": 48},
        output_first,
    ),
    "gpt_bigcode": Dialect(
        "gpt_bigcode",
        {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16, "layer_norm_epsilon": EPS},
        gguf.MODEL_ARCH.STARCODER,
        {**COMMON, "embedding_length": 12, "feed_forward_length": 48, "attention.head_count_kv": 1},
    ),
    "gpt_neox": Dialect(
        "gpt_neox",
        {**HUB_SIZES, "layer_norm_eps": EPS, "max_position_embeddings": 16, "use_parallel_residual": False},
        gguf.MODEL_ARCH.GPTNEOX,
        {**COMMON, "rope.dimension_count": 2, "use_parallel_residual": False},
        ungrouped,
    ),
    "bloom": Dialect(
        "bloom",
        {"hidden_size": 24, "n_layer": 2, "n_head": 3, "layer_norm_epsilon": EPS},
        gguf.MODEL_ARCH.BLOOM,
        {**COMMON, "context_length": 2048, "feed_forward_length": 96, "attention.head_count_kv": 3},
        ungrouped,
    ),
    "mpt": Dialect(
        "mpt",
        {
            "d_model": 24,
            "n_layers": 2,
            "n_heads": 3,
            "max_seq_len": 16,
            "layer_norm_epsilon": EPS,
            "attn_config": {"clip_qkv": 0.5, "alibi_bias_max": 16},
        },
        gguf.MODEL_ARCH.MPT,
        {**COMMON, "feed_forward_length": 96, "attention.max_alibi_bias": 16.0, "attention.clamp_kqv": 0.5},
    ),
    "falcon": Dialect(
        "falcon",
        {**FALCON, "multi_query": True},
        gguf.MODEL_ARCH.FALCON,
        {**COMMON, "tensor_data_layout": "jploski", "attention.head_count_kv": 1},
        ungrouped_falcon,
    ),
    "falcon of groups": Dialect(
        "falcon",
        {**FALCON, "new_decoder_architecture": True, "num_attention_heads": 6, "num_kv_heads": 2},
        gguf.MODEL_ARCH.FALCON,
        {**COMMON, "tensor_data_layout": "jploski", "attention.head_count": 6, "attention.head_count_kv": 2},
        ungrouped_falcon,
    ),
}


def original(dialect: Dialect, **more: Any) -> torch.nn.Module:
    """transformers' model, all of its weights random."""
    row = ROWS[dialect.family]
    model = row.models[0](row.config(**SPECIAL, **dialect.keys, **more)).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
    return model


def write_gguf(path: Any, dialect: Dialect, model: torch.nn.Module, metadata: dict[str, Any]) -> None:
    """The model as llama.cpp's converter writes it, by gguf's own writer and table of names."""
    name = gguf.MODEL_ARCH_NAMES[dialect.arch]
    writer = gguf.GGUFWriter(path, name)
    add = {int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool, str: writer.add_string}
    for key, value in metadata.items():
        add[type(value)](f"{name}.{key}", value)
    names = gguf.get_tensor_name_map(dialect.arch, model.config.num_hidden_layers)
    for tensor, weight in model.state_dict().items():
        if tensor != "lm_head.weight" or not model.config.tie_word_embeddings:
            suffixes = (".weight", ".bias")
            # BLOOM's converter takes the prefix off first.
            renamed = names.get_name(tensor, suffixes) or names.get_name(
                tensor.removeprefix("transformer."), suffixes
            )
            assert renamed is not None, tensor
            array = dialect.change(tensor, weight.numpy(), model.config)
            writer.add_tensor(renamed, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.config == other.config
    want = dict(flatten(one.params))
    for name, leaf in flatten(other.params):
        assert np.array_equal(leaf, want[name]), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", DIALECTS)
def test_both_dialects_give_equal_leaves(tmp_path, name, tied):
    dialect = DIALECTS[name]
    model = original(dialect, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "hf")
    write_gguf(tmp_path / "model.gguf", dialect, model, dialect.metadata)
    same(open_checkpoint(tmp_path / "hf"), open_checkpoint(tmp_path / "model.gguf"))


@pytest.mark.parametrize("name", DIALECTS)
def test_metadata_that_nobody_reads(tmp_path, name):
    dialect = DIALECTS[name]
    write_gguf(tmp_path / "x.gguf", dialect, original(dialect), {**dialect.metadata, "unheard.of": 1})
    with refused(ConfigError, "'unheard.of'"):
        open_checkpoint(tmp_path / "x.gguf")


MASK = torch.ones(16, 16).tril()[None, None]


def stored(model: torch.nn.Module, buffers: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors with each layer's buffers, and without a prefix."""
    tensors = {name.removeprefix(prefix): t.contiguous() for name, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    layers = range(model.config.num_hidden_layers)
    return tensors | {name.format(i=i): t.clone() for name, t in buffers.items() for i in layers}


HUB = {
    "bloom": ("transformer.", {}),
    "gpt2": ("transformer.", {"h.{i}.attn.bias": MASK, "h.{i}.attn.masked_bias": torch.tensor(-1e4)}),
    "gpt_neox": (
        "gpt_neox.",
        {
            "layers.{i}.attention.bias": MASK,
            "layers.{i}.attention.masked_bias": torch.tensor(-torch.inf).half(),
            "layers.{i}.attention.rotary_emb.inv_freq": torch.ones(1),
        },
    ),
}


@pytest.mark.parametrize("name", HUB)
def test_what_older_checkpoints_hold_besides(tmp_path, name):
    model, (prefix, buffers) = original(DIALECTS[name]), HUB[name]
    model.save_pretrained(tmp_path)
    now = open_checkpoint(tmp_path)
    want = {name: leaf.copy() for name, leaf in flatten(now.params)}
    for cut in ("", prefix):
        for kind in (torch.float32, torch.bool, torch.uint8):
            held = {k: t.to(kind) if t.ndim == 4 else t for k, t in buffers.items()}
            save_file(stored(model, held, cut), tmp_path / "model.safetensors")
            before = open_checkpoint(tmp_path)
            assert before.config == now.config
            assert all(np.array_equal(leaf, want[name]) for name, leaf in flatten(before.params))
    for buffer in (name for name in buffers if "inv_freq" not in name):  # those are told
        wrong = stored(model, buffers | {buffer: buffers[buffer] * -1}, prefix)
        save_file(wrong, tmp_path / "model.safetensors")
        with refused(CheckpointError, f"'{buffer.format(i=0)}'"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("window", [5, 4])
def test_masks_that_gpt_neo_stores_are_those_of_its_layers(tmp_path, window):
    keys = {"hidden_size": 12, "num_layers": 2, "num_heads": 3, "attention_types": [[["global", "local"], 1]]}
    model = transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(**SPECIAL, **keys, window_size=5, max_position_embeddings=16)
    )
    model.save_pretrained(tmp_path)
    full = torch.ones(1, 1, 16, 16, dtype=torch.bool).tril()
    tensors = {name: t.contiguous() for name, t in model.state_dict().items() if name != "lm_head.weight"}
    for i, mask in enumerate((full, full ^ full.tril(-window))):
        tensors[f"transformer.h.{i}.attn.attention.bias"] = mask
        tensors[f"transformer.h.{i}.attn.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(tensors, tmp_path / "model.safetensors")
    if window == 5:
        open_checkpoint(tmp_path)
    else:
        with refused(CheckpointError, "h.1.attn.attention.bias'"):
            open_checkpoint(tmp_path)


OLD = {"rotary_emb_base": 5e3, "rotary_pct": 0.5}


def test_older_names_of_sizes():
    keys = {"model_type": "bloom", "vocab_size": 40, "hidden_size": 24, "n_layer": 2, "n_head": 3}
    older = {"hidden_size": "n_embed", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    want = read_config(keys)[0]
    assert read_config({older.get(key, key): value for key, value in keys.items()})[0] == want
    with refused(ConfigError, "n_embed", "hidden_size", 24, 48):
        read_config({**keys, "n_embed": 48})


def test_older_names_of_rotary_keys():
    keys = {"model_type": "gpt_neox", "vocab_size": 40, **HUB_SIZES}
    want = read_config({**keys, "rope_parameters": {"rope_theta": 5e3, "partial_rotary_factor": 0.5}})[0]
    assert read_config({**keys, **OLD})[0] == want
    assert read_config({**keys, **OLD, "rope_theta": 5e3, "partial_rotary_factor": 0.5})[0] == want
    for key, older in (("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")):
        with refused(ConfigError, key, older):
            read_config({**keys, **OLD, key: 0.75})
