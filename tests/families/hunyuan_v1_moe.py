"""Hunyuan A13B."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .hunyuan_v1_dense import stretched
from .kit import decoder
from .mixtral import EAGER


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    """As many experts in all layers, and as many chosen, or a number for each layer."""
    keys, experts = draw(stretched()), draw(st.sampled_from([3, 4, 5]))
    layers, top = keys["num_hidden_layers"], st.integers(1, 3)
    tops = draw(st.one_of(top, st.lists(top, min_size=layers, max_size=layers)))
    return {**keys, "num_experts": experts, "moe_topk": tops, "experts_implementation": draw(EAGER)}


ROWS = {
    "hunyuan_v1_moe": decoder(
        transformers.HunYuanMoEV1Config, transformers.HunYuanMoEV1ForCausalLM, mixtures()
    )
}
