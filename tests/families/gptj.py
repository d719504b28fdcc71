"""GPT-J."""

from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from hypothesis import strategies as st
from transformers.models.gptj.modeling_gptj import GPTJRotaryEmbedding

from .kit import ACTIVATIONS, decoder


@st.composite
def gptj(draw: st.DrawFn) -> dict[str, Any]:
    heads, size = draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([4, 8, 20]))
    return {
        "vocab_size": 61,
        "n_embd": heads * size,
        "n_inner": draw(st.sampled_from([None, 7, 24])),
        "n_layer": draw(st.sampled_from([1, 3])),
        "n_head": heads,
        "n_positions": draw(st.sampled_from([12, 64])),
        "rotary_dim": draw(st.sampled_from([4, 2, size])),
        "activation_function": draw(ACTIVATIONS),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        "bos_token_id": 3,
        "eos_token_id": 4,
    }


def positions(kind: type[Any], model: Any) -> None:
    """Sines and cosines, whose frequencies transformers rounds to float32 in any type."""
    for module in model.modules():
        if isinstance(module, kind):
            count, dims = module.embed_positions.shape
            frequencies = 10_000.0 ** -(np.arange(0, dims, 2) / dims)
            angles = np.arange(count)[:, None] * frequencies
            table = torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], 1))
            module.embed_positions = table.to(next(model.parameters()).dtype)


ROWS = {
    "gptj": decoder(
        transformers.GPTJConfig,
        transformers.GPTJForCausalLM,
        gptj(),
        {"vocab_size": 50, "n_embd": 128, "n_layer": 2, "n_head": 2},
        amend=partial(positions, GPTJRotaryEmbedding),
    )
}
