"""BitNet as floats."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, IDS, SIZES, decoder, ropes, sizes


@st.composite
def _bitnet(draw: st.DrawFn) -> dict[str, Any]:
    """Heads are as wide together as the model, as its norm of them needs."""
    activations = st.one_of(st.just("relu2"), ACTIVATIONS)
    keys = draw(sizes(attention_bias=st.booleans(), hidden_act=activations))
    size = keys["hidden_size"] // keys["num_attention_heads"]
    keys |= {"head_dim": size, "rope_parameters": draw(ropes(size)), **IDS}
    if draw(st.booleans()):
        del keys["head_dim"]
    return keys


# The class has five heads of keys and values by default.
FIVES = {**SIZES, "hidden_size": 80, "num_attention_heads": 10}
ROWS = {"bitnet": decoder(transformers.BitNetConfig, transformers.BitNetForCausalLM, _bitnet(), FIVES)}
