"""MiniMax-M3."""

import json
from pathlib import Path
from typing import Any

import transformers
from hypothesis import strategies as st

from .glm4_moe import choice_biases
from .kit import SIZES, Row, decoder, per_layer, ropes, sizes, wrapped
from .llava import TOWER
from .mixtral import EAGER

TEXT_SIZES = {**SIZES, "rotary_dim": 128, "layer_types": ["full_attention", "minimax_m3_sparse"]}


@st.composite
def _text(draw: st.DrawFn) -> dict[str, Any]:
    """Both kinds of layers and of mlps in any order, and indexers of other sizes than attention."""
    layers, dims = draw(st.integers(1, 3)), draw(st.sampled_from([4, 6]))
    topk = draw(st.integers(1, 3))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            hidden_act=st.sampled_from(["silu", "swigluoai"]),
            head_dim=st.sampled_from([12, 24]),
            dense_intermediate_size=st.sampled_from([5, 9]),
            shared_intermediate_size=st.sampled_from([3, 11]),
            num_local_experts=st.integers(3, 5),
            num_experts_per_tok=st.integers(1, 3),
            routed_scaling_factor=st.sampled_from([1.0, 2.5]),
            swiglu_alpha=st.sampled_from([1.702, 0.9]),
            swiglu_limit=st.sampled_from([7.0, 0.5]),
            layer_types=per_layer(layers, "minimax_m3_sparse", "minimax_m3_sparse", "full_attention"),
            mlp_layer_types=per_layer(layers, "dense", "sparse") | st.none(),
            index_head_dim=st.sampled_from([dims, 14]),
            index_block_size=st.sampled_from([1, 2, 3, 5]),
            index_topk_blocks=st.just(topk),
            index_local_blocks=st.integers(0, topk),
            bos_token_id=st.just(1),
            eos_token_id=st.just(2),
            rope_parameters=ropes(dims),
        )
    )
    rope = keys["rope_parameters"] | {"partial_rotary_factor": (dims + 0.5) / keys["head_dim"]}
    return keys | {
        "index_n_heads": keys["num_key_value_heads"], "rotary_dim": dims, "rope_parameters": rope,
    }  # fmt: skip


def as_published(folder: Path) -> None:
    """config.json with the names of MiniMax, if its first layer has an indexer."""
    path = folder / "config.json"
    keys = json.loads(path.read_text())
    text = keys["text_config"]
    if text["layer_types"][0] == "full_attention":
        return
    text["moe_layer_freq"] = [int(kind == "sparse") for kind in text.pop("mlp_layer_types")]
    marks = [int(kind != "full_attention") for kind in text.pop("layer_types")]
    text["sparse_attention_config"] = {
        "use_sparse_attention": True, "sparse_score_type": "max", "sparse_init_block": 0,
        "sparse_attention_freq": marks, "sparse_disable_index_value": marks,
        "sparse_num_index_heads": text.pop("index_n_heads"),
        "sparse_index_dim": text.pop("index_head_dim"),
        "sparse_block_size": text.pop("index_block_size"),
        "sparse_topk_blocks": text.pop("index_topk_blocks"),
        "sparse_local_block": text.pop("index_local_blocks"),
    }  # fmt: skip
    path.write_text(json.dumps(keys))


ROWS = {
    "minimax_m3_vl": Row(
        transformers.MiniMaxM3VLConfig,
        (transformers.MiniMaxM3SparseForConditionalGeneration, transformers.MiniMaxM3VLModel),
        wrapped(_text(), TOWER, projector_hidden_size=6, experts_implementation="eager"),
        {"text_config": TEXT_SIZES, "vision_config": TOWER},
        amend=choice_biases,
        restate=as_published,
    ),
    "minimax_m3_vl_text": decoder(
        transformers.MiniMaxM3VLTextConfig,
        transformers.MiniMaxM3VLForCausalLM,
        st.builds(lambda keys, eager: keys | {"experts_implementation": eager}, _text(), EAGER),
        TEXT_SIZES,
        reads="MiniMaxM3VLText",
        amend=choice_biases,
    ),
}
