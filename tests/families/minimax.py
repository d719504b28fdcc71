"""MiniMax-Text-01."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

from .kit import decoder, sizes
from .mixtral import EAGER

FACTORS = ("full_attn", "linear_attn", "mlp")


@st.composite
def _minimax(draw: st.DrawFn) -> dict[str, Any]:
    """Both kinds of attention in any order, and factors of each sum."""
    layers = draw(st.integers(1, 4))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            num_local_experts=st.sampled_from([3, 4]),
            num_experts_per_tok=st.integers(1, 2),
            sliding_window=st.sampled_from([None, 1, 3, 64]),
            block_size=st.sampled_from([256, 5]),
            experts_implementation=EAGER,
            **{f"{name}_alpha_factor": st.sampled_from([1.0, 3.5]) for name in FACTORS},
            **{f"{name}_beta_factor": st.sampled_from([1.0, 0.5]) for name in FACTORS},
        )
    )
    kinds = st.sampled_from(["linear_attention", "full_attention"])
    return keys | {"layer_types": draw(st.none() | st.lists(kinds, min_size=layers, max_size=layers))}


def amend(model: Any) -> None:
    """Set the rates of decay in the model's type; transformers makes them in float32."""
    for layer in model.modules():
        if isinstance(layer, MiniMaxLightningAttention):
            heads, like = layer.num_attention_heads, next(model.parameters())
            slopes = 2.0 ** (-8 / heads * (torch.arange(heads, dtype=torch.float64) + 1))
            factor = 1 - layer.layer_idx / (layer.num_hidden_layers - 1 + 1e-5) + 1e-5
            layer.slope_rate = (slopes * factor)[:, None, None].to(like.dtype)
            decays = layer.decay_factors(layer.slope_rate)
            layer.query_decay, layer.key_decay, layer.diagonal_decay = (d.to(like.dtype) for d in decays)


ROWS = {
    "minimax": decoder(transformers.MiniMaxConfig, transformers.MiniMaxForCausalLM, _minimax(), amend=amend)
}
