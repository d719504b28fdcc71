"""Checkpoints of older days: masks and frequencies among their weights, prefixes, other names of keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from families import ROWS
from helpers.refused import refused
from safetensors.torch import save_file
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.params.tree import flatten

SPECIAL = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1}
HUB_SIZES = {"hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 3}
KEYS = {
    "bloom": {"hidden_size": 24, "n_layer": 2, "n_head": 3},
    "gpt2": {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16},
    "gpt_neox": {**HUB_SIZES, "max_position_embeddings": 16, "use_parallel_residual": False},
}


def original(family: str) -> torch.nn.Module:
    """transformers' model, all of its weights random."""
    row = ROWS[family]
    model = row.models[0](row.config(**SPECIAL, **KEYS[family])).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
    return model


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
    model, (prefix, buffers) = original(name), HUB[name]
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
