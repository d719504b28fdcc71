"""Apertus."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes


@st.composite
def _apertus(draw: st.DrawFn) -> dict[str, Any]:
    """Its own activation mostly, and the scaling that a config needn't state in every fourth."""
    acts = st.sampled_from(["xielu", "xielu", "silu", "relu2"])
    keys = draw(sizes(attention_bias=st.booleans(), hidden_act=acts))
    return keys if draw(st.integers(0, 3)) else keys | {"rope_parameters": None}


def curves(model: Any) -> None:
    """Curves of xIELU from flat ones to steep ones."""
    for i, (name, alpha) in enumerate(model.named_parameters()):
        if name.endswith((".alpha_p", ".alpha_n")):
            alpha.fill_((i % 7 - 3) / 2)


ROWS = {
    "apertus": decoder(transformers.ApertusConfig, transformers.ApertusForCausalLM, _apertus(), amend=curves)
}
