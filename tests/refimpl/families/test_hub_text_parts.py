"""What config.json says of real checkpoints that read images too, in the spelling of its day.

gemma-3-27b's is what TensorRT-LLM's tests quote, with the layers and the window that they shorten; the larger
sizes of LLaVA, Qwen2-VL, SmolVLM and gemma-3-12b were written down from memory. More of these families, as
they lie on the hub, are in config_readers/public_configs.jsonl.
"""

from __future__ import annotations

from typing import Any

import pytest
from tfm.refimpl.config import LM, FullAttention, LinearScaling, Rope, Window
from tfm.refimpl.families import read_config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VICUNA = {
    "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "torch_dtype": "float16", "vocab_size": 32064,
}  # fmt: skip
CLIP = {
    "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
    "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
    "vocab_size": 32000,
}  # fmt: skip
LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": 32000,
    "model_type": "llava", "pad_token_id": 32001, "projector_hidden_act": "gelu", "text_config": VICUNA,
    "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.36.0.dev0",
    "vision_config": CLIP, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}  # fmt: skip
LLAMA_3 = {
    **LLAVA, "image_token_index": 128257, "pad_token_id": 128258, "transformers_version": "4.40.1",
    "text_config": {
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 128000, "eos_token_id": 128001,
        "intermediate_size": 14336, "max_position_embeddings": 8192, "model_type": "llama",
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "torch_dtype": "float16",
        "vocab_size": 128320,
    },
}  # fmt: skip
del LLAMA_3["vocab_size"], LLAMA_3["tie_word_embeddings"]
GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
MISTRAL_7B = {
    "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2", "architectures": ["MistralForCausalLM"],
    "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
    "torch_dtype": "bfloat16", "vocab_size": 32064,
}  # fmt: skip
LLAVA_NEXT = {
    **LLAVA, "architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next",
    "image_grid_pinpoints": GRID, "text_config": MISTRAL_7B, "use_image_newline_parameter": True,
}  # fmt: skip
ONEVISION = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"], "image_grid_pinpoints": [[384, 384]],
    "image_token_index": 151646, "model_type": "llava_onevision", "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "Qwen/Qwen2-0.5B-Instruct", "architectures": ["Qwen2ForCausalLM"],
        "bos_token_id": 151643, "eos_token_id": 151645, "hidden_size": 896, "intermediate_size": 4864,
        "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
        "num_key_value_heads": 2, "rope_theta": 1000000.0, "sliding_window": 32768,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_sliding_window": False,
        "vocab_size": 152000,
    },
    "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.45.0.dev0",
    "use_image_newline_parameter": True, "video_token_index": 151647, "vision_aspect_ratio": "anyres_max_9",
    "vision_config": {"model_type": "siglip_vision_model", "patch_size": 14, "vision_use_head": False},
    "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
}  # fmt: skip
MISTRAL_SMALL = {
    "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10, "model_type": "mistral3",
    "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
    "text_config": {
        "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
        "initializer_range": 0.02, "intermediate_size": 32768, "max_position_embeddings": 131072,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0,
        "sliding_window": None, "use_cache": True, "vocab_size": 131072,
    },
    "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "vision_feature_layer": -1,
    "vision_config": {"head_dim": 64, "hidden_size": 1024, "model_type": "pixtral"},
}  # fmt: skip
MINISTRAL_3 = {
    **MISTRAL_SMALL,
    "text_config": {
        "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 262144,
        "model_type": "ministral3", "num_attention_heads": 32, "num_hidden_layers": 34,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "sliding_window": None, "use_cache": True,
        "vocab_size": 131072,
        "rope_parameters": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
            "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384, "rope_theta": 1000000.0,
            "rope_type": "yarn", "type": "yarn",
        },
    },
}  # fmt: skip
GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
    "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
    "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "vision_use_head": False},
}  # fmt: skip
QWEN_2_VL = {
    "architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
    "vision_token_id": 151654, "image_token_id": 151655, "video_token_id": 151656, "hidden_act": "silu",
    "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
    "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2_vl",
    "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2", "use_cache": True, "use_sliding_window": False,
    "vision_config": {"depth": 32, "embed_dim": 1280, "in_chans": 3, "spatial_patch_size": 14},
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 151936,
}  # fmt: skip
QWEN_2_5_VL = {
    **QWEN_2_VL, "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
    "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 128000,
    "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 152064,
    "vision_config": {"depth": 32, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2},
}  # fmt: skip
# As transformers 4.53 wrote it anew: twice, and the window once.
_ROPE = {"rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}}
_TEXT = ("vision_config", "transformers_version", "tie_word_embeddings", "model_type")
REWRITTEN = {
    **QWEN_2_5_VL, **_ROPE,
    "text_config": {
        **{key: value for key, value in QWEN_2_5_VL.items() if key not in _TEXT}, **_ROPE,
        "image_token_id": None, "layer_types": ["full_attention"] * 28, "model_type": "qwen2_5_vl_text",
        "sliding_window": None, "video_token_id": None, "torch_dtype": "float32",
    },
}  # fmt: skip
QWEN_3_VL_MOE = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"], "image_token_id": 151655,
    "model_type": "qwen3_vl_moe",
    "text_config": {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1,
        "dtype": "bfloat16", "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
        "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_vl_moe_text",
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06, "rope_theta": 5000000, "use_cache": True, "vocab_size": 151936,
        "rope_scaling": {
            "mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default",
        },
    },
    "tie_word_embeddings": False, "transformers_version": "4.57.0.dev0", "video_token_id": 151656,
    "vision_config": {"depth": 27, "deepstack_visual_indexes": [8, 16, 24], "model_type": "qwen3_vl_moe"},
    "vision_end_token_id": 151653, "vision_start_token_id": 151652,
}  # fmt: skip
# Of 235 billion parameters.
QWEN_3_VL_LARGE = {
    **QWEN_3_VL_MOE,
    "text_config": {
        **QWEN_3_VL_MOE["text_config"], "hidden_size": 4096, "intermediate_size": 12288,
        "moe_intermediate_size": 1536, "num_attention_heads": 64, "num_hidden_layers": 94,
    },
}  # fmt: skip
INTERNVL = {
    "architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5, "image_seq_length": 256,
    "image_token_id": 151667, "model_type": "internvl", "projector_hidden_act": "gelu",
    "text_config": {
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864,
        "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
        "num_key_value_heads": 2, "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "rope_theta": 1000000.0, "sliding_window": None, "use_sliding_window": False, "vocab_size": 151674,
    },
    "torch_dtype": "bfloat16", "vision_config": {"model_type": "internvl_vision"},
    "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
}  # fmt: skip
SMOLVLM = {
    "architectures": ["Idefics3ForConditionalGeneration"], "image_token_id": 49190, "model_type": "idefics3",
    "scale_factor": 4,
    "text_config": {
        "_flash_attn_2_enabled": True, "architectures": ["VLlama3ForCausalLM"], "head_dim": 64,
        "hidden_size": 576, "intermediate_size": 1536, "is_llama_config": True,
        "max_position_embeddings": 8192, "model_type": "llama", "neftune_noise_alpha": 0.0,
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2,
        "perceiver_config": {"model_type": "vllama3", "resampler_depth": 6}, "pixel_shuffle_factor": 4,
        "qk_layer_norms": False, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_theta": 100000,
        "torch_dtype": "bfloat16", "transformers.js_config": {"dtype": "fp32"}, "use_cache": True,
        "use_resampler": False, "vocab_size": 49280,
    },
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
    "vision_config": {"hidden_size": 768, "model_type": "idefics3", "use_base_siglip": True},
}  # fmt: skip
SMOLVLM_2 = {
    **SMOLVLM, "architectures": ["SmolVLMForConditionalGeneration"], "model_type": "smolvlm",
    "vision_config": {"hidden_size": 768, "model_type": "smolvlm_vision"},
}  # fmt: skip
VICUNA_13B = {
    **VICUNA, "_name_or_path": "lmsys/vicuna-13b-v1.5", "hidden_size": 5120, "intermediate_size": 13824,
    "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 40,
}  # fmt: skip
YI_34B = {
    "_name_or_path": "NousResearch/Nous-Hermes-2-Yi-34B", "architectures": ["LlamaForCausalLM"],
    "eos_token_id": 7, "hidden_size": 7168, "intermediate_size": 20480, "max_position_embeddings": 4096,
    "model_type": "llama", "num_attention_heads": 56, "num_hidden_layers": 60, "num_key_value_heads": 8,
    "pad_token_id": 0, "rms_norm_eps": 1e-05, "rope_theta": 5000000.0, "torch_dtype": "bfloat16",
    "use_cache": False, "vocab_size": 64064,
}  # fmt: skip
LLAVA_34B = {**LLAVA_NEXT, "image_token_index": 64000, "text_config": YI_34B, "vocab_size": 64064}
GEMMA_3_12B = {
    **GEMMA_3_4B,
    "text_config": {
        **GEMMA_3_4B["text_config"], "hidden_size": 3840, "intermediate_size": 15360,
        "num_attention_heads": 16, "num_hidden_layers": 48, "num_key_value_heads": 8,
    },
}  # fmt: skip
GEMMA_3_27B = {
    **GEMMA_3_4B,
    "text_config": {
        **GEMMA_3_4B["text_config"], "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504,
        "num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
    },
}  # fmt: skip
QWEN_2_VL_7B = {
    **QWEN_2_VL, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
    "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 152064,
}  # fmt: skip
QWEN_2_VL_72B = {
    **QWEN_2_VL_7B, "hidden_size": 8192, "intermediate_size": 29568, "max_window_layers": 80,
    "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8,
}  # fmt: skip
SIZE_500M = {
    "hidden_size": 960, "intermediate_size": 2560, "num_attention_heads": 15, "num_hidden_layers": 32,
    "num_key_value_heads": 5,
}  # fmt: skip
SIZE_2B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 24,
    "num_key_value_heads": 32, "pixel_shuffle_factor": 3, "rope_theta": 273768.0, "vocab_size": 49155,
}  # fmt: skip
CONFIGS = {
    "llava-1.5-13b": {**LLAVA, "text_config": VICUNA_13B}, "llava-v1.6-34b": LLAVA_34B,
    "gemma-3-12b": GEMMA_3_12B, "gemma-3-27b": GEMMA_3_27B,
    "Qwen2-VL-7B": QWEN_2_VL_7B, "Qwen2-VL-72B": QWEN_2_VL_72B,
    "SmolVLM-500M": {**SMOLVLM, "text_config": {**SMOLVLM["text_config"], **SIZE_500M}},
    "SmolVLM-Instruct": {**SMOLVLM, "text_config": {**SMOLVLM["text_config"], **SIZE_2B}},
    "SmolVLM2-500M": {**SMOLVLM_2, "text_config": {**SMOLVLM["text_config"], **SIZE_500M}},
    "llava-1.5": LLAVA, "llava-llama-3": LLAMA_3, "llava-v1.6-mistral": LLAVA_NEXT,
    "llava-v1.6-vicuna": {**LLAVA_NEXT, "text_config": VICUNA}, "llava-onevision": ONEVISION,
    "Mistral-Small-3.1": MISTRAL_SMALL, "Ministral-3-8B": MINISTRAL_3,
    "gemma-3-4b": GEMMA_3_4B, "Qwen2-VL": QWEN_2_VL,
    "Qwen3-VL-30B-A3B": QWEN_3_VL_MOE, "Qwen3-VL-235B-A22B": QWEN_3_VL_LARGE,
    "Qwen2.5-VL": QWEN_2_5_VL, "Qwen2.5-VL, rewritten": REWRITTEN, "InternVL3": INTERNVL,
    "SmolVLM": SMOLVLM, "SmolVLM2": SMOLVLM_2,
}  # fmt: skip


def read(values: dict[str, Any], tensors: list[str] | None = None) -> Any:
    return read_config(values, tensors=tensors)[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_text_part_is_read_as_transformers_does(name: str):
    config = read(CONFIGS[name])
    hf = CONFIG_MAPPING[CONFIGS[name]["model_type"]].from_dict(CONFIGS[name]).get_text_config()
    size = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    assert (config.embedding.vocabulary, config.embedding.width) == (hf.vocab_size, hf.hidden_size)
    width = getattr(hf, "moe_intermediate_size", hf.intermediate_size)
    expected = (hf.num_attention_heads, hf.num_key_value_heads, size, width)
    got = [
        (a.heads, a.kv_heads, a.head_size, layer.mlp.width)
        for layer in config.layers
        for a in (layer.attention,)
    ]
    assert got == [expected] * hf.num_hidden_layers


def test_what_a_text_part_leaves_out_is_its_class_default():
    assert len(read(LLAVA).layers) == 32
    assert read(LLAVA).layers[0].mlp.width == 11_008
    assert read(LLAMA_3).layers[0].attention.position == Rope(5e5, 128)
    gemma = read(GEMMA_3_4B)
    assert gemma.head == LM(tied=True)
    assert gemma.embedding.vocabulary == 262_208
    assert [layer.attention.mask for layer in gemma.layers[4:6]] == [Window(1024), FullAttention()]
    assert gemma.layers[5].attention.position == Rope(1e6, 256, scaling=LinearScaling(8.0))
    assert read(GEMMA_3_27B).layers[5].attention.scale == 168**-0.5


def test_m_rope_is_plain():
    assert read(QWEN_2_VL).ropes == (Rope(1e6, 128),)
    assert read(REWRITTEN) == read(QWEN_2_5_VL)
    assert read(QWEN_2_VL_72B).ropes == (Rope(1e6, 128),)


def test_which_output_table_a_file_has():
    """Of the 0.5 B model the two places disagree: the tensors of either version tell."""
    assert not read(ONEVISION, ["language_model.lm_head.weight"]).head.tied
    assert read(ONEVISION, ["language_model.model.embed_tokens.weight"]).head.tied
    assert not read(MISTRAL_SMALL, ["language_model.lm_head.weight"]).head.tied
    assert read(GEMMA_3_4B, ["language_model.model.embed_tokens.weight"]).head.tied
