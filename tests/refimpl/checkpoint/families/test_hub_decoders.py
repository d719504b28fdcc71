"""What config.json says of real checkpoints of newer decoders, and of some older ones.

Changes of a row that a test states are from memory, but for the quantization of EXAONE-4.0-32B-FP8, which
hlky/dinoml_v2 lists as read on the hub.
Fewer than three different ones are published of seed_oss (Instruct, Base and Base-woSyn are alike), helium
(helium-1-preview is its only one; helium-1-2b is a Llama), gptj (all have gpt-j-6b's sizes) and ernie4_5.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import transformers
from helpers.configs import PUBLIC, ROWS
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import (
    LM,
    ONE_GROUP,
    XIELU,
    AltUp,
    Attention,
    Beside,
    Chunked,
    Classify,
    Config,
    Dense,
    DynamicNTK,
    Embedding,
    Encoder,
    ExpertGroups,
    FullAttention,
    Gated,
    HeadNorm,
    Indexer,
    Laurel,
    Layer,
    LayerNorm,
    Llama3Scaling,
    LongRope,
    MoE,
    NoMlp,
    PerLayerEmbedding,
    PerLayerInput,
    Plain,
    ProportionalScaling,
    QueryScale,
    RMSNorm,
    Rope,
    SparseMixer,
    Window,
    Yarn,
)
from tfm.refimpl.engine.cache_kinds import cache_kinds
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.mamba import Mamba
from tfm.refimpl.ops.mamba2 import Mamba2
from tfm.refimpl.ops.short_conv import ShortConv

AFM = PUBLIC["arcee-ai/AFM-4.5B"]
APERTUS = ROWS["apertus"]
BAMBA = ROWS["bamba"]
BITNET = ROWS["bitnet"]
CODESTRAL = ROWS["codestral"]
COMMAND_A = PUBLIC["mlx-community/c4ai-command-a-03-2025-bf16"]
COMMAND_R7B = ROWS["command-r7b"]
DEEPSEEK_LITE = ROWS["deepseek-lite"]
DEEPSEEK_V32 = ROWS["deepseek-v32"]
ETTIN = ROWS["ettin"]
EXAONE_32B = ROWS["exaone-32b"]
FALCON_H1 = ROWS["falcon-h1"]
GEMMA3N = ROWS["gemma3n"]
GEMMA4 = ROWS["gemma4"]
GLM_5 = ROWS["glm-5"]
GPT_J = PUBLIC["EleutherAI/gpt-j-6b"]
GPT_NEO = PUBLIC["EleutherAI/gpt-neo-125m"]
GRANITE_4_MICRO = ROWS["granite-4-micro"]
GRANITE_MOE = PUBLIC["ibm-granite/granite-3.0-1b-a400m-base"]
HUNYUAN = ROWS["hunyuan"]
JAMBA = ROWS["jamba"]
KIMI_LINEAR = ROWS["kimi-linear"]
MAMBA_130M = ROWS["mamba-130m"]
MINISTRAL = ROWS["ministral"]
MINITRON_4B = PUBLIC["nvidia/Nemotron-4-Mini-Hindi-4B-Instruct"]
MISTRAL4 = ROWS["mistral4"]
MOONLIGHT = ROWS["moonlight"]
NEMOTRON_H = ROWS["nemotron-h"]
OLMO_HYBRID = ROWS["olmo-hybrid"]
PHIMOE = ROWS["phimoe"]
QWEN3_NEXT = ROWS["qwen3-next"]
SCOUT = ROWS["scout"]
SEED_OSS = ROWS["seed-oss"]
STARCODER = ROWS["starcoder"]

COMMON = {
    "torch_dtype": "bfloat16", "transformers_version": "4.53.0", "use_cache": True, "initializer_range": 0.02,
    "attention_dropout": 0.0, "hidden_act": "silu", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def read(keys: dict[str, Any], **more: Any) -> Config:
    return read_config({**keys, **more})[0]


def windows(config: Config) -> list[int | None]:
    return [layer.attention.window for layer in config.layers]


def rotated(config: Config) -> list[bool]:
    """Which layers have positions."""
    return [layer.attention.position is not None for layer in config.layers]


def test_exaone4():
    small, large = read(ROWS["exaone-1b"]), read(EXAONE_32B)
    assert (windows(small), rotated(small)) == ([None] * 30, [True] * 30)
    assert windows(large) == [4096, 4096, 4096, None] * 16
    assert rotated(large) == [True, True, True, False] * 16
    attention, norm = large.layers[0].attention, RMSNorm(1e-5)
    assert attention.position == Rope(1e6, 128, scaling=Llama3Scaling(16.0, 1.0, 4.0, 8192))
    assert (attention.qk_norm, attention.pre, attention.post) == (HeadNorm(norm), None, norm)
    blocks = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    assert read(EXAONE_32B, quantization_config={**blocks, "modules_to_not_convert": None}) == large
    # Files without types state the interval by a number.
    untyped = {k: v for k, v in EXAONE_32B.items() if k != "layer_types"}
    assert read(untyped, sliding_window_pattern=4) == large
    with refused(ConfigError, "sliding_window_pattern", "'LLLG'"):
        read(untyped)


@pytest.mark.parametrize("keys", [COMMAND_R7B, COMMAND_A], ids=["7B", "A"])
def test_cohere2(keys):
    config = read(keys)
    assert windows(config) == [4096, 4096, 4096, None] * (len(config.layers) // 4)
    assert rotated(config) == [window is not None for window in windows(config)]
    assert config.layers[0].attention.position == Rope(50_000.0, 128, interleaved=True)
    assert config.layers[3].parallel
    assert config.head == LM(tied=True, scale=0.25)
    listed = [["full_attention", "sliding_attention"][window is not None] for window in windows(config)]
    assert read(keys, layer_types=listed) == config


@pytest.mark.parametrize(
    ("key", "harmful"),
    [
        ("layer_switch", 3),
        ("rotary_pct", 0.5),
        ("position_embedding_type", "alibi"),
        ("use_qk_norm", True),
        ("use_parallel_block", False),
        ("use_gated_activation", False),
        ("use_embedding_sharing", False),
        ("order_of_interleaved_layers", "global_attn_first"),
    ],
)
def test_what_its_trainer_can_do_otherwise_is_refused(key, harmful):
    with refused(ConfigError, key, repr(harmful)):
        read(COMMAND_R7B, **{key: harmful})


def test_seed_oss():
    attention = read(SEED_OSS).layers[63].attention
    assert (attention.heads, attention.kv_heads, attention.head_size) == (80, 8, 128)
    assert (attention.qkv_bias, attention.out_bias) == (True, False)
    assert attention.position == Rope(1e7, 128)
    assert read(SEED_OSS, head_dim=None).layers[0].attention.head_size == 64


def test_arcee():
    layer = read(AFM).layers[0]
    assert layer.mlp == Plain(18_432, "relu_squared", bias=False, pre=RMSNorm(1e-5))
    assert layer.attention.position == Rope(10_000.0, 128, scaling=Yarn(20.0, 4096))


GRANITE_3B = {
    "hidden_size": 1536, "num_attention_heads": 24, "num_hidden_layers": 32, "num_local_experts": 40,
    "max_position_embeddings": 131_072, "rope_theta": 10_000_000.0,
}  # fmt: skip
POWER_MOE = {
    **GRANITE_3B, "max_position_embeddings": 4096, "init_method": "mup", "normalization_function": "rmsnorm",
    "rope_theta": 10_000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "experts"), [({}, 32), (GRANITE_3B, 40), (POWER_MOE, 40)], ids=["1B", "3B", "PowerMoE"]
)
def test_granitemoe(more, experts):
    config = read(GRANITE_MOE, **more)
    layer = config.layers[-1]
    assert layer.mlp == MoE(experts, 8, 512, "silu", pre=RMSNorm(1e-6))
    assert (layer.scale, layer.attention.scale) == (0.22, 2.0**-6)
    assert (config.embedding.scale, config.head) == (12.0, LM(tied=True, scale=1 / 6))


@pytest.mark.parametrize("keys", [GRANITE_4_MICRO, ROWS["granite-4-350m"]], ids=["micro", "350M"])
def test_granitemoehybrid(keys):
    config = read(keys)
    assert config.layers[0].mlp == Gated(keys["intermediate_size"], "silu", pre=RMSNorm(1e-5))
    assert config.layers[0].attention.position == Rope(1e7, 64)
    assert read(keys, layer_types=["full_attention"] * len(config.layers)) == config
    assert read(keys, layers_block_type=keys["layer_types"]) == config
    assert isinstance(read(keys, architectures=["GraniteMoeHybridModel"]), Encoder)


def test_granite_with_states():
    """Granite 4's H models: nine layers with a state, then one with attention."""
    states, layers = {"mamba_d_state": 128, "mamba_n_heads": 80}, (["mamba"] * 9 + ["attention"]) * 4
    config = read(GRANITE_4_MICRO, layer_types=layers, position_embedding_type="nope", **states)
    mixers = [layer.attention for layer in config.layers]
    assert [isinstance(mixer, Attention) for mixer in mixers] == [i % 10 == 9 for i in range(40)]
    assert replace(mixers[0], pre=None) == Mamba2(80, 1, 128, 64)
    assert (config.layers[0].scale, mixers[9].position) == (0.22, None)
    assert read(GRANITE_4_MICRO, layer_types=None, **states).layers[39].attention == mixers[0]
    model = {"architectures": ["GraniteMoeHybridModel"], "layer_types": layers, **states}
    assert read(GRANITE_4_MICRO, **model).stack.stepwise
    with refused(ConfigError, "is_causal", "true"):
        read(GRANITE_4_MICRO, **model, is_causal=False)
    with refused(ConfigError, "mamba_n_heads", 5120):
        read(GRANITE_4_MICRO, layer_types=layers, mamba_n_heads=81)
    with refused(ConfigError, "mamba_d_head", 64):
        read(GRANITE_4_MICRO, layer_types=layers, mamba_d_head=32)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layer_types": ["attention"] * 39}, "layer_types.*40"),
        (
            {"layer_types": ["recurrent"] * 40},
            "full_attention",
        ),
        ({"position_embedding_type": "alibi"}, "position_embedding_type"),
        ({"normalization_function": "layernorm"}, 'normalization_function.*"rmsnorm"'),
        ({"num_local_experts": -1}, "num_local_experts.*1"),
    ],
)
def test_what_granite_4_is_refused_for(more, message):
    with pytest.raises(ConfigError, match=message):
        read(GRANITE_4_MICRO, **more)


@pytest.mark.parametrize("keys", [MINITRON_4B, ROWS["minitron-8b"]], ids=["4B", "8B"])
def test_nemotron(keys):
    layer = read(keys).layers[0]
    assert layer.attention.position == Rope(10_000.0, 64)
    assert layer.attention.head_size == 128
    assert layer.mlp == Plain(keys["intermediate_size"], "relu_squared", bias=False, pre=LayerNorm(1e-5))
    with refused(ConfigError, "kv_channels", 128):
        read({**keys, "kv_channels": 96})


@pytest.mark.parametrize(
    "keys",
    [ROWS["internlm2-1b"], ROWS["internlm2"], ROWS["internlm2-20b"]],
    ids=["1.8B", "7B", "20B"],
)
def test_internlm2(keys):
    attention = read(keys).layers[0].attention
    scaling = DynamicNTK(keys["rope_scaling"]["factor"], 32_768)
    assert attention.position == Rope(1e6, 128, scaling=scaling)
    assert (attention.kv_heads, attention.qkv_bias, attention.out_bias) == (8, False, False)
    assert read(keys, bias=True).layers[0].attention.out_bias
    with refused(ConfigError, "head_dim", "hidden_size", "num_attention_heads", 64):
        read(keys, head_dim=64)
    with refused(ConfigError, "rope_type", "'yarn'"):
        read(keys, rope_scaling={"type": "yarn", "factor": 2.0})


def test_gptj():
    config = read(GPT_J)
    assert config.layers[27].attention.position == Rope(10_000.0, 64, interleaved=True)
    assert config.layers[0].mlp == Plain(16_384, "gelu_tanh")
    assert config.head == LM(tied=False, bias=True)
    names = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    newer = {k: v for k, v in GPT_J.items() if k not in names.values()}
    assert read(newer, **{new: GPT_J[old] for new, old in names.items()}) == config
    for key in ("rotary", "scale_attn_weights"):
        with refused(ConfigError, key, "true", "False"):
            read(GPT_J, **{key: False})


@pytest.mark.parametrize(
    "keys",
    [GPT_NEO, ROWS["gpt-neo-1b"], ROWS["gpt-neo-27b"]],
    ids=["125M", "1.3B", "2.7B"],
)
def test_gpt_neo(keys):
    config = read(keys)
    assert (len(config.layers), config.embedding.width) == (keys["num_layers"], keys["hidden_size"])
    assert config.layers[0].attention.heads == keys["num_heads"]
    assert windows(config) == [None, 256] * (len(config.layers) // 2)
    attention = config.layers[0].attention
    assert (attention.scale, attention.qkv_bias, attention.out_bias) == (1.0, False, True)
    assert read({k: v for k, v in keys.items() if k != "attention_types"}) == config


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([[["global"], 5]], "12.*layers"),
        ([[["near"], 12]], "global.*local"),
        ([["global", 12]], "list.*groups"),
        ([[["global"], True]], "list.*groups"),
        ([[["global"], 2**62]] * 2, "12.*layers"),
    ],
)
def test_kinds_of_gpt_neos_layers(types, message):
    with pytest.raises(ConfigError, match=message):
        read(GPT_NEO, attention_types=types, attention_layers=None)
    with refused(ConfigError, "attention_layers", "attention_types"):
        read(GPT_NEO, attention_types=[[["global", "local"], 5]])


TINY_STARCODER = {"n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 20}
SANTACODER = {
    "n_embd": 2048, "n_head": 16, "n_inner": 8192, "n_layer": 24, "n_positions": 2048, "vocab_size": 49_280,
    "activation_function": "gelu_pytorch_tanh",
}  # fmt: skip


@pytest.mark.parametrize("more", [{}, TINY_STARCODER, SANTACODER], ids=["StarCoder", "tiny", "SantaCoder"])
def test_gpt_bigcode(more):
    config = read(STARCODER, **more)
    attention = config.layers[0].attention
    assert (attention.kv_heads, attention.heads * attention.head_size) == (1, config.embedding.width)
    assert config.layers[0].mlp.width == 4 * config.embedding.width
    own = read(STARCODER, **more, multi_query=False).layers[0].attention
    assert own.kv_heads == own.heads
    with refused(ConfigError, "num_key_value_heads", "multi_query", 2):
        read(STARCODER, **more, num_key_value_heads=2)


# Hunyuan-MT-7B has the keys of the larger one.
HUNYUAN_4B = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 36,
}  # fmt: skip
HUNYUAN_7B = {
    "hidden_size": 4096, "intermediate_size": 14_336, "num_attention_heads": 32, "num_hidden_layers": 32,
    "tie_word_embeddings": False, "vocab_size": 128_167,
    "rope_scaling": {"type": "dynamic", "alpha": 1000, "factor": 1},
}  # fmt: skip


@pytest.mark.parametrize("more", [{}, HUNYUAN_4B, HUNYUAN_7B], ids=["0.5B", "4B", "7B"])
def test_hunyuan(more):
    config = read(HUNYUAN, **more)
    assert config.context == 262_144
    assert config.layers[-1].attention.qk_norm == HeadNorm(RMSNorm(1e-5), rotated=True)
    assert config.ropes == (Rope(10_000.0 * 1000 ** (128 / 126), 128),)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"use_qk_norm": False}, "use_qk_norm.*true.*False"),
        ({"use_cla": True}, "use_cla.*false.*True"),
        ({"num_experts": 16}, "num_experts.*1.*16"),
        ({"attention_head_dim": 64}, "attention_head_dim.*128.*64"),
        ({"rope_scaling": {"type": "dynamic", "alpha": -1.0}}, "alpha.*0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 9.0}}, "'alpha'"),
        ({"rope_scaling": {"type": "dynamic", "alpha": 9.0, "betas": 1}}, "'betas'"),
        ({"head_dim": 2, "attention_head_dim": 2}, r"alpha.*2.*1000\.0"),
    ],
)
def test_hunyuan_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        read(HUNYUAN, **keys)


# Devstral Small 2, and Devstral 2 of 123 billion, whose queries aren't scaled.
DEVSTRAL = {
    "hidden_size": 5120, "intermediate_size": 32_768, "max_position_embeddings": 393_216,
    "num_hidden_layers": 40, "tie_word_embeddings": False,
    "rope_parameters": {
        **MINISTRAL["rope_parameters"], "factor": 48.0, "original_max_position_embeddings": 8192,
        "rope_theta": 1e8,
    },
}  # fmt: skip
DEVSTRAL_LARGE = {
    "hidden_size": 12_288, "intermediate_size": 28_672, "num_attention_heads": 96, "num_hidden_layers": 88,
    "tie_word_embeddings": False,
    "rope_parameters": {
        **MINISTRAL["rope_parameters"], "beta_fast": 4.0, "factor": 64.0, "llama_4_scaling_beta": 0.0,
        "mscale_all_dim": 0.0, "original_max_position_embeddings": 4096,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "scale", "yarn", "theta"),
    [
        ({}, QueryScale(0.1, 16_384), Yarn(16.0, 16_384, magnitude=1.0), 1e6),
        (DEVSTRAL, QueryScale(0.1, 8192), Yarn(48.0, 8192, magnitude=1.0), 1e8),
        (DEVSTRAL_LARGE, None, Yarn(64.0, 4096, beta_fast=4.0), 1e6),
    ],
    ids=["Ministral 3B", "Devstral Small 2", "Devstral 2"],
)
def test_ministral3(more, scale, yarn, theta):
    attention = read(MINISTRAL, **more).layers[-1].attention
    assert attention.query_scale == scale
    assert attention.position == Rope(theta, 128, scaling=yarn)
    assert attention.window is None
    old = {key: value for key, value in {**MINISTRAL, **more}.items() if key != "rope_parameters"}
    rope = {**MINISTRAL, **more}["rope_parameters"]
    assert read({**old, "rope_scaling": rope}).layers[-1].attention == attention


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"llama_4_scaling_beta": -0.1}, r"llama_4_scaling_beta.*0.*finite.*-0\.1"),
        ({"llama_4_scaling_beta": None}, "llama_4_scaling_beta.*None"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings.*1"),
    ],
)
def test_ministral3_refused(rope, message):
    with pytest.raises(ConfigError, match=message):
        read(MINISTRAL, rope_parameters={**MINISTRAL["rope_parameters"], **rope})


def test_mistral4():
    layer = read(MISTRAL4).layers[-1]
    attention = layer.attention
    magnitude = 1 + 0.1 * math.log(128)
    assert attention.query_scale == QueryScale(0.1, 8192)
    assert attention.position == Rope(1e4, 64, True, Yarn(128.0, 8192, magnitude=1.0))
    assert attention.scale == pytest.approx(128**-0.5 * magnitude**2, rel=1e-15)
    mixture = layer.mlp
    assert (mixture.score, mixture.renormalize, mixture.shared) == ("softmax", True, 2048)
    stated = {
        "architectures",
        "model_type",
        "vocab_size",
        *(k for k in MISTRAL4 if "hidden" in k),
    }
    few = {k: v for k, v in MISTRAL4.items() if k in stated or k in ("num_attention_heads", *COMMON)}
    assert read({**few, "intermediate_size": 12_288}) == read(MISTRAL4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"head_dim": 64}, "head_dim.*128"),
        ({"qk_head_dim": 64}, "qk_head_dim.*128"),
        (
            {"rope_parameters": {**MISTRAL4["rope_parameters"], "partial_rotary_factor": 0.25}},
            "partial_rotary_factor.*qk_rope_head_dim.*128.*64",
        ),
        (
            {"rope_parameters": {**MISTRAL4["rope_parameters"], "llama_4_scaling_beta": None}},
            "llama_4_scaling_beta",
        ),
        ({"scoring_func": "sigmoid"}, "'scoring_func'"),
    ],
)
def test_mistral4_refused(more, message):
    with pytest.raises(ConfigError, match=message):
        read(MISTRAL4, **more)


# With numbers of transformers' class.
LFM3 = {
    "architectures": ["Lfm3ForCausalLM"], "model_type": "lfm3", "vocab_size": 128_000, "hidden_size": 2048,
    "intermediate_size": 7680, "num_attention_heads": 16, "num_hidden_layers": 24,
}  # fmt: skip
LONG = {
    "type": "longrope", "short_factor": [1.0] * 64, "long_factor": [2.0] * 64, "short_mscale": 1.25,
    "long_mscale": 1.5, "original_max_position_embeddings": 4096,
}  # fmt: skip
SIZES_OF_BITNET = {
    "vocab_size": 128_256, "hidden_size": 2560, "intermediate_size": 6912, "num_attention_heads": 20,
    "num_hidden_layers": 30,
}  # fmt: skip


def test_lfm3():
    layers = read(LFM3).layers
    kinds = [getattr(layer.attention, "window", "conv") for layer in layers]
    assert kinds == ["conv", "conv", None, "conv", *(256, "conv", None, "conv") * 5]
    assert {layer.attention.length for layer in layers if isinstance(layer.attention, ShortConv)} == {7}
    assert layers[2].attention.position == Rope(1e6, 128, scaling=ProportionalScaling(32))
    assert layers[4].attention.position == Rope(1e4, 128)
    assert layers[4].attention.head_gate
    assert all(layer.attention.post == layer.mlp.post == layer.mlp.pre for layer in layers)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layer_types": ["conv"]}, "layer_types.*24.*full_attention.*sliding_"),
        ({"sliding_window": None}, "sliding_window.*1.*layer"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_parameters.*full_attention.*missing"),
        ({"hidden_act": "gelu"}, "'hidden_act'"),
    ],
)
def test_lfm3_refused(more, message):
    with pytest.raises(ConfigError, match=message):
        read(LFM3, **more)


def test_bitnet():
    config = read(BITNET)
    assert (config.context, config.head) == (4096, LM(tied=True))
    norm = RMSNorm(1e-5)
    attention = Attention(20, 5, 128, Rope(5e5, 128), pre=norm, out_norm=norm)
    assert set(config.layers) == {Layer(attention, Gated(6912, "relu_squared", pre=norm, down_norm=norm))}
    assert read(
        {"architectures": ["BitNetForCausalLM"], "model_type": "bitnet", **SIZES_OF_BITNET}
    ) == replace(config, context=2048, head=LM(tied=False))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"head_dim": 64}, "head_dim.*hidden_size.*/.*num_attention_heads.*norm.*hidden_size"),
        ({"mlp_bias": False}, "'mlp_bias'"),
    ],
)
def test_bitnet_refused(more, message):
    with pytest.raises(ConfigError, match=message):
        read(BITNET, **more)


def test_phimoe():
    config = read(PHIMOE)
    assert config.context == 4096
    layer = config.layers[-1]
    assert layer.attention.position.scaling == LongRope((1.0,) * 64, (2.0,) * 64, 4096, 1.25)
    assert (layer.mlp.score, layer.mlp.top, layer.mlp.experts) == (SparseMixer(0.01), 2, 16)
    assert layer.mlp.pre == LayerNorm(1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_experts_per_tok": 1}, "num_experts_per_tok.*2"),
        ({"rope_scaling": {**LONG, "short_mscale": None}}, "short_mscale.*None"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0, "short_mscale": 1.0, "long_mscale": 1.0}},
            "rope_type.*'linear'",
        ),
        ({"original_max_position_embeddings": 64}, "outside.*64.*4096"),
        ({"router_jitter_noise": -0.1}, "router_jitter_noise.*0"),
    ],
)
def test_phimoe_refused(more, message):
    with pytest.raises(ConfigError, match=message):
        read(PHIMOE, **more)


LFM2_350M = {
    "_name_or_path": "LiquidAI/LFM2-350M", "block_dim": 1024, "block_ff_dim": 6656, "conv_dim": 1024,
    "conv_dim_out": 1024, "hidden_size": 1024, "intermediate_size": 6656, "num_attention_heads": 16,
    "num_heads": 16,
}  # fmt: skip
LFM2_2B = {
    "_name_or_path": "LiquidAI/LFM2-2.6B", "block_auto_adjust_ff_dim": False, "block_ff_dim": 10752,
    "intermediate_size": 10752, "num_hidden_layers": 30, "theta": 1000000.0, "tie_embedding": True,
    "layer_types": [
        ["conv", "full_attention"][i in (2, 5, 9, 13, 17, 21, 24, 27)] for i in range(30)
    ],
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "width"), [({}, 8192), (LFM2_350M, 4608), (LFM2_2B, 10752)], ids=["1.2B", "350M", "2.6B"]
)
def test_lfm2(more, width):
    keys = {**ROWS["lfm2"], **more}
    config = read(keys)
    mixers = [
        "conv" if isinstance(layer.attention, ShortConv) else "full_attention" for layer in config.layers
    ]
    assert mixers == keys["layer_types"]
    assert {layer.mlp.width for layer in config.layers} == {width}
    attention = config.layers[2].attention
    assert (attention.heads, attention.kv_heads, attention.head_size) == (keys["num_heads"], 8, 64)
    assert (attention.position, config.head) == (Rope(1e6, 64), LM(tied=True))
    with refused(ConfigError, "theta", "1000000.0", "10000.0"):
        read(keys, theta=1e4)


DEEPSEEK_V2 = {
    "hidden_size": 5120, "intermediate_size": 12_288, "moe_intermediate_size": 1536, "n_group": 8,
    "n_routed_experts": 160, "num_attention_heads": 128, "num_hidden_layers": 60, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "routed_scaling_factor": 16.0, "topk_group": 3,
    "topk_method": "group_limited_greedy",
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "groups"),
    [({}, ONE_GROUP), (DEEPSEEK_V2, ExpertGroups(8, 3, "max")), (MOONLIGHT, ONE_GROUP)],
    ids=["V2-Lite", "V2", "Moonlight"],
)
def test_deepseek(more, groups):
    keys = {**DEEPSEEK_LITE, **more}
    config = read(keys)
    assert config.context == keys["max_position_embeddings"]
    dense, sparse = config.layers[0].mlp, config.layers[1].mlp
    assert (type(dense), dense.width) == (Gated, keys["intermediate_size"])
    assert isinstance(sparse, MoE)
    assert (sparse.groups, sparse.shared) == (groups, 2 * keys["moe_intermediate_size"])
    assert sparse.score == keys["scoring_func"]
    a = config.layers[1].attention
    assert isinstance(a, LatentAttention)
    assert (a.rank, a.key_size, a.value_size, a.position.dims) == (512, 128, 128, 64)
    assert (a.query_rank, a.norm_eps) == (keys["q_lora_rank"], 1e-6)
    assert a.position.interleaved
    if more is MOONLIGHT:
        assert (a.position.scaling, a.scale) == (None, None)
    else:
        assert isinstance(a.position.scaling, Yarn)
        assert a.position.scaling.magnitude == 1
        assert a.scale == pytest.approx(192**-0.5 * 1.2608 * 1.2608, rel=1e-4)  # 0.1 · 0.707 · ln 40 + 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"norm_topk_prob": True}, "norm_topk_prob.*false.*null.*True"),
        ({"scoring_func": "sigmoid"}, "scoring_func.*\"softmax\".*'sigmoid'"),
        ({"topk_method": "noaux_tc"}, "topk_method.*group_limited_greedy"),
        ({"num_key_value_heads": 8}, "num_key_value_heads.*num_attention_heads.*16.*head"),
        ({"head_dim": 128}, "head_dim.*qk_rope_head_dim.*64.*128"),
        ({"qk_head_dim": 128}, "qk_head_dim.*192.*128"),
        ({"moe_layer_freq": 2}, "moe_layer_freq.*1.*2"),
        ({"topk_method": "group_limited_greedy", "n_group": 5}, "experts"),
        ({"mlp_bias": True}, "mlp_bias.*false.*True"),
    ],
)
def test_deepseek_refuses(more, message):
    with pytest.raises(ConfigError, match=message):
        read(DEEPSEEK_LITE, **more)


@pytest.mark.parametrize(
    ("more", "heads", "interleaved", "groups"),
    [({}, 64, False, ExpertGroups(8, 4)), (GLM_5, 32, True, ONE_GROUP)],
    ids=["V3.2", "GLM-5"],
)
def test_indexers(more, heads, interleaved, groups):
    keys = {**DEEPSEEK_V32, **more}
    config = read(keys)
    assert {layer.attention.indexer for layer in config.layers} == {Indexer(heads, 128, 2048, interleaved)}
    a = config.layers[-1].attention
    assert (a.rank, a.query_rank, a.heads) == (512, keys["q_lora_rank"], keys["num_attention_heads"])
    assert a.position.interleaved
    assert [isinstance(layer.mlp, MoE) for layer in config.layers] == [False] * 3 + [True] * (
        len(config.layers) - 3
    )
    assert config.layers[3].mlp.groups == groups


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ({"index_topk_freq": 4}, [0, 1, 5, 9]),
        ({"index_topk_freq": 4, "index_skip_topk_offset": 3}, [0, 1, 2, 6]),
        ({"index_topk_freq": 0}, [0, 1, 2, 3]),
        ({"index_topk_pattern": "FSSFFS" * 14, "index_topk_freq": 4}, [0, 3, 4, 6]),
        ({"index_topk_pattern": ["full", "shared"] * 39}, [0, 2, 4, 6]),
        ({"indexer_types": ["full", "full", "shared"] * 26, "index_topk_pattern": "F" * 78}, [0, 1, 3, 4]),
    ],
)
def test_which_layers_share_an_indexer(more, first):
    """As transformers makes the list of types of the same keys."""
    config = read({**DEEPSEEK_V32, **GLM_5}, **more)
    types = ["full" if isinstance(layer.attention.indexer, Indexer) else "shared" for layer in config.layers]
    assert [i for i, kind in enumerate(types) if kind == "full"][:4] == first
    theirs = transformers.GlmMoeDsaConfig(num_hidden_layers=78, **more)
    assert theirs.indexer_types is not None
    assert types == theirs.indexer_types[:78]


@pytest.mark.parametrize(
    ("keys", "more", "message"),
    [
        ({}, {"q_lora_rank": None}, "q_lora_rank"),
        ({}, {"index_head_dim": 32}, "index_head_dim.*qk_rope_head_dim.*64.*32"),
        ({}, {"index_topk": 0}, "index_topk.*1"),
        (
            {},
            {"layer_types": ["full_attention"] * 61},
            "layer_types.*indexed_attention.*61",
        ),
        (
            {},
            {"mlp_layer_types": ["sparse", "dense"] * 30 + ["sparse"]},
            "sparse.*layers",
        ),
        ({}, {"rope_interleave": False}, "rope_interleave.*true.*False"),
        ({}, {"indexer_types": ["full"] * 61}, "'indexer_types'"),
        (GLM_5, {"indexer_types": ["full"] * 77}, "indexer_types.*78"),
        (GLM_5, {"indexer_types": ["shared"] + ["full"] * 77}, "layers.*full"),
        (GLM_5, {"indexer_types": "F" * 78}, "indexer_types"),
        (GLM_5, {"index_topk_pattern": "FX" * 39}, "index_topk_pattern"),
        (
            GLM_5,
            {"index_topk_freq": 4, "index_skip_topk_offset": 0},
            "topk_offset",
        ),
        (GLM_5, {"indexer_rope_interleave": False}, "indexer_rope_interleave.*true.*False"),
    ],
)
def test_indexers_refused(keys, more, message):
    with pytest.raises(ConfigError, match=message):
        read({**DEEPSEEK_V32, **keys}, **more)


def test_qwen3_next():
    """Every fourth layer attends; what the others keep is as large for any text."""
    config = read(QWEN3_NEXT)
    attends = [isinstance(layer.attention, Attention) for layer in config.layers]
    assert attends == [i % 4 == 3 for i in range(48)]
    assert replace(config.layers[0].attention, pre=None) == GatedDelta(32, 16, 128, 128, 4, 1e-6)
    attention = config.layers[3].attention
    assert attention.position == Rope(1e7, 64)
    assert attention.output_gate
    assert isinstance(config.layers[0].mlp, MoE)
    state, keys = (kind.nbytes(262_144, 4) for kind in (cache_kinds(config)[i] for i in (0, 3)))
    assert (state, keys) == (4 * (32 * 128 * 128 + 3 * 8192), 4 * 2 * 2 * 256 * 262_144)
    with refused(ConfigError, "layer_types", 48, "linear_attention"):
        read(QWEN3_NEXT, layer_types=["linear_attention"] * 47)
    with refused(ConfigError, "hidden_act"):
        read(QWEN3_NEXT, hidden_act="gelu")
    with refused(ConfigError, "use_sliding_window", "false", "True"):
        read(QWEN3_NEXT, use_sliding_window=True)


def test_kimi_linear():
    """Every fourth layer, and the last one, attends to latents; what the others keep is as large for any
    text."""
    config = read(KIMI_LINEAR)
    attends = [isinstance(layer.attention, LatentAttention) for layer in config.layers]
    assert attends == [i % 4 == 3 or i == 26 for i in range(27)]
    delta, latent = (replace(config.layers[i].attention, pre=None) for i in (0, 3))
    assert delta == GatedDelta(32, 32, 128, 128, 4, 1e-5, rank=128)
    assert latent == LatentAttention(32, 512, 128, 128, None, shared_size=64)
    assert config.context == 1_048_576
    assert [isinstance(layer.mlp, MoE) for layer in config.layers] == [False] + [True] * 26
    experts = config.layers[1].mlp
    assert (experts.experts, experts.top, experts.scale, experts.shared) == (256, 8, 2.446, 1024)
    state, keys = (kind.nbytes(2**20, 4) for kind in (cache_kinds(config)[i] for i in (0, 3)))
    assert (state, keys) == (4 * (32 * 128 * 128 + 3 * 3 * 4096), 4 * 576 * 2**20)


def test_kimi_linear_by_default():
    """As transformers' class: layers 5, 9, … attend without lists, and inner sizes count."""
    config = read(
        KIMI_LINEAR,
        linear_attn_config={"head_dim": 64},
        linear_head_dim=32,
        linear_num_heads=16,
    )
    attends = [isinstance(layer.attention, LatentAttention) for layer in config.layers]
    assert [i for i in range(27) if attends[i]] == [4, 8, 12, 16, 20, 24]
    assert replace(config.layers[0].attention, pre=None) == GatedDelta(16, 16, 64, 64, 4, 1e-5, rank=64)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mla_use_nope": False}, "mla_use_nope.*true.*False"),
        ({"moe_router_activation_func": "softmax"}, "moe_router_activation_func"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers.*0.*1"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_key_value_heads": 16}, "num_key_value_heads.*num_attention_heads.*32"),
        ({"n_group": 2}, "n_group.*num_expert_group.*1.*2"),
        (
            {"mlp_layer_types": ["dense"] * 26},
            "mlp_layer_types.*27",
        ),
        ({"linear_attn_config": {"gate_lower_bound": -5.0}}, "'gate_lower_bound'"),
        (
            {"linear_attn_config": {"full_attn_layers": [1], "kda_layers": list(range(1, 28))}},
            "full_attn_layers.*kda_layers.*1.*27",
        ),
    ],
)
def test_kimi_linear_refuses(more, message):
    with pytest.raises(ConfigError, match=message):
        read(KIMI_LINEAR, **more)


def test_mamba_codestral():
    """Each layer is a mixer alone; what it keeps is as large for any text."""
    config = read(CODESTRAL)
    assert set(config.layers) == {config.layers[0]}
    assert isinstance(config.layers[0].mlp, NoMlp)
    assert replace(config.layers[0].attention, pre=None) == Mamba2(128, 8, 128, 64)
    assert cache_kinds(config)[0].nbytes(2**20, 4) == 4 * (128 * 128 * 64 + 3 * (8192 + 2 * 8 * 128))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"time_step_limit": [0.0, 0.1]}, r"time_step_limit.*\[0, Infinity\].*steps"),
        ({"expand": 3}, "expand.*num_heads.*head_dim.*hidden_size.*128.*64.*/.*4096.*3"),
        ({"hidden_act": "gelu"}, "hidden_act.*'gelu'"),
        ({"rms_norm": False}, "rms_norm.*true.*False"),
    ],
)
def test_mamba2_refuses(more, message):
    with pytest.raises(ConfigError, match=message):
        read(CODESTRAL, **more)


def test_bamba():
    config = read(BAMBA)
    attends = [i for i, layer in enumerate(config.layers) if isinstance(layer.attention, Attention)]
    assert attends == [9, 18, 27]
    assert config.layers[9].attention.position == Rope(1e4, 64)
    assert replace(config.layers[0].attention, pre=None) == Mamba2(128, 1, 128, 64)
    with refused(ConfigError, "attn_layer_indices"):
        read(BAMBA, attn_layer_indices=["9"])
    with refused(ConfigError, "attn_rotary_emb", 64, 128):
        read(BAMBA, attn_rotary_emb=128)
    with refused(ConfigError, "hidden_act", "'gelu'"):
        read(BAMBA, hidden_act="gelu")


def test_falcon_h1():
    """Both mixers in each layer, the multipliers beside the parts that they multiply."""
    config = read(FALCON_H1)
    assert set(config.layers) == {config.layers[0]}
    layer = config.layers[0]
    factors = (0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.7)
    mixer = Mamba2(24, 1, 128, 64, norm=None, multipliers=factors)
    assert layer.beside == Beside(mixer, 1.25, 0.23570226039551587, None, 0.9375)
    assert layer.attention.scale == 0.390625 / 8
    assert (layer.mlp.gate_scale, layer.mlp.scale) == (0.8838834764831844, 0.5859375)
    assert (config.embedding.scale, config.head.scale) == (5.656854249492381, 0.0390625)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ssm_multipliers": [1.0] * 4}, "ssm_multipliers.*5.*0.*finite"),
        ({"mlp_multipliers": [1.0, -1.0]}, "mlp_multipliers.*2.*0.*finite"),
        ({"key_multiplier": 0.0}, "key_multiplier.*0.*finite"),
        ({"mamba_d_head": 32}, "mamba_d_head.*64.*32"),
        ({"mamba_use_mlp": False}, "mamba_use_mlp.*true.*False"),
        ({"time_step_limit": [0.0, 0.1]}, "steps"),
    ],
)
def test_falcon_h1_refuses(more, message):
    with pytest.raises(ConfigError, match=message):
        read(FALCON_H1, **more)


def test_nemotron_h():
    """An mlp is of the layer whose mixer stands before it."""
    config = read(NEMOTRON_H)
    stated = "".join(
        ("*" if isinstance(layer.attention, Attention) else "M") + "-" * (layer.mlp != NoMlp())
        for layer in config.layers
    )
    assert stated == NEMOTRON_H["hybrid_override_pattern"]
    assert config.layers[0].mlp == Plain(15_680, "relu_squared", bias=False, pre=RMSNorm(1e-5))
    assert replace(config.layers[0].attention, pre=None) == Mamba2(128, 8, 128, 80)


def test_nemotron_h_with_experts():
    """Beside dense mlps, in the same positions; keys of experts count for nothing where there are none."""
    experts = {
        "n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712, "routed_scaling_factor": 2.5, "n_shared_experts": 1,
        "moe_latent_size": 1024, "norm_topk_prob": False,
    }  # fmt: skip
    config = read(NEMOTRON_H, hybrid_override_pattern="ME*-M*E", **experts)
    norm = RMSNorm(1e-5)
    mixture = MoE(
        128, 6, 1856, "relu_squared", "sigmoid", False, 2.5, choice_bias=True, shared=3712, pre=norm,
        gated=False, latent=1024,
    )  # fmt: skip
    dense = Plain(15_680, "relu_squared", bias=False, pre=norm)
    assert [layer.mlp for layer in config.layers] == [mixture, dense, NoMlp(), mixture]
    assert read(NEMOTRON_H, **experts) == read(NEMOTRON_H)
    assert read(NEMOTRON_H, hybrid_override_pattern="ME", mlp_bias=True).layers[0].mlp.shared_bias


@pytest.mark.parametrize(
    "pattern", ["-M", "M--", "E", "M-E", "", "m"], ids=["first", "twice", "alone", "both", "none", "unknown"]
)
def test_nemotron_h_refuses(pattern):
    with refused(ConfigError, "hybrid_override_pattern"):
        read(NEMOTRON_H, hybrid_override_pattern=pattern)


def test_mamba():
    """Channels are as many as a key says, steps of a 16th of the width, and a cache is as large for any
    text."""
    config = read(MAMBA_130M)
    assert replace(config.layers[0].attention, pre=None) == Mamba(1536, 16, 48)
    assert cache_kinds(config)[0].nbytes(2**20, 4) == 4 * 1536 * (16 + 3)
    wider = read(
        MAMBA_130M,
        intermediate_size=1600,
        d_inner=1600,
        time_step_rank="auto",
        hidden_size=769,
        d_model=769,
    )
    assert replace(wider.layers[0].attention, pre=None) == Mamba(1600, 16, 49)
    falcon = {
        "model_type": "falcon_mamba",
        "architectures": ["FalconMambaForCausalLM"],
        "mixer_rms_eps": 1e-4,
    }
    bare = read(MAMBA_130M, **falcon).layers[0].attention
    assert replace(bare, pre=None) == Mamba(1536, 16, 48, norms="bare", eps=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act.*'gelu'"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg.*{}"),
        ({"d_model": 512}, "d_model.*768.*512"),
        ({"rms_norm": False}, "rms_norm.*true.*False"),
        ({"time_step_rank": "full"}, "time_step_rank.*'full'"),
    ],
)
def test_mamba_refuses(more, message):
    with pytest.raises(ConfigError, match=message):
        read(MAMBA_130M, **more)


def test_jamba():
    """One layer of eight attends, one of two has experts."""
    config = read(JAMBA)
    attends = [i for i, layer in enumerate(config.layers) if isinstance(layer.attention, Attention)]
    assert attends == [4, 12, 20, 28]
    assert config.layers[4].attention.position is None
    mixer = Mamba(8192, 16, 256, norms="weighted", pre=RMSNorm(1e-6))
    assert config.layers[0].attention == mixer
    mixes = [i for i, layer in enumerate(config.layers) if isinstance(layer.mlp, MoE)]
    assert mixes == [*range(1, 32, 2)]
    assert config.layers[1].mlp == MoE(16, 2, 14_336, "silu", renormalize=False, pre=RMSNorm(1e-6))
    assert not any(isinstance(layer.mlp, MoE) for layer in read(JAMBA, num_experts=1).layers)
    with refused(ConfigError, "attn_layer_offset", 0, "attn_layer_period", 8):
        read(JAMBA, attn_layer_offset=8)
    with refused(ConfigError, "mamba_inner_layernorms", "true", "False"):
        read(JAMBA, mamba_inner_layernorms=False)
    with refused(ConfigError, "sliding_window", "null", 4096):
        read(JAMBA, sliding_window=4096)


ETTIN_150M = {
    "hidden_size": 768, "intermediate_size": 1152, "num_attention_heads": 12, "num_hidden_layers": 22,
}  # fmt: skip
ETTIN_400M = {
    "hidden_size": 1024, "intermediate_size": 2624, "num_attention_heads": 16, "num_hidden_layers": 28,
}  # fmt: skip


@pytest.mark.parametrize("more", [{}, ETTIN_150M, ETTIN_400M], ids=["17M", "150M", "400M"])
def test_modernberts_decoder(more):
    config = read(ETTIN, **more)
    assert windows(config)[:4] == [None, 64, 64, None]
    norm = LayerNorm(1e-5, bias=False)
    assert config.head == LM(tied=True, bias=True, dense=Dense("gelu", bias=False, norm=norm))
    assert [layer.attention.pre for layer in config.layers[:2]] == [None, norm]
    labelled = read(ETTIN, **more, architectures=["ModernBertDecoderForSequenceClassification"])
    assert labelled.head == Classify(2, "last", config.head.dense, bias=False)
    assert labelled.stack.causal


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"local_attention": 1}, "local_attention.*2.*layer.*1"),
        ({"causal_mask": False}, "causal_mask.*true.*False"),
        ({"sliding_window": 128}, "sliding_window.*64.*128"),
    ],
)
def test_modernberts_decoder_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        read(ETTIN, **keys)


def test_apertus():
    """Apertus-8B; a config without a scaling has the class's, the same one."""
    config, norm = read(APERTUS), RMSNorm(1e-5)
    assert config.layers[0].mlp == Plain(21_504, XIELU(), bias=False, pre=norm)
    assert config.layers[0].attention.qk_norm == HeadNorm(norm)
    assert config.ropes == (Rope(12e6, 128, scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192)),)
    bare = {k: v for k, v in APERTUS.items() if not k.startswith("rope")}
    assert read(bare) == config
    assert read(APERTUS, hidden_act="silu").layers[0].mlp.activation == "silu"
    with refused(ConfigError, "post_norm", "false"):
        read(APERTUS, post_norm=True)


def test_llama4():
    """Scout's layers and Maverick's, which have experts in every second layer and no norm of queries."""
    whole = {
        "model_type": "llama4",
        "architectures": ["Llama4ForConditionalGeneration"],
        "text_config": SCOUT,
    }
    config, norm = read(whole, vision_config={}, image_token_index=200_092), RMSNorm(1e-5)
    assert rotated(config) == [True, True, True, False] * 12
    turned, still = config.layers[2].attention, config.layers[3].attention
    assert turned.mask == Chunked(8192)
    assert turned.position == Rope(5e5, 128, True, Llama3Scaling(16.0, 1.0, 1.0, 8192))
    assert (turned.qk_norm, turned.query_scale) == (HeadNorm(norm, rotated=True, weight=False), None)
    assert (still.mask, still.qk_norm, still.query_scale) == (FullAttention(), None, QueryScale(0.1, 8192, 1))
    mixture = MoE(16, 1, 8192, "silu", "sigmoid", False, shared=8192, weighs="input", pre=norm)
    assert {layer.mlp for layer in config.layers} == {mixture}
    other = read(SCOUT, num_local_experts=128, interleave_moe_layer_step=2, use_qk_norm=False)
    assert other.layers[0].mlp == Gated(16_384, "silu", pre=norm)
    assert other.layers[1].mlp == replace(mixture, experts=128)
    assert other.layers[0].attention.qk_norm is None
    assert read(SCOUT, attn_temperature_tuning=0).layers[3].attention.query_scale is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"no_rope_layers": [1, 2]}, "no_rope_layers.*48.*0.*1"),
        ({"layer_types": ["sliding_attention"] * 48}, "full_attention.*chunked_attention"),
        ({"moe_layers": [-1]}, "moe_layers"),
        (
            {"attention_chunk_size": None, "layer_types": ["chunked_attention"] * 48},
            "attention_chunk_size.*1.*layer",
        ),
    ],
)
def test_llama4_refused(more: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read(SCOUT, rope_scaling=None, **more)


def test_lfm2_moe():
    config = read(ROWS["lfm2-moe"])
    assert [i for i, x in enumerate(config.layers) if isinstance(x.attention, Attention)] == [
        2, 6, 10, 14, 18, 21
    ]  # fmt: skip
    dense, sparse = config.layers[1].mlp, config.layers[2].mlp
    assert (type(dense), dense.width) == (Gated, 7168)
    assert sparse == MoE(
        32, 4, 1792, "silu", "sigmoid", choice_bias=True, pre=RMSNorm(1e-5), sum_eps=1e-6
    )  # fmt: skip
    assert config.layers[2].attention.position == Rope(1e6, 64)
    assert config.head == LM(tied=True)


def test_olmo_hybrid():
    config, norm = read(OLMO_HYBRID), RMSNorm(1e-6)
    state, attends = config.layers[0], config.layers[3]
    assert state.attention == GatedDelta(30, 30, 96, 192, 4, 1e-5, pre=norm, allow_neg_eigval=True)
    assert (state.mlp.pre, state.mlp.post) == (norm, None)
    a = attends.attention
    assert (a.kv_heads, a.head_size, a.position, a.qk_norm) == (30, 128, None, HeadNorm(norm, "all"))
    assert (a.pre, a.post, attends.mlp.pre, attends.mlp.post) == (None, norm, None, norm)
    assert [x.attention == a for x in config.layers] == [False, False, False, True] * 8
    # Without the key transformers turns heads as usual.
    assert read({**OLMO_HYBRID, "rope_parameters": None}).layers[3].attention.position == Rope(1e4, 128)
    assert read({**OLMO_HYBRID, "num_hidden_layers": 2}).layers[1].attention == a
    with refused(ConfigError, "hidden_act"):
        read({**OLMO_HYBRID, "hidden_act": "gelu"})
    with refused(ConfigError, "layer_types", 32, "linear_attention"):
        read({**OLMO_HYBRID, "layer_types": ["conv"] * 32})


def test_gemma4():
    """Heads by the type of a layer, as the checkpoints state them and as transformers writes them."""
    config, norm = read(GEMMA4), RMSNorm(1e-6)
    near, far = config.layers[0].attention, config.layers[5].attention
    assert (near.kv_heads, near.head_size, near.window, near.position) == (16, 256, 1024, Rope(1e4, 256))
    assert (far.kv_heads, far.head_size, far.window) == (4, 512, None)
    assert far.position == Rope(1e6, 512, scaling=ProportionalScaling(64))
    assert (near.keys_as_values, far.keys_as_values) == (False, True)
    assert {(a.scale, a.value_norm) for a in (near, far)} == {(1.0, norm)}
    assert {layer.scalar for layer in config.layers} == {True}
    assert config.head == LM(tied=True, softcap=30.0)
    full = {i: {"head_dim": 512, "num_key_value_heads": 4} for i in ("5", "11")}
    rest = {
        key: value
        for key, value in GEMMA4.items()
        if key not in ("global_head_dim", "num_global_key_value_heads")
    }
    assert read(rest, per_layer_config=full) == config
    assert (
        read(rest, per_layer_config={"05": full["5"], "11": full["11"]}) == config
    )  # as transformers writes it
    # Without the switch the other key of heads means nothing; the last layer sees the whole text in any case.
    assert read(GEMMA4, attention_k_eq_v=False).layers[5].attention.kv_heads == 16
    assert read(GEMMA4, layer_types=["sliding_attention"] * 12).layers[11].attention.window is None
    whole = {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "text_config": GEMMA4,
        "vision_soft_tokens_per_image": 280,
    }
    assert read(whole, vision_config={}, audio_config=None, video_token_id=7) == config


def test_gemma4_with_shared_layers():
    """As in the smaller checkpoints: the upper layers read the keys and values of the last two below them."""
    few = {"attention_k_eq_v": False, "num_global_key_value_heads": None, "use_double_wide_mlp": True}
    few |= {"num_kv_shared_layers": 4, "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 4}
    config = read(GEMMA4, **few, hidden_size_per_layer_input=256)
    sources = [layer.kv_layer for layer in config.layers]
    assert sources == [None] * 8 + [5, 7, 7, 5]
    assert [layer.mlp.width for layer in config.layers] == [21_504] * 8 + [2 * 21_504] * 4
    assert [layer.attention.value_norm for layer in config.layers[7:9]] == [RMSNorm(1e-6), None]
    assert config.embedding.per_layer == PerLayerEmbedding(262_144, RMSNorm(1e-6))
    assert {layer.per_layer for layer in config.layers} == {PerLayerInput(256, "gelu_tanh", RMSNorm(1e-6))}
    experts = {"num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704}
    mixed = read(GEMMA4, **few, enable_moe_block=True, **experts).layers
    assert [layer.mlp.shared for layer in mixed] == [layer.mlp.width for layer in config.layers]
    norm = RMSNorm(1e-6)
    assert mixed[0].mlp == MoE(
        128, 8, 704, "gelu_tanh", shared=21_504, own_norms=norm, expert_scale=True, post=norm
    )
    for more in (few, {"hidden_size_per_layer_input": 256}):
        assert read(GEMMA4, **more, architectures=["Gemma4TextModel"]).stack.stepwise


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"use_bidirectional_attention": "all"}, 'use_bidirectional_attention.*null.*"vision"'),
        (
            {"hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 1000},
            "vocab_size_per_layer_input.*vocab_size.*262144",
        ),
        ({"num_kv_shared_layers": 12}, "num_kv_shared_layers.*0.*11"),
        ({"num_kv_shared_layers": 7}, "full_attention"),
        ({"enable_moe_block": True}, "num_experts"),
        ({"per_layer_config": {"5": {"head_dim": 512}}}, "full_attention"),
        (
            {"per_layer_config": {"0": {"hidden_size": 5}}},
            "per_layer_config.0: key 'hidden_size'",
        ),
        ({"per_layer_config": {"12": {}}}, "per_layer_config.*'12'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "sliding_attention.*missing"),
        (
            {
                "rope_parameters": GEMMA4["rope_parameters"]
                | {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.001}}
            },
            "partial_rotary_factor.*1.*512",
        ),
        (
            {
                "rope_parameters": GEMMA4["rope_parameters"]
                | {"sliding_attention": {"rope_type": "default", "partial_rotary_factor": 0.5}}
            },
            "partial_rotary_factor.*1.*heads",
        ),
    ],
)
def test_gemma4_refused(more: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read(GEMMA4, **more)


def test_gemma3n():
    config = read(GEMMA3N)
    norm = RMSNorm(1e-6)
    near = Attention(
        8, 2, 256, Rope(10_000.0, 256), Window(512), qk_norm=HeadNorm(norm), scale=1.0, value_norm=norm,
        pre=norm, post=norm,
    )  # fmt: skip
    first = Layer(
        near,
        Gated(8192, "gelu_tanh", pre=norm, post=norm, sparsity=0.95),
        per_layer=PerLayerInput(256, "gelu_tanh", norm, scaled=True),
        laurel=Laurel(64, norm),
        altup=AltUp(4, 0, norm),
    )
    assert config.layers[0] == first
    assert config.layers[4].attention == replace(near, mask=FullAttention(), position=Rope(1e6, 256))
    assert [layer.mlp.sparsity for layer in config.layers] == [0.95] * 10 + [None] * 20
    assert [layer.kv_layer for layer in config.layers] == [None] * 20 + [18, 18, 18, 18, 19] * 2
    assert config.embedding == Embedding(262_400, 2048, 2048**0.5, per_layer=PerLayerEmbedding(262_144, norm))
    assert (config.head, config.context) == (LM(True, softcap=30.0), 32_768)
    whole = {
        "model_type": "gemma3n", "architectures": ["Gemma3nForConditionalGeneration"],
        "audio_config": {"hidden_size": 1536}, "audio_soft_tokens_per_image": 188, "audio_token_id": 262_273,
        "boa_token_id": 256_000, "boi_token_id": 255_999, "eoa_token_id": 262_272, "eoi_token_id": 262_144,
        "image_token_id": 262_145, "vision_config": {"architecture": "mobilenetv5_300m_enc"},
        "vision_soft_tokens_per_image": 256, "text_config": GEMMA3N,
    }  # fmt: skip
    assert read(whole) == config


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"altup_num_inputs": 1}, "altup_num_inputs.*2"),
        ({"altup_active_idx": 4}, "altup_active_idx.*0.*3.*altup_num_inputs.*4"),
        (
            {"intermediate_size": [8192] * 29},
            "intermediate_size.*1.*30",
        ),
        (
            {"intermediate_size": [0] * 30},
            "intermediate_size.*1.*30",
        ),
        ({"activation_sparsity_pattern": [1.0] * 30}, "30.*numbers.*0.*1"),
        ({"activation_sparsity_pattern": [0.5]}, "30.*numbers.*0.*1"),
        ({"num_kv_shared_layers": 30}, "num_kv_shared_layers.*0.*29"),
        ({"final_logit_softcapping": None}, "final_logit_softcapping"),
        ({"hidden_size_per_layer_input": 0}, "hidden_size_per_layer_input.*1"),
    ],
)
def test_gemma3n_refused(more: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read(GEMMA3N, **more)
