"""Hunyuan's dense models."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes


@st.composite
def stretched(draw: st.DrawFn) -> dict[str, Any]:
    """Llama's keys; of some the theta is stretched by an alpha."""
    keys = draw(sizes(attention_bias=st.booleans()))
    if draw(st.booleans()):
        return keys
    more = draw(
        st.sampled_from([{}, {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}])
    )
    alpha = {"rope_type": "dynamic", "alpha": draw(st.sampled_from([50.0, 1000.0])), "factor": 1.0}
    return {**keys, "rope_parameters": {**alpha, **more, "rope_theta": draw(st.sampled_from([100.0, 1e4]))}}


ROWS = {
    "hunyuan_v1_dense": decoder(
        transformers.HunYuanDenseV1Config, transformers.HunYuanDenseV1ForCausalLM, stretched()
    )
}
