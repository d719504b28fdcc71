"""DeBERTa v2 and v3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .deberta import deberta, models, tie_legacy
from .kit import Row


@st.composite
def _deberta_v2(draw: st.DrawFn) -> dict[str, Any]:
    """Distances that share vectors in a text of 12 tokens; maps of their own, or shared; a convolution."""
    keys = draw(deberta())
    buckets = draw(st.sampled_from([-1, 2, 4, 6]))
    if buckets > 0:
        keys["max_relative_positions"] = draw(st.sampled_from([-1, 6, 9, 16]))
    more = {
        "share_att_key": draw(st.booleans()),
        "norm_rel_ebd": draw(st.sampled_from(["none", "layer_norm"])),
        "conv_kernel_size": draw(st.sampled_from([0, 0, 1, 3, 5])),
        "conv_act": draw(st.sampled_from(["tanh", "gelu"])),
    }
    return keys | {"position_buckets": buckets} | more


ROWS = {"deberta-v2": Row(transformers.DebertaV2Config, models("DebertaV2"), _deberta_v2(), amend=tie_legacy)}
