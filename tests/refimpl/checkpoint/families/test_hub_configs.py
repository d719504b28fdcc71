"""What config.json says on the hub: spellings that mean what transformers makes of them, and what is refused.

Configs are rows of the two files in `config_readers`; a table here states what is changed in one. A key with
dots is one inside, `...` takes a key away. Changes are from memory, unless a row of the hub says the same.
"""

from __future__ import annotations

from typing import Any

import pytest
from helpers.configs import ROWS, changed, rewritten
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import DynamicNTK, LinearScaling, Rope
from tfm.refimpl.errors import ConfigError

JINA = {
    "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "rope_parameters": ...,
    "lora_adaptations": ["retrieval.query", "retrieval.passage"],
    "auto_map": {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"},
}  # fmt: skip
ANSWERS = {"architectures": ["LongformerForQuestionAnswering"]}
UNTYPED = {"model_type": ..., "scalable_attention": ...}
FALCON = "BramVanroy/falcon-40b-ft-alpaca-dolly-dutch"
STATES = {"mamba_d_state": 128}
UNLISTED = {"attention_layers": None}
XLNET = {"architectures": ["XLNetForSequenceClassification"]}
LABELS = {"id2label": {str(i): f"L{i}" for i in range(5)}}
HYBRID = (["mamba"] * 9 + ["attention"]) * 4
QSA = "qwen_sparse_attention"
READ: list[tuple[str, dict[str, Any]]] = [
    ("apertus", {"hidden_act": "silu"}),
    ("apertus", {"rope_theta": ..., "rope_scaling": ...}),
    ("big-bird", {"architectures": ["BigBirdForQuestionAnswering"]}),
    ("deberta-v3", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ("deepseek-lite", {"n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy"}),
    ("deepseek-v32", {"layer_types": ["deepseek_sparse_attention", "indexed_attention"] * 30 + [QSA]}),
    ("ettin", {"architectures": ["ModernBertDecoderForSequenceClassification"]}),
    ("exaone-32b", {"sliding_window_pattern": 4, "layer_types": ...}),
    (
        "gemma4",
        {
            "attention_k_eq_v": False,
            "num_kv_shared_layers": 4,
            "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 4,
            "enable_moe_block": True,
            "num_experts": 128,
            "top_k_experts": 8,
            "moe_intermediate_size": 704,
        },
    ),
    ("gpt-neo-1b", {"attention_types": ...}),
    ("granite-4-micro", {**STATES, "layer_types": None}),
    ("kimi-linear", {"linear_attn_config": {"head_dim": 64}, "linear_head_dim": 32, "linear_num_heads": 16}),
    ("led", {"architectures": ["LEDForQuestionAnswering"]}),
    ("lfm2", {"block_auto_adjust_ff_dim": False, "block_ff_dim": 10752, "intermediate_size": 10752}),
    ("longformer", {"architectures": ["LongformerForQuestionAnswering"]}),
    ("longt5", {"architectures": ["LongT5EncoderModel"]}),
    (
        "mamba-130m",
        {"architectures": ["FalconMambaForCausalLM"], "model_type": "falcon_mamba", "mixer_rms_eps": 0.0001},
    ),
    (
        "mamba-130m",
        {
            "d_inner": 1600,
            "d_model": 769,
            "hidden_size": 769,
            "intermediate_size": 1600,
            "time_step_rank": "auto",
        },
    ),
    ("mistral_large4", {"text_config.head_dim": 128}),
    ("mistral_large4", {"text_config.n_routed_experts": ..., "text_config.num_experts": 16}),
    ("mistral_large4", {"text_config.rope_interleave": True, "text_config.indexer_rope_interleave": True}),
    ("mistral_large4", {"text_config.index_topk_freq": 4, "text_config.index_skip_topk_offset": 3}),
    ("mistral_large4", {"text_config.layer_types": ["deepseek_sparse_attention"] * 72}),
    ("mistral_large4", {"text_config.mlp_layer_types": ["sparse", "dense"] * 36}),
    ("mistral_large4", {"text_config.no_rope_layers": None, "text_config.no_rope_layer_interval": 3}),
    ("mistral_large4", {"text_config.rope_parameters": None, "text_config.kv_source_layers": None}),
    ("mistral_large4", {"text_config.rope_parameters": None, "text_config.rope_scaling": {}}),
    ("mistral_large4", {"text_config.rope_parameters": {}}),
    ("mistral_large4", {"text_config.rope_parameters": {}, "text_config.rope_scaling": {}}),
    ("nemotron-h", {"hybrid_override_pattern": "ME", "mlp_bias": True}),
    ("new", {"architectures": ["GteModel"], "model_type": "gte", "rope_scaling": None, "rope_theta": 160000}),
    ("olmo-hybrid", {"rope_parameters": None}),
    ("qwen3-next", {"layer_types": ["mamba", "linear_attention", "attention", "full_attention"] * 12}),
    ("scout", {"attn_temperature_tuning": 0}),
    ("xlnet", {**XLNET, "summary_type": "cls_index", **LABELS}),
    ("zai-org/GLM-5", {"index_topk_freq": 0}),
    ("zai-org/GLM-5", {"index_topk_freq": 4, "index_skip_topk_offset": 3}),
    ("zai-org/GLM-5", {"index_topk_freq": 4}),
    ("zai-org/GLM-5", {"index_topk_pattern": "FSSFFS" * 13, "index_topk_freq": 4}),
    ("zai-org/GLM-5", {"index_topk_pattern": ["full", "shared"] * 39}),
    ("zai-org/GLM-5", {"indexer_types": ["full", "full", "shared"] * 26, "index_topk_pattern": "F" * 78}),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("apertus", {"post_norm": True}, "post_norm false"),
    ("bamba", {"attn_layer_indices": ["9"]}, "attn_layer_indices"),
    ("bamba", {"attn_rotary_emb": 128}, "attn_rotary_emb 64 128"),
    ("bamba", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ("big-bird", {"num_random_blocks": -1}, "num_random_blocks 0 16777215 -1"),
    ("bitnet", {"head_dim": 64}, "head_dim hidden_size / num_attention_heads norm hidden_size"),
    ("bitnet", {"mlp_bias": False}, "'mlp_bias'"),
    (
        FALCON,
        {"new_decoder_architecture": False, "num_ln_in_parallel_attn": 2},
        "num_ln_in_parallel_attn 1 2",
    ),
    (FALCON, {"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn 1 2 3"),
    (FALCON, {"parallel_attn": False}, "parallel_attn true False"),
    ("codestral", {"expand": 3}, "expand num_heads head_dim hidden_size 128 64 / 4096 3"),
    ("codestral", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ("codestral", {"rms_norm": False}, "rms_norm true False"),
    ("codestral", {"time_step_limit": [0.0, 0.1]}, "time_step_limit [0, Infinity] steps"),
    ("command-r7b", {"layer_switch": 3}, "layer_switch 3"),
    (
        "command-r7b",
        {"order_of_interleaved_layers": "global_attn_first"},
        "order_of_interleaved_layers 'global_attn_first'",
    ),
    ("command-r7b", {"position_embedding_type": "alibi"}, "position_embedding_type 'alibi'"),
    ("command-r7b", {"rotary_pct": 0.5}, "rotary_pct 0.5"),
    ("command-r7b", {"use_embedding_sharing": False}, "use_embedding_sharing False"),
    ("command-r7b", {"use_gated_activation": False}, "use_gated_activation False"),
    ("command-r7b", {"use_parallel_block": False}, "use_parallel_block False"),
    ("command-r7b", {"use_qk_norm": True}, "use_qk_norm True"),
    ("deberta", {"embedding_size": 128}, "embedding_size hidden_size 768"),
    ("deberta", {"pooler_hidden_size": 64}, "pooler_hidden_size hidden_size 768"),
    ("deberta", {"pos_att_type": ["c2p", "p2p"]}, "pos_att_type c2p p2c"),
    ("deberta", {"pos_att_type": [["c2p"]]}, "pos_att_type c2p p2c"),
    ("deberta", {"talking_head": True}, "talking_head false True"),
    ("deberta", {"z_steps": 2}, "z_steps 0 2"),
    ("deberta-v3", {"attention_head_size": 32}, "attention_head_size hidden_size 64"),
    ("deberta-v3", {"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups 1 2"),
    ("deberta-v3", {"conv_kernel_size": 4}, "conv_kernel_size"),
    ("deberta-v3", {"norm_rel_ebd": "rms"}, "norm_rel_ebd layer_norm 'rms'"),
    ("deberta-v3", {"position_buckets": 5}, "table even 5"),
    ("deepseek-lite", {"head_dim": 128}, "head_dim qk_rope_head_dim 64 128"),
    ("deepseek-lite", {"mlp_bias": True}, "mlp_bias false True"),
    ("deepseek-lite", {"moe_layer_freq": 2}, "moe_layer_freq 1 2"),
    ("deepseek-lite", {"n_group": 5, "topk_method": "group_limited_greedy"}, "experts"),
    ("deepseek-lite", {"norm_topk_prob": True}, "norm_topk_prob false null True"),
    ("deepseek-lite", {"num_key_value_heads": 8}, "num_key_value_heads num_attention_heads 16 head"),
    ("deepseek-lite", {"qk_head_dim": 128}, "qk_head_dim 192 128"),
    ("deepseek-lite", {"scoring_func": "sigmoid"}, "scoring_func \"softmax\" 'sigmoid'"),
    ("deepseek-lite", {"topk_method": "noaux_tc"}, "topk_method group_limited_greedy"),
    ("deepseek-v32", {"index_head_dim": 32}, "index_head_dim qk_rope_head_dim 64 32"),
    ("deepseek-v32", {"index_topk": 0}, "index_topk 1"),
    ("deepseek-v32", {"indexer_types": ["full"] * 61}, "'indexer_types'"),
    ("deepseek-v32", {"layer_types": ["full_attention"] * 61}, "layer_types 61 indexed_attention"),
    ("deepseek-v32", {"mlp_layer_types": ["sparse", "dense"] * 30 + ["sparse"]}, "sparse layers"),
    ("deepseek-v32", {"q_lora_rank": None}, "q_lora_rank"),
    ("deepseek-v32", {"rope_interleave": False}, "rope_interleave true False"),
    ("EleutherAI/gpt-j-6b", {"rotary": False}, "rotary true False"),
    ("EleutherAI/gpt-j-6b", {"scale_attn_weights": False}, "scale_attn_weights true False"),
    ("EleutherAI/gpt-neo-125m", {**UNLISTED, "attention_types": [["global", 12]]}, "list groups"),
    (
        "EleutherAI/gpt-neo-125m",
        {**UNLISTED, "attention_types": [[["global"], 2**62], [["global"], 2**62]]},
        "12 layers",
    ),
    ("EleutherAI/gpt-neo-125m", {**UNLISTED, "attention_types": [[["global"], 5]]}, "12 layers"),
    ("EleutherAI/gpt-neo-125m", {**UNLISTED, "attention_types": [[["global"], True]]}, "list groups"),
    ("EleutherAI/gpt-neo-125m", {**UNLISTED, "attention_types": [[["near"], 12]]}, "global local"),
    (
        "EleutherAI/gpt-neo-125m",
        {"attention_types": [[["global", "local"], 5]]},
        "attention_layers attention_types",
    ),
    ("ettin", {"causal_mask": False}, "causal_mask true False"),
    ("ettin", {"local_attention": 1}, "local_attention 2 layer 1"),
    ("ettin", {"sliding_window": 128}, "sliding_window 64 128"),
    ("exaone-32b", {"layer_types": ...}, "sliding_window_pattern 'LLLG'"),
    ("facebook/blenderbot-400M-distill", {"extra_pos_embeddings": 2}, "extra_pos_embeddings 0"),
    ("facebook/blenderbot-400M-distill", {"layernorm_variant": "xlm"}, 'layernorm_variant "prelayernorm"'),
    ("facebook/blenderbot-90M", {"layernorm_variant": "aiayn"}, 'layernorm_variant "xlm"'),
    ("facebook/blenderbot-90M", {"normalize_before": True}, "normalize_before false"),
    ("facebook/m2m100_418M", {"d_model": 2}, "d_model 4"),
    ("facebook/m2m100_418M", {"pad_token_id": -1}, "pad_token_id"),
    ("falcon-h1", {"key_multiplier": 0.0}, "key_multiplier 0 finite"),
    ("falcon-h1", {"mamba_d_head": 32}, "mamba_d_head 64 32"),
    ("falcon-h1", {"mamba_use_mlp": False}, "mamba_use_mlp true False"),
    ("falcon-h1", {"mlp_multipliers": [1.0, -1.0]}, "mlp_multipliers 2 0 finite"),
    ("falcon-h1", {"ssm_multipliers": [1.0, 1.0, 1.0, 1.0]}, "ssm_multipliers 5 0 finite"),
    ("falcon-h1", {"time_step_limit": [0.0, 0.1]}, "steps"),
    ("gemma", {"architectures": ["Gemma3ForCausalLM"]}, "use_bidirectional_attention false"),
    ("gemma3n", {"activation_sparsity_pattern": [0.5]}, "30 numbers 0 1"),
    ("gemma3n", {"activation_sparsity_pattern": [1.0] * 30}, "30 numbers 0 1"),
    ("gemma3n", {"altup_active_idx": 4}, "altup_active_idx 0 3 altup_num_inputs 4"),
    ("gemma3n", {"altup_num_inputs": 1}, "altup_num_inputs 2"),
    ("gemma3n", {"final_logit_softcapping": None}, "final_logit_softcapping"),
    ("gemma3n", {"hidden_size_per_layer_input": 0}, "hidden_size_per_layer_input 1"),
    ("gemma3n", {"intermediate_size": [0] * 30}, "intermediate_size 1 30"),
    ("gemma3n", {"intermediate_size": [8192] * 29}, "intermediate_size 1 30"),
    ("gemma3n", {"num_kv_shared_layers": 30}, "num_kv_shared_layers 0 29"),
    ("gemma4", {"enable_moe_block": True}, "num_experts"),
    (
        "gemma4",
        {"hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 1000},
        "vocab_size_per_layer_input vocab_size 262144",
    ),
    ("gemma4", {"num_kv_shared_layers": 12}, "num_kv_shared_layers 0 11"),
    ("gemma4", {"num_kv_shared_layers": 7}, "full_attention"),
    ("gemma4", {"per_layer_config": {"0": {"hidden_size": 5}}}, "per_layer_config.0: key 'hidden_size'"),
    ("gemma4", {"per_layer_config": {"12": {}}}, "per_layer_config '12'"),
    ("gemma4", {"per_layer_config": {"5": {"head_dim": 512}}}, "full_attention"),
    (
        "gemma4",
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        "sliding_attention missing",
    ),
    (
        "gemma4",
        {"rope_parameters.full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.001}},
        "partial_rotary_factor 1 512",
    ),
    (
        "gemma4",
        {"rope_parameters.sliding_attention": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor 1 heads",
    ),
    ("gemma4", {"use_bidirectional_attention": "all"}, 'use_bidirectional_attention null "vision"'),
    ("google/gemma-3-1b-it", {"use_bidirectional_attention": True}, "use_bidirectional_attention false"),
    ("granite-4-micro", {"layer_types": ["attention"] * 39}, "layer_types 40"),
    ("granite-4-micro", {"layer_types": ["recurrent"] * 40}, "full_attention"),
    ("granite-4-micro", {"mamba_d_head": 32, "layer_types": HYBRID}, "mamba_d_head 64"),
    (
        "granite-4-micro",
        {**STATES, "architectures": ["GraniteMoeHybridModel"], "layer_types": HYBRID, "is_causal": False},
        "is_causal true",
    ),
    ("granite-4-micro", {"mamba_n_heads": 81, "layer_types": HYBRID}, "mamba_n_heads 5120"),
    ("granite-4-micro", {"normalization_function": "layernorm"}, 'normalization_function "rmsnorm"'),
    ("granite-4-micro", {"num_local_experts": -1}, "num_local_experts 1"),
    ("granite-4-micro", {"position_embedding_type": "alibi"}, "position_embedding_type"),
    ("hfhugs/gemma-2-9b-it", {"hidden_act": "relu"}, "hidden_act hidden_activation gelu_tanh"),
    ("hfhugs/gemma-2-9b-it", {"use_bidirectional_attention": True}, "use_bidirectional_attention false"),
    ("hunyuan", {"attention_head_dim": 2, "head_dim": 2}, "alpha 2 1000.0"),
    ("hunyuan", {"attention_head_dim": 64}, "attention_head_dim 128 64"),
    ("hunyuan", {"num_experts": 16}, "num_experts 1 16"),
    ("hunyuan", {"rope_scaling": {"type": "dynamic", "alpha": -1.0}}, "alpha 0"),
    ("hunyuan", {"rope_scaling": {"type": "dynamic", "alpha": 9.0, "betas": 1}}, "'betas'"),
    ("hunyuan", {"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 9.0}}, "'alpha'"),
    ("hunyuan", {"use_cla": True}, "use_cla false True"),
    ("hunyuan", {"use_qk_norm": False}, "use_qk_norm true False"),
    ("internlm2-1b", {"head_dim": 64}, "head_dim hidden_size num_attention_heads 64"),
    ("internlm2-1b", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type 'yarn'"),
    ("jamba", {"attn_layer_offset": 8}, "attn_layer_offset 0 attn_layer_period 8"),
    ("jamba", {"mamba_inner_layernorms": False}, "mamba_inner_layernorms true False"),
    ("jamba", {"sliding_window": 4096}, "sliding_window null 4096"),
    ("jina", JINA, "lora_adaptations"),
    ("kimi-linear", {"hidden_act": "gelu"}, "hidden_act"),
    (
        "kimi-linear",
        {"linear_attn_config": {"full_attn_layers": [1], "kda_layers": [*range(1, 28)]}},
        "full_attn_layers kda_layers 1 27",
    ),
    ("kimi-linear", {"linear_attn_config": {"gate_lower_bound": -5.0}}, "'gate_lower_bound'"),
    ("kimi-linear", {"mla_use_nope": False}, "mla_use_nope true False"),
    ("kimi-linear", {"mlp_layer_types": ["dense"] * 26}, "mlp_layer_types 27"),
    ("kimi-linear", {"moe_router_activation_func": "softmax"}, "moe_router_activation_func"),
    ("kimi-linear", {"n_group": 2}, "n_group num_expert_group 1 2"),
    ("kimi-linear", {"num_key_value_heads": 16}, "num_key_value_heads num_attention_heads 32"),
    ("kimi-linear", {"num_nextn_predict_layers": 1}, "num_nextn_predict_layers 0 1"),
    ("led", {"architectures": ["LEDForSequenceClassification"]}, "architectures LEDForConditionalGeneration"),
    ("led", {"attention_window": 7}, "attention_window"),
    ("led", {"attention_window": [1024] * 5}, "attention_window 0 6"),
    ("led", {"scale_embedding": True}, "scale_embedding false"),
    ("lfm2", {"theta": 1e4}, "theta 1000000.0 10000.0"),
    ("lfm3", {"hidden_act": "gelu"}, "'hidden_act'"),
    ("lfm3", {"layer_types": ["conv"]}, "layer_types 24 full_attention"),
    ("lfm3", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters full_attention missing"),
    ("lfm3", {"sliding_window": None}, "sliding_window 1 layer"),
    ("longformer", {"attention_window": 0}, "attention_window"),
    ("longformer", {"attention_window": 5}, "attention_window"),
    ("longformer", {"attention_window": [512] * 11 + [-2]}, "attention_window"),
    ("longformer", {"attention_window": [512] * 11 + [7]}, "attention_window"),
    ("longformer", {"attention_window": [512] * 11}, "attention_window"),
    ("longformer", {"ignore_attention_mask": True}, "ignore_attention_mask"),
    ("longformer", {"pad_token_id": 4097}, "pad_token_id 0 4096"),
    ("longformer", {"sep_token_id": "</s>", **ANSWERS}, "sep_token_id"),
    ("longformer", {"sep_token_id": -1, **ANSWERS}, "sep_token_id"),
    ("longformer", {"sep_token_id": 50265, **ANSWERS}, "sep_token_id"),
    ("longformer", {"sep_token_id": None, **ANSWERS}, "sep_token_id"),
    ("longt5", {"encoder_attention_type": "sparse"}, "local"),
    ("longt5", {"global_block_size": 24}, "global_block_size"),
    ("longt5", {"local_radius": 0}, "local_radius 1"),
    ("mamba-130m", {"d_model": 512}, "d_model 768 512"),
    ("mamba-130m", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ("mamba-130m", {"rms_norm": False}, "rms_norm true False"),
    ("mamba-130m", {"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg {}"),
    ("mamba-130m", {"time_step_rank": "full"}, "time_step_rank 'full'"),
    ("ministral", {"rope_parameters.llama_4_scaling_beta": -0.1}, "llama_4_scaling_beta 0 finite -0.1"),
    ("ministral", {"rope_parameters.llama_4_scaling_beta": None}, "llama_4_scaling_beta None"),
    (
        "ministral",
        {"rope_parameters.original_max_position_embeddings": 0},
        "original_max_position_embeddings 1",
    ),
    ("mistral4", {"head_dim": 64}, "head_dim 128"),
    ("mistral4", {"qk_head_dim": 64}, "qk_head_dim 128"),
    ("mistral4", {"rope_parameters.llama_4_scaling_beta": None}, "llama_4_scaling_beta"),
    (
        "mistral4",
        {"rope_parameters.partial_rotary_factor": 0.25},
        "partial_rotary_factor qk_rope_head_dim 64 128",
    ),
    ("mistral4", {"scoring_func": "sigmoid"}, "'scoring_func'"),
    ("mistral_large4", {"text_config.final_logit_softcapping": None}, "final_logit_softcapping None"),
    ("mistral_large4", {"text_config.index_head_dim": 32}, "index_head_dim qk_rope_head_dim 64 32"),
    (
        "mistral_large4",
        {"text_config.kv_source_layers": [0, 0, *range(2, 72)]},
        "kv_source_layers 0 71 latents",
    ),
    ("mistral_large4", {"text_config.layer_types": ["full_attention"] * 72}, "layer_types indexed_attention"),
    ("mistral_large4", {"text_config.mlp_bias": True}, "mlp_bias false True"),
    ("mistral_large4", {"text_config.no_rope_layers": [1] * 71}, "no_rope_layers 72"),
    ("mistral_large4", {"text_config.norm_topk_prob": False}, "norm_topk_prob true False"),
    ("mistral_large4", {"text_config.num_experts": 16}, "num_experts n_routed_experts 128 16"),
    ("mistral_large4", {"text_config.q_lora_rank": 1536}, "q_lora_rank null 1536"),
    ("mistral_large4", {"text_config.rope_interleave": False}, "rope_interleave true False"),
    ("nemotron-h", {"hybrid_override_pattern": ""}, "hybrid_override_pattern"),
    ("nemotron-h", {"hybrid_override_pattern": "-M"}, "hybrid_override_pattern"),
    ("nemotron-h", {"hybrid_override_pattern": "E"}, "hybrid_override_pattern"),
    ("nemotron-h", {"hybrid_override_pattern": "m"}, "hybrid_override_pattern"),
    ("nemotron-h", {"hybrid_override_pattern": "M--"}, "hybrid_override_pattern"),
    ("nemotron-h", {"hybrid_override_pattern": "M-E"}, "hybrid_override_pattern"),
    ("new", {"architectures": ["NewModel", "NewForTokenClassification"]}, "architectures NewModel"),
    (
        "nomic",
        {"activation_function": "gelu", "moe_every_n_layers": 2, "num_experts": 8},
        "activation_function 'gelu'",
    ),
    (
        "nomic",
        {
            "rope_parameters": {"rope_theta": 1000.0, "rope_type": "dynamic", "factor": 2.0},
            "rotary_scaling_factor": 2.0,
        },
        "rotary_scaling_factor null scaling",
    ),
    ("nvidia/Nemotron-4-Mini-Hindi-4B-Instruct", {"kv_channels": 96}, "kv_channels 128"),
    ("olmo-hybrid", {"hidden_act": "gelu"}, "hidden_act"),
    ("olmo-hybrid", {"layer_types": ["conv"] * 32}, "layer_types 32 linear_attention"),
    ("phimoe", {"num_experts_per_tok": 1}, "num_experts_per_tok 2"),
    ("phimoe", {"original_max_position_embeddings": 64}, "top 64 4096"),
    (
        "phimoe",
        {"rope_scaling": {"type": "linear", "factor": 2.0, "short_mscale": 1.0, "long_mscale": 1.0}},
        "rope_type 'linear'",
    ),
    ("phimoe", {"rope_scaling.short_mscale": None}, "short_mscale None"),
    ("phimoe", {"router_jitter_noise": -0.1}, "router_jitter_noise 0"),
    ("Qwen/Qwen3-30B-A3B", {"mlp_only_layers": [-1]}, "mlp_only_layers 0"),
    ("Qwen/Qwen3-30B-A3B", {"num_local_experts": 64}, "num_local_experts num_experts 128 64"),
    ("qwen3-next", {"hidden_act": "gelu"}, "hidden_act"),
    ("qwen3-next", {"layer_types": [["attention"]] * 48}, "layer_types 48 linear_attention"),
    ("qwen3-next", {"layer_types": [QSA] * 48}, "layer_types 48 linear_attention"),
    ("qwen3-next", {"layer_types": ["linear_attention"] * 47}, "layer_types 48 linear_attention"),
    ("qwen3-next", {"use_sliding_window": True}, "use_sliding_window false True"),
    ("roformer", {"hidden_act": "relu", "norm_type": "rms_norm", "use_bias": False}, "norm_type 'rms_norm'"),
    ("roformer", {"norm_type": "layer_norm", "use_bias": False}, "use_bias true False"),
    (
        "scout",
        {"attention_chunk_size": None, "rope_scaling": None, "layer_types": ["chunked_attention"] * 48},
        "attention_chunk_size 1 layer",
    ),
    ("scout", {"no_rope_layers": [1, 2], "rope_scaling": None}, "no_rope_layers 48 0 1"),
    (
        "scout",
        {"rope_scaling": None, "layer_types": ["sliding_attention"] * 48},
        "full_attention chunked_attention",
    ),
    ("scout", {"rope_scaling": None, "moe_layers": [-1]}, "moe_layers"),
    ("starcoder", {"num_key_value_heads": 2}, "num_key_value_heads multi_query 2"),
    ("Tizzzzy/kgllm_Gemma", {"hidden_activation": "relu"}, "hidden_activation hidden_act gelu_tanh"),
    ("Tizzzzy/kgllm_Gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention false"),
    ("umt5", {"architectures": ["OwnT5Model"], **UNTYPED}, "model_type missing"),
    ("umt5", {"architectures": ["T5ForConditionalGeneration"] * 2, **UNTYPED}, "model_type missing"),
    ("umt5", {"architectures": [[]], **UNTYPED}, "model_type missing"),
    ("umt5", {"architectures": [], **UNTYPED}, "model_type missing"),
    ("umt5", {"architectures": None, **UNTYPED}, "model_type missing"),
    ("umt5", {"scalable_attention": False}, "scalable_attention true"),
    ("xlnet", {"architectures": ["XLNetForQuestionAnswering"]}, "XLNetForQuestionAnswering"),
    ("xlnet", {**XLNET, "attn_type": "uni"}, "attn_type 'uni'"),
    ("xlnet", {**XLNET, "bi_data": True}, "bi_data false"),
    ("xlnet", {**XLNET, "d_head": 32}, "d_head d_model n_head 64"),
    ("xlnet", {**XLNET, "same_length": True}, "same_length false"),
    ("xlnet", {**XLNET, "summary_proj_to_labels": True}, "summary_proj_to_labels false"),
    ("xlnet", {**XLNET, "summary_type": "attn"}, "summary_type cls_index"),
    ("xlnet", {**XLNET, "summary_use_proj": False}, "summary_use_proj true summary_activation null"),
    ("xlnet", {"architectures": ["XLNetLMHeadModel"]}, "XLNetLMHeadModel"),
    ("zai-org/GLM-5", {"index_topk_freq": 4, "index_skip_topk_offset": 0}, "index_skip_topk_offset"),
    ("zai-org/GLM-5", {"index_topk_pattern": "FX" * 39}, "index_topk_pattern"),
    ("zai-org/GLM-5", {"indexer_rope_interleave": False}, "indexer_rope_interleave true False"),
    ("zai-org/GLM-5", {"indexer_types": "F" * 78}, "indexer_types"),
    ("zai-org/GLM-5", {"indexer_types": ["full"] * 77}, "indexer_types 78"),
    ("zai-org/GLM-5", {"indexer_types": ["shared"] + ["full"] * 77}, "layers full"),
]


def read(values: dict[str, Any], **more: Any) -> Any:
    return read_config(values, **more)[0]


@pytest.mark.parametrize(("name", "changes"), READ)
def test_a_change_is_read_as_transformers_reads_it(name: str, changes: dict[str, Any]):
    values = changed(name, changes)
    assert read(values) == read(rewritten(values))


@pytest.mark.parametrize(("name", "changes", "words"), REFUSED)
def test_a_change_is_refused(name: str, changes: dict[str, Any], words: str):
    with refused(ConfigError, *words.split()):
        read(changed(name, changes))


@pytest.mark.parametrize("name", ["internlm2-1b", "internlm2", "internlm2-20b"])
def test_internlm2_whose_class_transformers_has_not(name: str):
    attention = read(ROWS[name]).layers[0].attention
    scaling = DynamicNTK(ROWS[name]["rope_scaling"]["factor"], 32_768)
    assert attention.position == Rope(1e6, 128, scaling=scaling)
    assert (attention.kv_heads, attention.qkv_bias, attention.out_bias) == (8, False, False)
    assert read(changed(name, {"bias": True})).layers[0].attention.out_bias


def test_gte_multilingual_and_english_of_the_repositorys_class():
    def position(**changes: Any) -> Rope:
        return read(changed("new", changes)).stack.layers[0].attention.position

    config = read(ROWS["new"])
    assert position() == Rope(160_000.0, 64, scaling=LinearScaling(8.0 ** (2 / 64)))
    assert (config.stack.layers[0].mlp.bias, config.stack.layers[0].mlp.down_bias) == (False, True)
    english = {"rope_theta": 500000, "rope_scaling": {"factor": 2.0, "type": "ntk"}, "type_vocab_size": 0}
    assert read(changed("new", english)).embedding.token_types is None
    assert position(**english) == Rope(1e6, 64, scaling=LinearScaling(2.0 ** (2 / 64)))
    both = {**ROWS["new"], "architectures": ["NewModel", "NewForTokenClassification"]}
    assert read(both, task="pool") == config


def test_nomic_embeds_older_keys():
    config = read(ROWS["nomic"])
    newer = {
        "architectures": ["NomicBertModel"], "hidden_act": "silu", "hidden_size": 768,
        "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
        "layer_norm_eps": 1e-12, "type_vocab_size": 2,
        "max_position_embeddings": 8192, "model_type": "nomic_bert", "vocab_size": 30528,
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
    }  # fmt: skip
    assert read(newer) == read(rewritten(newer)) == config
    # nomic-embed-text-v1-unsupervised, whose longer texts turn by a larger base.
    longer = {"rope_parameters": {"rope_theta": 1000.0, "rope_type": "dynamic", "factor": 2.0}}
    scaled = read(changed("nomic", {"rotary_scaling_factor": 2}))
    assert scaled == read({**newer, "max_position_embeddings": 2048, **longer})
    trained = read(changed("nomic", {"rotary_scaling_factor": 4, "max_trained_positions": 512}))
    assert trained.stack.layers[0].attention.position == Rope(1000.0, 64, scaling=DynamicNTK(4.0, 512))


@pytest.mark.parametrize(
    ("name", "kind", "class_name", "more"),
    [
        ("gemma3n", "gemma3n", "Gemma3n", {"audio_config": {"hidden_size": 1536}, "audio_token_id": 262_273}),
        ("gemma4", "gemma4", "Gemma4", {"audio_config": None, "vision_soft_tokens_per_image": 280}),
        ("scout", "llama4", "Llama4", {"image_token_index": 200_092}),
    ],
)
def test_a_text_part_is_that_model(name: str, kind: str, class_name: str, more: dict[str, Any]):
    whole = {"model_type": kind, "architectures": [f"{class_name}ForConditionalGeneration"], **more}
    assert read({**whole, "vision_config": {}, "text_config": ROWS[name]}) == read(ROWS[name])


def test_which_output_table_a_file_has():
    """Of the 0.5 B model the two places disagree: the tensors of either version tell."""
    tables = ["language_model.lm_head.weight"], ["language_model.model.embed_tokens.weight"]
    for name, tensors, tied in (
        ("llava-onevision", tables[0], False),
        ("llava-onevision", tables[1], True),
        ("Mistral-Small-3.1", tables[0], False),
        ("gemma-3-4b", tables[1], True),
    ):
        assert read(ROWS[name], tensors=tensors).head.tied == tied, (name, tensors)


def test_files_with_one_of_two_lists_of_gpt_neos_layers():
    for name in ("EleutherAI/gpt-neo-125m", "gpt-neo-27b"):
        assert read(changed(name, {"attention_types": ...})) == read(changed(name, {}))
