"""What config.json says of real checkpoints, in the spelling of its day."""

from typing import Any

import pytest
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import LM, FullAttention, LinearScaling, MoE, Rope, Window
from tfm.refimpl.errors import ConfigError

ROPE = {"rope_theta": 1e4, "rope_scaling": None}
COMMON = {"torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": True, "vocab_size": 1000}
GEMMA = {
    **COMMON, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 1,
    "num_hidden_layers": 7, "rms_norm_eps": 1e-6, "head_dim": 32, "attention_bias": False,
}  # fmt: skip
GEMMA_2B = {**GEMMA, "model_type": "gemma", "hidden_act": "gelu", "hidden_activation": None, **ROPE}
GEMMA_2 = {
    **GEMMA, "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid",
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 144, "sliding_window": 4096,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rope_theta": 10000.0,
}  # fmt: skip
GEMMA_3 = {
    **GEMMA, "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 512,
    "attn_logit_softcapping": None, "final_logit_softcapping": None, "cache_implementation": "hybrid",
    "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000, "rope_theta": 1000000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window_pattern": 6,
}  # fmt: skip
MIXTRAL = {
    **COMMON, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_act": "silu",
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_experts_per_tok": 2, "num_key_value_heads": 1, "num_local_experts": 8, "output_router_logits": False,
    "rms_norm_eps": 1e-5, "rope_theta": 1e6, "router_aux_loss_coef": 0.02, "sliding_window": None,
    "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_MOE = {
    **COMMON, "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 16,
    "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96, "max_window_layers": 48,
    "mlp_only_layers": [], "moe_intermediate_size": 24, "norm_topk_prob": True, "num_attention_heads": 4,
    "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 2, "num_key_value_heads": 1,
    "router_aux_loss_coef": 0.001, "sliding_window": None, "use_sliding_window": False, **ROPE,
}  # fmt: skip
COMMAND_R = {
    **COMMON, "model_type": "cohere", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96,
    "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "max_position_embeddings": 8192,
    "model_max_length": 131072, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 4,
    "pretraining_tp": 1, "rope_theta": 8e6, "use_qk_norm": False,
}  # fmt: skip


FALCON = {
    **COMMON, "model_type": "falcon", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
    "new_decoder_architecture": True, "num_kv_heads": 2, "parallel_attn": True,
}  # fmt: skip


def read(keys: dict[str, Any], **more: Any) -> Any:
    return read_config({**keys, **more})[0]


def test_gemma_says_gelu_and_means_its_approximation():
    assert read(GEMMA_2B).layers[0].mlp.activation == "gelu_tanh"
    assert read(GEMMA_2B, hidden_activation="gelu_pytorch_tanh") == read(GEMMA_2B)
    with refused(ConfigError, "hidden_activation", "hidden_act", "gelu_tanh"):
        read(GEMMA_2B, hidden_activation="relu")


def test_gemma_2():
    config = read(GEMMA_2)
    assert [layer.attention.mask for layer in config.layers[:3]] == [
        Window(4096),
        FullAttention(),
        Window(4096),
    ]
    assert {(layer.attention.scale, layer.attention.softcap) for layer in config.layers} == {(1 / 12, 50.0)}
    assert config.head == LM(tied=True, softcap=30.0)
    assert config.embedding.scale == 8
    with refused(ConfigError, "hidden_act", "hidden_activation", "gelu_tanh"):
        read(GEMMA_2, hidden_act="relu")


def test_gemma_3_has_two_thetas_and_scales_one():
    near, far = Rope(1e4, 32), Rope(1e6, 32, scaling=LinearScaling(8.0))
    layers = read(GEMMA_3).layers
    assert [layer.attention.position for layer in layers] == [near] * 5 + [far, near]
    assert [layer.attention.mask for layer in layers] == [Window(512)] * 5 + [FullAttention(), Window(512)]
    newer = {k: v for k, v in GEMMA_3.items() if k != "sliding_window_pattern"}
    types = ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    assert read(newer, layer_types=types, _sliding_window_pattern=6) == read(GEMMA_3)


@pytest.mark.parametrize("keys", [GEMMA_2B, GEMMA_2, GEMMA_3])
def test_a_gemma_that_sees_later_tokens_is_another_model(keys):
    assert read(keys, use_bidirectional_attention=None) == read(keys)
    with refused(ConfigError, "use_bidirectional_attention", "false"):
        read(keys, use_bidirectional_attention=True)


def test_mixtures():
    assert read(MIXTRAL).layers[1].mlp == MoE(8, 2, 96, "silu", pre=read(MIXTRAL).layers[1].mlp.pre)
    mlp = read(QWEN3_MOE).layers[0].mlp
    assert (mlp.experts, mlp.top, mlp.width, mlp.renormalize, mlp.shared) == (128, 8, 24, True, None)
    assert read(QWEN3_MOE, num_local_experts=128) == read(QWEN3_MOE)
    with refused(ConfigError, "num_local_experts", "num_experts", 128, 64):
        read(QWEN3_MOE, num_local_experts=64)
    with refused(ConfigError, "mlp_only_layers", 0):
        read(QWEN3_MOE, mlp_only_layers=[-1])


def test_command_r():
    config = read(COMMAND_R)
    assert config.context == 8192
    assert config.layers[0].attention.position == Rope(8e6, 16, interleaved=True)
    assert config.head == LM(tied=True, scale=0.0625)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"parallel_attn": False}, "parallel_attn.*true.*False"),
        ({"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn.*1.*2.*3"),
        (
            {"new_decoder_architecture": False, "num_ln_in_parallel_attn": 2},
            "num_ln_in_parallel_attn.*1.*2",
        ),
    ],
)
def test_the_layers_of_falcons_architectures(keys, message):
    assert read(FALCON).layers[0].parallel
    with pytest.raises(ConfigError, match=message):
        read(FALCON, **keys)
