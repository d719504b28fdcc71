"""Qwen4-Exp."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder
from .qwen2_vl import row
from .qwen3_next import EXPERTS, hybrid, text_keys
from .qwen3_vl import VISION

STREAMS: dict[str, st.SearchStrategy[Any]] = {
    **EXPERTS,
    "norm_topk_prob": st.booleans(),
    "hc_count": st.integers(2, 4),
    "hc_lowrank": st.sampled_from([5, 7]),
    "output_gate_type": st.sampled_from([None, "silu", "sigmoid"]),
}


@st.composite
def _more(draw: st.DrawFn, base: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Blocks of a few tokens, of which few are chosen or all; memories of n-grams in any recurrent layers.

    So many heads of the indexer that hardly any score has none above zero: of equal scores transformers takes
    any.
    """
    keys = dict(draw(base))
    layers = keys["num_hidden_layers"]
    if (types := keys.get("layer_types")) is None:
        every = keys["full_attention_interval"]
        types = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    size = draw(st.sampled_from([2, 3, 4]))
    keys |= {
        "indexer_n_heads": draw(st.sampled_from([17, 19])),
        "indexer_kv_heads": 1,
        "indexer_head_dim": keys["head_dim"] + draw(st.sampled_from([0, 2])),
        "indexer_budget": size * draw(st.sampled_from([1, 2, 9])),
        "indexer_compress_ratio": size,
    }
    recurrent = [i + 1 for i, kind in enumerate(types) if kind == "linear_attention"]
    before = draw(st.lists(st.sampled_from(recurrent), max_size=3)) if recurrent else []
    if not before:
        return keys
    longest, each = draw(st.sampled_from([2, 3, 4])), draw(st.sampled_from([1, 2]))
    return keys | {
        "ple_layer_ids": before,
        "ple_embed_dim": (longest - 1) * each * draw(st.sampled_from([3, 5])),
        "ple_conv_kernel_size": draw(st.sampled_from([2, 4])),
        "ngram_size": longest,
        "heads_per_ngram": each,
        "ngram_vocab_size_base": draw(st.sampled_from([3, 30])),
        "make_ngram_vocab_size_divisible_by": draw(st.sampled_from([1, 16])),
        "seed": draw(st.sampled_from([1234, 7])),
        "split_ngram_parts": draw(st.sampled_from([1, 2])),
        "eos_token_id": draw(st.sampled_from([2, [3, 4]])),
    }


LAYERS = {
    "layer_types": ["linear_attention", "full_attention"], "ple_layer_ids": [1], "eos_token_id": 2,
    "ngram_vocab_size_base": 30, "seed": 1234, "num_attention_heads": 16, "indexer_n_heads": 3,
    "indexer_kv_heads": 1, "indexer_head_dim": 256, "indexer_budget": 8, "indexer_compress_ratio": 2,
}  # fmt: skip
ROWS = {
    "qwen4_exp_text": decoder(
        transformers.Qwen4ExpTextConfig,
        transformers.Qwen4ExpForCausalLM,
        _more(hybrid(**STREAMS)),
        {**SIZES, **LAYERS},
        reads="Qwen4ExpText",
    ),
    "qwen4_exp": row(
        "Qwen4Exp",
        _more(text_keys(**STREAMS)),
        VISION,
        {**SIZES, **LAYERS},
        "Model",
        experts_implementation="eager",
    ),
}
