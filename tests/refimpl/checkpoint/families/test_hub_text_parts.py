"""What config.json says of real checkpoints that read images too, in the spelling of its day."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.configs import ROWS
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import LM, FullAttention, LinearScaling, Rope, Window
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

GEMMA_3_4B = ROWS["gemma-3-4b"]
LLAVA_1_5 = ROWS["llava-1.5"]
LLAVA_ONEVISION = ROWS["llava-onevision"]

NAMES = [name for name, keys in ROWS.items() if keys.keys() & {"text_config", "vision_config"}]


def read(values: dict[str, Any], tensors: list[str] | None = None) -> Any:
    return read_config(values, tensors=tensors)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_text_part_is_read_as_transformers_does(name: str):
    config = read(ROWS[name])
    hf = CONFIG_MAPPING[ROWS[name]["model_type"]].from_dict(ROWS[name]).get_text_config()
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
    assert len(read(LLAVA_1_5).layers) == 32
    assert read(LLAVA_1_5).layers[0].mlp.width == 11_008
    assert read(ROWS["llava-llama-3"]).layers[0].attention.position == Rope(5e5, 128)
    gemma = read(GEMMA_3_4B)
    assert gemma.head == LM(tied=True)
    assert gemma.embedding.vocabulary == 262_208
    assert [layer.attention.mask for layer in gemma.layers[4:6]] == [Window(1024), FullAttention()]
    assert gemma.layers[5].attention.position == Rope(1e6, 256, scaling=LinearScaling(8.0))
    assert read(ROWS["gemma-3-27b"]).layers[5].attention.scale == 168**-0.5


def test_m_rope_is_plain():
    assert read(ROWS["Qwen2-VL"]).ropes == (Rope(1e6, 128),)
    assert read(ROWS["Qwen2.5-VL, rewritten"]) == read(ROWS["Qwen2.5-VL"])
    assert read(ROWS["Qwen2-VL-72B"]).ropes == (Rope(1e6, 128),)


def test_which_output_table_a_file_has():
    """Of the 0.5 B model the two places disagree: the tensors of either version tell."""
    assert not read(LLAVA_ONEVISION, ["language_model.lm_head.weight"]).head.tied
    assert read(LLAVA_ONEVISION, ["language_model.model.embed_tokens.weight"]).head.tied
    assert not read(ROWS["Mistral-Small-3.1"], ["language_model.lm_head.weight"]).head.tied
    assert read(GEMMA_3_4B, ["language_model.model.embed_tokens.weight"]).head.tied
