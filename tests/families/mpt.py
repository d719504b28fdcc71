"""MPT."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st
from transformers.models.mpt.modeling_mpt import MptModel, build_mpt_alibi_tensor

from .kit import decoder, of_whole_heads


def _alibi(self: MptModel, num_heads: int, length: int, device: Any = None) -> torch.Tensor:
    """The bias with the config's alibi_bias_max, which transformers' own call leaves at 8."""
    return build_mpt_alibi_tensor(num_heads, length, self.config.attn_config.alibi_bias_max, device)


MptModel.build_mpt_alibi_tensor = _alibi


ROWS = {
    "mpt": decoder(
        transformers.MptConfig,
        transformers.MptForCausalLM,
        of_whole_heads(
            "d_model",
            "n_heads",
            [1, 3, 4, 6],
            n_layers=[1, 2],
            max_seq_len=[12, 64],
            layer_norm_epsilon=[1e-5, 1e-2],
            learned_pos_emb=st.booleans(),
            tie_word_embeddings=st.booleans(),
            attn_config=st.fixed_dictionaries(
                {
                    "clip_qkv": st.sampled_from([None, 0.0, 0.5]),
                    "softmax_scale": st.sampled_from([None, 0.7]),
                    "alibi_bias_max": st.sampled_from([3, 8, 16]),
                }
            ),
        ),
        {"vocab_size": 50, "d_model": 64, "n_layers": 2, "n_heads": 8},
    )
}
