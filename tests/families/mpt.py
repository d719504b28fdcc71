"""MPT."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st
from transformers.models.mpt.modeling_mpt import MptModel, build_mpt_alibi_tensor

from .kit import decoder


def _alibi(self: MptModel, num_heads: int, length: int, device: Any = None) -> torch.Tensor:
    """The bias with the config's alibi_bias_max, which transformers' own call leaves at 8."""
    return build_mpt_alibi_tensor(num_heads, length, self.config.attn_config.alibi_bias_max, device)


MptModel.build_mpt_alibi_tensor = _alibi


@st.composite
def _mpt(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 3, 4, 6]))
    return {
        "vocab_size": 61,
        "d_model": heads * draw(st.sampled_from([4, 8, 20])),
        "n_layers": draw(st.sampled_from([1, 2])),
        "n_heads": heads,
        "max_seq_len": draw(st.sampled_from([12, 64])),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
        "learned_pos_emb": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "attn_config": {
            "clip_qkv": draw(st.sampled_from([None, 0.0, 0.5])),
            "softmax_scale": draw(st.sampled_from([None, 0.7])),
            "alibi_bias_max": draw(st.sampled_from([3, 8, 16])),
        },
    }


ROWS = {
    "mpt": decoder(
        transformers.MptConfig,
        transformers.MptForCausalLM,
        _mpt(),
        {"vocab_size": 50, "d_model": 64, "n_layers": 2, "n_heads": 8},
    )
}
