"""LFM3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .gemma4 import proportional
from .kit import IDS, decoder, ropes, sizes

KINDS = ("full_attention", "sliding_attention", "conv")


@st.composite
def lfm3_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Convolutions, windows and attention to all in any layers, or as by default, and a rotation for each
    kind of attention."""
    layers = draw(st.integers(1, 5))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            norm_eps=st.sampled_from([1e-6, 1e-2]),
            conv_L_cache=st.sampled_from([2, 4, 7]),
            conv_bias=st.booleans(),
            sliding_window=st.sampled_from([1, 3, 5, 64]),
            use_sandwich_norm=st.booleans(),
            use_attention_gate=st.sampled_from([True, False, True]),
            attention_bias=st.booleans(),
        )
    )
    for key in ("hidden_act", "rms_norm_eps", "rope_parameters"):
        del keys[key]
    size = keys["head_dim"]
    if draw(st.booleans()):
        keys["rope_parameters"] = {
            kind: draw(st.one_of(ropes(size, "default linear"), proportional())) for kind in KINDS[:2]
        }
    types = draw(st.none() | st.lists(st.sampled_from(KINDS), min_size=layers, max_size=layers))
    keys |= IDS
    return keys if types is None else {**keys, "layer_types": types}


ROWS = {"lfm3": decoder(transformers.Lfm3Config, transformers.Lfm3ForCausalLM, lfm3_keys())}
