"""Code World Model."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, decoder, sizes
from .qwen2 import TYPES


@st.composite
def _cwm(draw: st.DrawFn) -> dict[str, Any]:
    layers = draw(st.integers(1, 5))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            mlp_bias=st.booleans(),
            sliding_window=st.sampled_from([1, 3, 5, 64]),
            layer_types=st.none() | st.lists(st.sampled_from(TYPES), min_size=layers, max_size=layers),
        )
    )
    if draw(st.booleans()):
        del keys["rope_parameters"]
    return keys | IDS


ROWS = {"cwm": decoder(transformers.CwmConfig, transformers.CwmForCausalLM, _cwm())}
