"""Llama 4."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, Row, sizes, wrapped


@st.composite
def _text(draw: st.DrawFn) -> dict[str, Any]:
    """Any layer may be rotated, have chunks and have experts, by lists or by intervals."""
    layers = draw(st.integers(1, 4))

    def each(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.none() | st.lists(values, min_size=layers, max_size=layers)

    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            intermediate_size_mlp=st.sampled_from([5, 18]),
            num_local_experts=st.sampled_from([2, 3, 4]),
            num_experts_per_tok=st.integers(1, 2),
            interleave_moe_layer_step=st.integers(1, 3),
            moe_layers=st.none() | st.lists(st.integers(0, layers), max_size=2),
            use_qk_norm=st.booleans(),
            no_rope_layer_interval=st.integers(1, 3),
            no_rope_layers=each(st.integers(0, 1)),
            attention_chunk_size=st.sampled_from([1, 3, 5, 64]),
            layer_types=each(st.sampled_from(["full_attention", "chunked_attention"])),
            attn_temperature_tuning=st.booleans(),
            floor_scale=st.sampled_from([1, 3, 12, 64]),
            attn_scale=st.sampled_from([0.1, 2.0]),
        )
    )
    if keys["rope_parameters"]["rope_type"] == "llama3" and draw(st.booleans()):
        keys["rope_parameters"]["high_freq_factor"] = 1.0  # Scout's
    if keys["layer_types"] is None and draw(st.booleans()):
        keys["attention_chunk_size"] = None
    return keys


TOWER: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 4, "patch_size": 2, "vision_output_dim": 8, "projector_input_dim": 8,
    "projector_output_dim": 8,
}  # fmt: skip


def without_images(model: Any) -> None:
    """transformers 5.24 asks its text model's output for that of images, which it hasn't."""

    def note(module: Any, arguments: Any, output: Any) -> None:
        output.image_outputs = None

    model.language_model.register_forward_hook(note)


STATED = {**SIZES, "num_attention_heads": 16}
ROWS = {
    "llama4_text": Row(transformers.Llama4TextConfig, (transformers.Llama4ForCausalLM,), _text(), STATED),
    "llama4": Row(
        transformers.Llama4Config,
        (transformers.Llama4ForConditionalGeneration,),
        wrapped(_text(), TOWER),
        {"text_config": STATED, "vision_config": TOWER},
        amend=without_images,
    ),
}
