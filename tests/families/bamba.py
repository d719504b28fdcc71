"""Bamba."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder, ropes, sizes


@st.composite
def mamba_keys(draw: st.DrawFn, width: int) -> dict[str, Any]:
    """Keys with the prefix mamba_ for a model of this width: heads that share keys and heads that don't."""
    expand = draw(st.sampled_from([1, 2]))
    heads = draw(st.sampled_from([n for n in (1, 2, 4, 6) if width * expand % n == 0]))
    size = width * expand // heads
    return {
        "mamba_expand": expand,
        "mamba_n_heads": heads,
        "mamba_d_head": draw(st.sampled_from(["auto", size])),
        "mamba_n_groups": draw(st.sampled_from([n for n in (1, 2, 3) if heads % n == 0])),
        "mamba_d_state": draw(st.sampled_from([5, 8])),
        "mamba_d_conv": draw(st.integers(2, 4)),
        "mamba_conv_bias": draw(st.booleans()),
        "mamba_proj_bias": draw(st.booleans()),
        "mamba_chunk_size": draw(st.sampled_from([3, 64])),
    }


@st.composite
def _bamba(draw: st.DrawFn) -> dict[str, Any]:
    layers = draw(st.integers(1, 4))
    flags = {"attention_bias": st.booleans(), "mlp_bias": st.booleans()}
    keys = draw(sizes(num_hidden_layers=st.just(layers), **flags))
    part = draw(st.sampled_from([0.5, 1.0]))
    turned = draw(ropes(int(keys["head_dim"] * part), "default")) | {"partial_rotary_factor": part}
    places = st.none() | st.lists(st.integers(0, layers - 1), max_size=2)
    more = {"hidden_act": "silu", "rope_parameters": turned, "attn_layer_indices": draw(places)}
    return keys | more | draw(mamba_keys(keys["hidden_size"]))


SIZES_OF_STATES = {**SIZES, "mamba_n_heads": 4}
ROWS = {"bamba": decoder(transformers.BambaConfig, transformers.BambaForCausalLM, _bamba(), SIZES_OF_STATES)}
