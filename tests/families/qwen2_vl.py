"""Qwen2-VL and Qwen2.5-VL."""

import operator
from collections.abc import Callable
from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, SIZES, Row, labelled, ropes, wrapped
from .qwen2 import windowed


@st.composite
def sections(draw: st.DrawFn, head_size: int) -> dict[str, Any]:
    """rope_parameters with M-RoPE's sections of a head's pairs; a section may be empty."""
    pairs = head_size // 2
    first, second = sorted(draw(st.tuples(*[st.integers(0, pairs)] * 2)))
    return {
        **draw(ropes(head_size, "default linear dynamic yarn llama3")),
        "mrope_section": [first, second - first, pairs - second],
    }


@st.composite
def text_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Qwen 2's keys; the size of heads follows from the width."""
    keys = draw(windowed())
    del keys["head_dim"]
    size = draw(st.sampled_from([4, 10]))
    keys["hidden_size"] = keys["num_attention_heads"] * size
    return {**IDS, **keys, "rope_parameters": draw(sections(size))}


TOWER: dict[str, Any] = {"depth": 1, "hidden_size": 8, "num_heads": 1, "patch_size": 2}
TOWERS = {
    "Qwen2VL": {**TOWER, "embed_dim": 8, "mlp_ratio": 1},
    "Qwen2_5_VL": {**TOWER, "intermediate_size": 8, "out_hidden_size": 8, "fullatt_block_indexes": [0]},
}


def row(
    name: str,
    text: st.SearchStrategy[dict[str, Any]],
    tower: dict[str, Any],
    stated: Any,
    reads: str = "",
    amend: Callable[[Any], None] = lambda _: None,
    **more: Any,
) -> Row:
    """The row of one of Qwen's models that read images. Classes that read whole texts, whose names end as
    `reads` says, stand for those of the others."""
    kinds = ("ForConditionalGeneration", *reads.split())
    return Row(
        getattr(transformers, f"{name}Config"),
        tuple(getattr(transformers, f"{name}{kind}") for kind in kinds),
        st.builds(operator.or_, wrapped(text, tower, **more), labelled()),
        {"text_config": stated, "vision_config": tower},
        amend=amend,
    )


ROWS = {
    "qwen2_vl": row("Qwen2VL", text_keys(), TOWERS["Qwen2VL"], SIZES, "Model"),
    "qwen2_5_vl": row("Qwen2_5_VL", text_keys(), TOWERS["Qwen2_5_VL"], SIZES),
}
