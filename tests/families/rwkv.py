"""RWKV-4."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st
from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention

from .kit import IDS, decoder


@st.composite
def _rwkv(draw: st.DrawFn) -> dict[str, Any]:
    """Channels as many as the width says or as a key does; a stream that is halved often, seldom or never."""
    keys: dict[str, Any] = {
        **IDS,
        "vocab_size": 61,
        "hidden_size": draw(st.sampled_from([10, 20, 36])),
        "num_hidden_layers": draw(st.sampled_from([1, 2, 3, 5])),
        "layer_norm_epsilon": draw(st.sampled_from([1e-6, 1e-2])),
        "rescale_every": draw(st.sampled_from([6, 1, 2, 0, -1])),
        "context_length": draw(st.sampled_from([128, 64])),
        "tie_word_embeddings": draw(st.booleans()),
    }
    inner = {"attention_hidden_size": [23, 7], "intermediate_size": [13, 50]}
    return keys | {key: draw(st.sampled_from([None, *sizes])) for key, sizes in inner.items()}


def _exact(model: Any) -> None:
    """Rates of decay from 0.02 to 7.4 a token: all drawn alike, channels would forget at once."""
    for part in model.modules():
        if isinstance(part, RwkvSelfAttention):
            part.time_decay.copy_(torch.arange(len(part.time_decay)) % 7 - 4.0)


SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
ROWS = {
    "rwkv": decoder(
        transformers.RwkvConfig, transformers.RwkvForCausalLM, _rwkv(), SIZES, amend=_exact,
    )
}  # fmt: skip
