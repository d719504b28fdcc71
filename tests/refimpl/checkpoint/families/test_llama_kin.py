"""Llama's kin: keys as the hub has them, and what is refused by name."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import ROWS
from families.kit import SIZES
from helpers.float64 import in_float64, randomize
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import Config, FullAttention, LongRope, Rope, Window, Yarn
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.params.tree import map_leaves

# 16 heads of 4, and 4 layers, so that every family's default of groups divides.
KEYS = {**SIZES, "num_attention_heads": 32, "hidden_size": 128, "num_hidden_layers": 4}
DIVISORS = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}


def read(name: str, **keys: Any) -> Config:
    return read_config({"model_type": name, **KEYS, **keys})[0]


def seen(config: Config) -> list[int | None]:
    """The window of each layer."""
    patterns = [layer.attention.mask for layer in config.layers]
    return [p.size if isinstance(p, Window) else None for p in patterns]


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_qwens_windows(name: str):
    used = {"use_sliding_window": True, "sliding_window": 8}
    assert seen(read(name)) == [None] * 4
    assert seen(read(name, sliding_window=8, max_window_layers=0)) == [None] * 4
    assert seen(read(name, **used, max_window_layers=3)) == [None, None, None, 8]
    assert seen(read(name, **used)) == [None] * 4
    types = ["sliding_attention", "full_attention"] * 2
    assert seen(read(name, **used, layer_types=types)) == [8, None, 8, None]


def test_windows_of_dots1():
    experts = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}
    assert seen(read("dots1", **experts)) == [None] * 4
    assert seen(read("dots1", **experts, max_window_layers=3)) == [None, None, None, 4096]
    assert seen(read("dots1", **experts, max_window_layers=0, sliding_window=None)) == [None] * 4
    types = ["sliding_attention", "full_attention"] * 2
    assert seen(read("dots1", **experts, layer_types=types, sliding_window=8)) == [8, None, 8, None]


def test_olmo3s_windows_are_not_scaled():
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}
    config = read("olmo3", rope_scaling=yarn, rope_theta=500_000)
    assert seen(config) == [4096, 4096, 4096, None]
    scalings = [rope.scaling for rope in config.ropes]
    assert scalings == [None, Yarn(8.0, 512)]


def test_layers_of_smollm3():
    def turned(config: Config) -> list[bool]:
        return [layer.attention.position is not None for layer in config.layers]

    assert turned(read("smollm3")) == [True, True, True, False]
    assert turned(read("smollm3", no_rope_layer_interval=2)) == [True, False] * 2
    marked = read("smollm3", no_rope_layers=[0, 1, 0, 1, 0], use_sliding_window=True, sliding_window=8)
    assert turned(marked) == [False, True] * 2
    assert seen(marked) == [8, None] * 2


def test_phis_longrope_under_its_older_names():
    """Phi-3-mini-128k: the context is the original one, scores are raised all the same."""
    for name in ("su", "yarn", "longrope"):
        old = read("phi3", max_position_embeddings=65_536, rope_scaling={"type": name, **DIVISORS})
        assert old.context == 4096
        magnitude = math.sqrt(1 + math.log(16) / math.log(4096))
        scaling = LongRope((1.0, 1.5), (2.0, 3.0), 4096, magnitude)
        assert old.ropes == (Rope(10_000.0, 4, scaling=scaling),)
    assert read("phi3").context == 4096
    assert read("phi3", max_position_embeddings=2048, sliding_window=9).context == 2048


def test_granites_ones_are_nothing():
    """What multiplies by one is left out, but for the scores', whose usual factor is another."""
    config = read("granite")
    assert (config.embedding.scale, config.layers[0].scale, config.layers[0].attention.scale) == (
        None,
        None,
        1.0,
    )
    assert config.layers[0].attention.mask == FullAttention()


@pytest.mark.parametrize(("name", "kind"), [("phi3", "longrope"), ("llama", "dynamic")])
def test_a_longer_context_turns_as_transformers_does_there(tmp_path: Path, name: str, kind: str):
    """As long a text as the context, each way; the checkpoint's own context would end before."""
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 100.0}
    rope |= DIVISORS if kind == "longrope" else {"factor": 4.0}
    trained = {"original_max_position_embeddings": 12} if name == "phi3" else {}
    most = {"max_position_embeddings": 20 if name == "phi3" else 12}
    own = {"pad_token_id": None, "eos_token_id": 2, **most, **trained, "rope_parameters": rope}
    config = ROWS[name].config(**{**KEYS, **own}, attn_implementation="eager")
    model = randomize(ROWS[name].models[0](config)).float()
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.context == 12
    tokens = np.random.default_rng(0).integers(0, 50, (1, 20))
    for context in (12, 20):
        made = checkpoint.for_context(context)
        params = map_leaves(lambda _, leaf: leaf.astype(np.float64), made.params)
        engine, given = NumpyEngine(made.config, params), tokens[:, :context]
        got = engine.step(given, engine.start(), at=np.arange(context)[None])[0]
        fresh = in_float64(lambda: type(model)(copy.deepcopy(config)).double().eval())
        fresh.load_state_dict(model.state_dict())
        torch.set_default_dtype(torch.float64)  # of the length so far times the factor
        try:
            want = in_float64(fresh, torch.from_numpy(given), use_cache=False).logits.numpy()
        finally:
            torch.set_default_dtype(torch.float32)
        assert np.abs(got - want).max() <= 1e-9 * np.abs(want).max()


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("qwen2", {"use_mrope": True}, "use_mrope false"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types 4"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 4}, "layer_types 4"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 4}, "use_sliding_window true"),
        (
            "qwen3",
            {"layer_types": ["sliding_attention"] * 4, "use_sliding_window": True, "sliding_window": None},
            "sliding_window 1 layer",
        ),
        ("qwen3", {"mlp_bias": True}, "'mlp_bias'"),
        ("phi3", {"attention_bias": True}, "attention_bias false"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type"),
        ("phi3", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "short_factor missing"),
        (
            "phi3",
            {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}},
            "0 scaling 2",
        ),
        ("phi3", {"sliding_window": 0}, "sliding_window 1"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers 4 0 1"),
        ("smollm3", {"no_rope_layers": [1, 1, 2, 1]}, "no_rope_layers 4"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval 1"),
        (
            "smollm3",
            {"layer_types": ["sliding_attention"] * 4, "sliding_window": 8},
            "use_sliding_window",
        ),
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("phi", {"partial_rotary_factor": 0.0}, "partial_rotary_factor 0 1"),
        ("olmo", {"rms_norm_eps": 1e-5}, "'rms_norm_eps'"),
        ("olmo", {"clip_qkv": 0.0}, "clip_qkv 0"),
        ("olmo3", {"rope_theta": 1e4}, "rope_theta 500000.0 rope_parameters"),
        ("olmo3", {"sliding_window": None}, "sliding_window 1 layer"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv null"),
        ("olmoe", {"num_experts": 4, "num_local_experts": 5}, "num_local_experts num_experts"),
        ("glm4_moe", {"n_group": 3}, "experts 128 3"),
        ("glm4_moe", {"topk_group": 2}, "experts 1 1 2"),
        ("glm4_moe", {"n_shared_experts": 0}, "n_shared_experts 1"),
        ("glm4_moe", {"num_mtp_layers": None}, "num_mtp_layers"),
        ("minimax_m2", {"rotary_dim": 64, "partial_rotary_factor": 1.0}, "rotary_dim"),
        ("minimax_m2", {"rotary_dim": 256}, "partial_rotary_factor 0 1 2.0"),
        (
            "dots1",
            {
                "use_sliding_window": True,
                "n_routed_experts": 4,
                "n_shared_experts": 1,
                "num_experts_per_tok": 2,
            },
            "use_sliding_window false True",
        ),
        ("ernie4_5", {"use_bias": 1}, "use_bias"),
        ("helium", {"num_key_value_heads": None}, "num_key_value_heads"),
        ("granite", {"residual_multiplier": 0.0}, "residual_multiplier 0"),
        ("granite", {"logits_scaling": -1}, "logits_scaling 0"),
    ],
)
def test_refused(name: str, keys: dict, words: str):
    with refused(ConfigError, *words.split()):
        read(name, **keys)
