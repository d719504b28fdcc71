"""Zamba 2."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, CONTEXT, decoder, ropes


@st.composite
def _zamba2(draw: st.DrawFn) -> dict[str, Any]:
    """Hybrid layers anywhere, more or fewer than blocks; heads that together are as wide as [x, e] or not."""
    kinds = st.sampled_from(["linear_attention", "hybrid", "hybrid"])
    heads, size = draw(st.sampled_from([1, 2, 3])) * 2, draw(st.sampled_from([4, 6, 8]))
    width, groups = heads * size // 2, draw(st.sampled_from([1, 2]))
    adapted, expand = draw(st.booleans()), draw(st.sampled_from([1, 2]))
    share = draw(st.sampled_from([n for n in (1, 2, 3) if width * expand % (groups * n) == 0]))
    return {
        "layers_block_type": (layers := draw(st.lists(kinds, min_size=1, max_size=5))),
        "num_hidden_layers": len(layers),
        "vocab_size": 61,
        "hidden_size": width,
        "intermediate_size": draw(st.sampled_from([7, 30])),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if adapted else draw(st.sampled_from([heads, heads // 2])),
        "max_position_embeddings": CONTEXT,
        "mamba_d_state": draw(st.sampled_from([5, 8])),
        "mamba_d_conv": draw(st.integers(2, 4)),
        "mamba_expand": expand,
        "mamba_ngroups": groups,
        "n_mamba_heads": groups * share,
        "add_bias_linear": draw(st.booleans()),
        "hidden_act": draw(ACTIVATIONS),
        "num_mem_blocks": draw(st.integers(1, 3)),
        "use_shared_attention_adapter": adapted,
        "adapter_rank": draw(st.sampled_from([1, 3])),
        "use_mem_rope": draw(st.booleans()),
        "rope_parameters": draw(ropes(size)),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
        "chunk_size": draw(st.sampled_from([3, 64])),
        "tie_word_embeddings": draw(st.booleans()),
        # A least length of steps, which transformers has only where it reads a text.
        "time_step_min": 1e-30,
    }


def _exact(model: Any) -> None:
    """Round maps of shared blocks and the factors of their updates, so that float32 has their sums."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_adapter_list." in name:
                weight.copy_((weight * 2**6).round() / 2**6)
            elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_up_proj.weight")):
                weight.copy_((weight * 2**12).round() / 2**12)


SIZES = {
    "layers_block_type": ["hybrid", "linear_attention", "hybrid"],
    "num_hidden_layers": 3,
    "vocab_size": 50,
    "hidden_size": 32,
}
ROWS = {
    "zamba2": decoder(
        transformers.Zamba2Config,
        transformers.Zamba2ForCausalLM,
        _zamba2(),
        SIZES,
        amend=_exact,
    )
}
