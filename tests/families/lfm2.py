"""LFM2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, ropes, sizes


@st.composite
def lfm2_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Convolutions in any layers, in either spelling; widths as they are, or rounded up from two thirds."""
    layers = draw(st.integers(1, 4))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            norm_eps=st.sampled_from([1e-6, 1e-2]),
            conv_L_cache=st.sampled_from([2, 3, 4]),
            conv_bias=st.booleans(),
            block_auto_adjust_ff_dim=st.booleans(),
            block_multiple_of=st.sampled_from([1, 8]),
            block_ffn_dim_multiplier=st.sampled_from([1.0, 1.3]),
            intermediate_size=st.sampled_from([12, 31]),
        )
    )
    for key in ("hidden_act", "rms_norm_eps"):
        del keys[key]
    keys["rope_parameters"] = draw(ropes(keys["head_dim"]))
    kinds = st.sampled_from(["full_attention", "conv"])
    types = draw(st.lists(kinds, min_size=layers, max_size=layers))
    places = [i for i, kind in enumerate(types) if kind == "full_attention"]
    return keys | draw(st.sampled_from([{"layer_types": types}, {"full_attn_idxs": places}]))


ROWS = {"lfm2": decoder(transformers.Lfm2Config, transformers.Lfm2ForCausalLM, lfm2_keys())}
