"""wav2vec 2.0: norms before the sums and behind them, of the first convolution and of each."""

from typing import Any

import numpy as np
import torch
import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, Row

# A vector of every 6 samples or so.
CONVOLUTIONS: list[dict[str, Any]] = [
    {"conv_dim": [8, 12], "conv_kernel": [5, 3], "conv_stride": [3, 2]},
    {"conv_dim": [6, 5, 7], "conv_kernel": [4, 3, 1], "conv_stride": [3, 2, 1]},
    {"conv_dim": [9], "conv_kernel": [10], "conv_stride": [5]},
]
SIZES = {
    **CONVOLUTIONS[0],
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
}


@st.composite
def keys(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    heads, groups = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 4]))
    return {
        **draw(st.sampled_from(CONVOLUTIONS)),
        "vocab_size": 61,
        "hidden_size": heads * groups * draw(st.sampled_from([2, 5, 16])),
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": heads,
        "hidden_act": draw(ACTIVATIONS),
        "layer_norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
        "feat_extract_norm": draw(st.sampled_from(["group", "layer"])),
        "feat_extract_activation": draw(st.sampled_from(["gelu", "relu", "gelu_new"])),
        "conv_bias": draw(st.booleans()),
        "num_conv_pos_embeddings": draw(st.sampled_from([3, 4, 16])),
        "num_conv_pos_embedding_groups": groups,
        "do_stable_layer_norm": draw(st.booleans()),
        **{key: draw(strategy) for key, strategy in more.items()},
    }


def rounded(model: Any) -> None:
    """The weight that lengths and directions make, in float32, as it is read."""
    convolution = model.base_model.encoder.pos_conv_embed.conv
    if convolution.weight.element_size() == 8:  # its dtype may say otherwise
        weight = torch.from_numpy(convolution.weight.numpy().astype(np.float32))
        torch.nn.utils.parametrize.remove_parametrizations(convolution, "weight")
        convolution.weight.copy_(weight)


ROWS = {
    "wav2vec2": Row(transformers.Wav2Vec2Config, (transformers.Wav2Vec2ForCTC,), keys(), SIZES, amend=rounded)
}
