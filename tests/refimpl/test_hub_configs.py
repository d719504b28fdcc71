"""config.json as known checkpoints on the hub have it, older keys and all: read, or refused by name."""

import json

import pytest
from tfm.refimpl.config import LM, Alibi, Full, Inner, Learned, Rope
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.families import read_config

GPT2 = """{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 1024, "n_head": 16,
    "n_inner": null, "n_layer": 24, "n_positions": 1024, "n_special": 0, "predict_special_tokens": true,
    "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
    "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}},
    "use_cache": true, "vocab_size": 50257}"""
NEOX = """{"architectures": ["GPTNeoXForCausalLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 0,
    "eos_token_id": 0, "hidden_act": "gelu_fast", "hidden_dropout_prob": 0, "hidden_size": 6144,
    "initializer_range": 0.02, "intermediate_size": 24576, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 64,
    "num_hidden_layers": 44, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
    "torch_dtype": "float16", "transformers_version": "4.19.0.dev0", "use_cache": true,
    "vocab_size": 50432}"""
OPT = """{"_name_or_path": "opt-350m", "_remove_final_layer_norm": false, "activation_dropout": 0.0,
    "activation_function": "relu", "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0,
    "bos_token_id": 2, "do_layer_norm_before": false, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 4096,
    "hidden_size": 1024, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
    "model_type": "opt", "num_attention_heads": 16, "num_hidden_layers": 24, "pad_token_id": 1,
    "prefix": "</s>", "torch_dtype": "float16", "transformers_version": "4.20.0.dev0", "use_cache": true,
    "vocab_size": 50272, "word_embed_proj_dim": 512}"""
BLOOM = """{"apply_residual_connection_post_layernorm": false, "architectures": ["BloomForCausalLM"],
    "attention_dropout": 0.0, "attention_softmax_in_fp32": true, "bias_dropout_fusion": true,
    "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": true, "model_type": "bloom", "n_embed": 14336,
    "n_inner": null, "n_layer": 70, "num_attention_heads": 112, "offset_alibi": 100, "pad_token_id": 3,
    "pretraining_tp": 4, "seq_length": 2048, "skip_bias_add": true, "skip_bias_add_qkv": false,
    "slow_but_exact": false, "unk_token_id": 0, "use_cache": true, "vocab_size": 250880}"""
MPT = """{"architectures": ["MPTForCausalLM"], "attn_config": {"alibi": true, "alibi_bias_max": 16,
    "attn_impl": "torch", "attn_pdrop": 0, "attn_type": "multihead_attention",
    "attn_uses_sequence_id": false, "clip_qkv": 6, "prefix_lm": false, "qk_ln": false,
    "softmax_scale": null}, "auto_map": {"AutoConfig": "configuration_mpt.MPTConfig"}, "d_model": 4096,
    "emb_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4, "init_config": {"verbose": 0},
    "init_device": "cpu", "learned_pos_emb": true, "logit_scale": null, "max_seq_len": 65536,
    "model_type": "mpt", "n_heads": 32, "n_layers": 32, "no_bias": true,
    "norm_type": "low_precision_layernorm", "resid_pdrop": 0, "tokenizer_name": "EleutherAI/gpt-neox-20b",
    "torch_dtype": "bfloat16", "use_cache": false, "verbose": 0, "vocab_size": 50432}"""
FALCON = """{"alibi": false, "apply_residual_connection_post_layernorm": false,
    "architectures": ["FalconForCausalLM"], "attention_dropout": 0.0, "bias": false, "bos_token_id": 11,
    "eos_token_id": 11, "hidden_dropout": 0.0, "hidden_size": 4544, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "falcon", "multi_query": true,
    "new_decoder_architecture": false, "num_attention_heads": 71, "num_hidden_layers": 32,
    "parallel_attn": true, "torch_dtype": "bfloat16", "transformers_version": "4.27.4", "use_cache": true,
    "vocab_size": 65024}"""
FALCON_40B = {"hidden_size": 8192, "new_decoder_architecture": True, "num_attention_heads": 128}
FALCON_40B |= {"num_kv_heads": 8, "num_hidden_layers": 60}
RW = {"alibi": True, "bias": True, "hidden_size": 2048, "multi_query": False, "num_attention_heads": 32}
RW |= {"num_hidden_layers": 24, "parallel_attn": False, "vocab_size": 50304}


def test_gpt2_medium():
    config = read_config(json.loads(GPT2))[0]
    a = config.layers[0].attention
    assert (len(config.layers), a.heads, a.head_size, a.scale, a.position) == (24, 16, 64, None, None)
    assert config.decoder is not None
    assert config.decoder.positions == Learned(1024)
    assert (config.layers[0].mlp.width, config.head) == (4096, LM(True))
    inverse = read_config(json.loads(GPT2) | {"scale_attn_by_inverse_layer_idx": True})[0]
    assert [layer.attention.scale for layer in inverse.layers[:3]] == [1 / 8, 1 / 16, 1 / 24]


def test_gpt_neox_20b():
    config = read_config(json.loads(NEOX))[0]
    layer = config.layers[0]
    assert (layer.parallel, layer.attention.position, config.head) == (True, Rope(1e4, 24), LM(False))
    assert (layer.mlp.activation, layer.mlp.pre is not None) == ("gelu_tanh", True)


def test_opt_350m():
    config = read_config(json.loads(OPT))[0]
    a, decoder = config.layers[0].attention, config.decoder
    assert (config.embedding.inner, a.pre, a.after is None, config.head) == (
        Inner(512),
        None,
        False,
        LM(True),
    )
    assert decoder is not None
    assert (decoder.positions, decoder.final_norm) == (Learned(2048, offset=2), None)


def test_bloom():
    config = read_config(json.loads(BLOOM))[0]
    a = config.layers[0].attention
    assert (a.heads, a.head_size, a.position, a.pattern) == (112, 128, Alibi(), Full())
    assert (len(config.layers), config.layers[0].mlp.width, config.context) == (70, 57344, 2048)


def test_mpt_storywriter():
    config = read_config(json.loads(MPT))[0]
    a = config.layers[0].attention
    assert (a.position, a.clip, a.qkv_bias, config.context) == (Alibi(16.0), 6.0, False, 65536)


def test_falcons():
    seven = read_config(json.loads(FALCON))[0].layers[0]
    assert (seven.attention.groups, seven.parallel, seven.mlp.pre) == (1, True, None)
    forty = read_config(json.loads(FALCON) | FALCON_40B)[0].layers[0]
    assert (forty.attention.groups, forty.parallel, forty.mlp.pre) == (8, True, forty.attention.pre)
    one = read_config(json.loads(FALCON) | FALCON_40B | {"num_ln_in_parallel_attn": 1, "ff_factor": 4})[0]
    assert (one.layers[0].parallel, one.layers[0].mlp.pre) == (True, None)
    rw = read_config(json.loads(FALCON) | RW)[0].layers[0]
    assert (rw.attention.groups, rw.parallel, rw.mlp.pre) == (32, False, rw.attention.pre)
    assert (rw.attention.position, rw.mlp.bias) == (Alibi(scale=1 / 8), True)


@pytest.mark.parametrize(
    ("known", "keys", "message"),
    [
        (GPT2, {"add_cross_attention": True}, "add_cross_attention must be one of"),
        (GPT2, {"n_head": 15}, "n_embd must be a multiple of n_head, 15"),
        (GPT2, {"hidden_size": 1000}, "hidden_size must be the same as n_embd, 1024, got 1000"),
        (GPT2, {"activation_function": "prelu"}, "activation_function must be one of"),
        (NEOX, {"rotary_pct": 0.0}, "rotary_pct must be above 0"),
        (OPT, {"scale_embeddings": True}, "scale_embeddings must be false"),
        (OPT, {"learned_embeddings": False}, "learned_embeddings must be true"),
        (BLOOM, {"n_inner": 4096}, "n_inner must be null or four times the width, 57344"),
        (BLOOM, {"slow_but_exact": True}, "slow_but_exact must be false where pretraining_tp"),
        (MPT, {"logit_scale": "inv_sqrt_d_model"}, "logit_scale must be null"),
        (MPT, {"no_bias": False}, "no_bias must be true"),
        (MPT, {"expansion_ratio": 8}, "expansion_ratio must be 4"),
        (MPT, {"norm_type": "rmsnorm"}, "norm_type must be one of low_precision_layernorm"),
        (MPT, {"attn_config": {"alibi": False}}, "attn_config: alibi must be true"),
        (MPT, {"attn_config": {"qk_ln": True}}, "attn_config: qk_ln must be false"),
        (
            MPT,
            {"attn_config": {"attn_type": "multiquery_attention"}},
            "attn_type must be one of",
        ),
        (MPT, {"attn_config": {"kv_n_heads": 2}}, "attn_config: key 'kv_n_heads' isn't known"),
        (MPT, {"attn_config": {"clip_qkv": -1}}, "clip of queries, keys and values must be positive"),
        (FALCON, {"apply_residual_connection_post_layernorm": True}, "post_layernorm must be false"),
        (FALCON, {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn must be 1 in the older"),
        (FALCON, {**FALCON_40B, "num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn must be 1 or 2"),
        (FALCON, {**FALCON_40B, "parallel_attn": False}, "parallel_attn must be true in the newer"),
        (FALCON, {**RW, "num_kv_heads": 8}, "num_kv_heads must be that of all heads, 32"),
        (FALCON, {"ff_factor": 3}, "ff_factor must be ffn_hidden_size over hidden_size, 4.0"),
    ],
)
def test_refused(known, keys, message):
    with pytest.raises(ConfigError, match=message):
        read_config(json.loads(known) | keys)
