"""LLaVA and models of its form: decoders of Llama's form, each with the towers that its class has."""

from collections.abc import Callable
from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, Row, sizes, wrapped
from .ministral3 import scaled
from .mistral4 import scaled as scaled_latents
from .phi3 import phi3
from .qwen2 import windowed

TOWER: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 4, "patch_size": 2,
}  # fmt: skip
CLIP, SIGLIP = ({**TOWER, "model_type": f"{kind}_vision_model"} for kind in ("clip", "siglip"))
PIXTRAL = {**TOWER, "model_type": "pixtral", "head_dim": 8}
INTERN = {**TOWER, "model_type": "internvl_vision", "image_size": [4, 4], "patch_size": [2, 2]}


def without_implementation(text: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """The keys but for the one that counts for the whole model."""
    return text.map(lambda keys: {key: keys[key] for key in keys if key != "experts_implementation"})


TEXTS = {
    "llama": sizes(attention_bias=st.booleans(), mlp_bias=st.booleans()),
    "mistral": sizes(sliding_window=st.sampled_from([None, 1, 3, 64])),
    "ministral3": scaled(),
    "mistral4": without_implementation(scaled_latents()),
    "phi3": phi3(),
    "qwen2": windowed(),
    "qwen3": windowed(attention_bias=st.booleans()),
}


def texts(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Keys of one of these text models."""
    return st.sampled_from(names).flatmap(
        lambda name: TEXTS[name].map(lambda keys: {**keys, "model_type": name})
    )


def row(
    name: str,
    text: st.SearchStrategy[dict[str, Any]],
    vision: dict[str, Any],
    stated: Any = SIZES,
    amend: Callable[[Any], None] = lambda _: None,
    **more: Any,
) -> Row:
    """The row of a model that reads images too. LLaVA's class without a head stands for the others."""
    stated_keys = {key: value for key, value in more.items() if key != "experts_implementation"}
    kinds = ("ForConditionalGeneration", "Model")[: 2 if name == "Llava" else 1]
    return Row(
        getattr(transformers, f"{name}Config"),
        tuple(getattr(transformers, f"{name}{kind}") for kind in kinds),
        wrapped(text, vision, **more),
        {"text_config": stated, "vision_config": vision, **stated_keys},
        amend=amend,
    )


QWEN_SIZES = {**SIZES, "num_attention_heads": 32}
ROWS = {
    "llava": row("Llava", texts("llama", "mistral", "qwen2", "phi3"), CLIP),
    "llava_next": row("LlavaNext", texts("llama", "mistral"), CLIP, image_grid_pinpoints=[[4, 8]]),
    "llava_onevision": row(
        "LlavaOnevision", texts("qwen2"), SIGLIP, QWEN_SIZES, image_grid_pinpoints=[[4, 8]]
    ),
    "mistral3": row(
        "Mistral3", texts("mistral", "ministral3", "mistral4"), PIXTRAL, experts_implementation="eager"
    ),
    "internvl": row("InternVL", texts("qwen2", "qwen3", "llama"), INTERN, QWEN_SIZES),
}
