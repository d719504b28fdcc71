"""RecurrentGemma."""

from typing import Any

import numpy as np
import transformers
from hypothesis import strategies as st
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

from .kit import decoder, of_whole_heads

KINDS = st.sampled_from(["recurrent", "attention"])


@st.composite
def _recurrent_gemma(draw: st.DrawFn) -> dict[str, Any]:
    """Blocks in any order, fewer or more than layers; units of another width than the model's."""
    keys = draw(
        of_whole_heads(
            "hidden_size", "num_attention_heads", (1, 2, 3, 6), (4, 8, 20),
            intermediate_size=[14, 25],
            num_hidden_layers=[1, 2, 4],
            attention_window_size=[1, 3, 5, 64],
            conv1d_width=[2, 3, 4],
            logits_soft_cap=[0.7, 30.0],
            rms_norm_eps=[1e-6, 1e-2],
            hidden_activation=["silu", "gelu", "gelu_pytorch_tanh", "relu"],
            block_types=st.lists(KINDS, min_size=1, max_size=5),
            attention_bias=st.booleans(),
            tie_word_embeddings=st.booleans(),
        )
    )  # fmt: skip
    heads = keys["num_attention_heads"]
    partial = draw(st.sampled_from([0.5, 1.0]))
    theta = draw(st.sampled_from([100.0, 10_000.0]))
    keys["rope_parameters"] = {
        "rope_type": "default", "rope_theta": theta, "partial_rotary_factor": partial,
    }  # fmt: skip
    return keys | {
        "num_key_value_heads": draw(st.sampled_from([None, *(n for n in (1, 2, 3) if heads % n == 0)])),
        "lru_width": draw(st.sampled_from([None, heads * 5, heads * 8])),
    }


def _exact(model: Any) -> None:
    """Round the embeddings' factor to bfloat16 as transformers does, which the mode of float64 undoes.

    transformers computes 1 - a² as it stands, which has no digit right where a is almost 1: by up to 1e-8 its
    root is wrong. So a is kept from 1; `laws.rg_lru` has that case.
    """
    for part in model.modules():
        if isinstance(part, RecurrentGemmaRglru):
            part.recurrent_gate_weight.clamp_(-1 / 16, 1 / 16)
        if isinstance(part, transformers.RecurrentGemmaModel):
            bits = int(np.float32(part.config.hidden_size**0.5).view(np.uint32))
            rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
            part.normalizer.fill_(float(np.uint32(rounded).view(np.float32)))


ROWS = {
    "recurrent_gemma": decoder(
        transformers.RecurrentGemmaConfig, transformers.RecurrentGemmaForCausalLM, _recurrent_gemma(),
        {"hidden_size": 64, "num_attention_heads": 8},
        amend=_exact,
    )
}  # fmt: skip
