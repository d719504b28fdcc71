"""Llama 3.2 Vision."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, SIZES, Row, ropes, sizes, wrapped

VISION: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_global_layers": 1,
    "attention_heads": 1, "image_size": 4, "patch_size": 2, "vision_output_dim": 16,
    "intermediate_layers_indices": [0],
}  # fmt: skip


@st.composite
def text_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Layers that read an image stand anywhere among two that don't; some of the numbers are of no layer."""
    keys = draw(sizes(num_hidden_layers=st.integers(3, 5)))
    del keys["head_dim"]
    size = draw(st.sampled_from([4, 10]))
    keys |= {"hidden_size": keys["num_attention_heads"] * size, "rope_parameters": draw(ropes(size))}
    count = keys["num_hidden_layers"]
    cross = draw(st.lists(st.integers(0, count - 1), max_size=count - 2, unique=True))
    return keys | IDS | {"cross_attention_layers": [*cross, 8], "dropout": 0.0}


ROWS = {
    "mllama": Row(
        transformers.MllamaConfig,
        (transformers.MllamaForConditionalGeneration,),
        wrapped(text_keys(), VISION),
        {"text_config": SIZES, "vision_config": VISION},
    )
}
