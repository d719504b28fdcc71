"""Gemma 4."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .gemma2 import CAPS
from .kit import SIZES, Row, ropes, sizes, wrapped

KINDS = "default linear dynamic yarn llama3"  # transformers refuses longrope where heads differ by layer


@st.composite
def proportional(draw: st.DrawFn) -> dict[str, Any]:
    """A part of the pairs, of heads of four numbers at least one."""
    keys = {"rope_type": "proportional", "rope_theta": draw(st.sampled_from([100.0, 1e6]))}
    keys |= draw(st.sampled_from([{}, {"factor": 2.0}]))
    return keys | draw(st.sampled_from([{}, {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.8}]))


@st.composite
def text_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Any layer but the last may have a window; heads of the others have their own size and number."""
    layers = draw(st.sampled_from([3, 1, 2, 4]))
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            hidden_activation=st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"]),
            final_logit_softcapping=CAPS,
            sliding_window=st.sampled_from([1, 3, 5, 64]),
            layer_types=st.none() | st.lists(kinds, min_size=layers, max_size=layers),
            attention_bias=st.booleans(),
            global_head_dim=st.sampled_from([4, 6, 16, 32]),
            attention_k_eq_v=st.booleans(),
            use_bidirectional_attention=st.sampled_from([None, "vision"]),
            hidden_size_per_layer_input=st.sampled_from([3, 8, 0]),
            vocab_size_per_layer_input=st.sampled_from([61, 70]),
            use_double_wide_mlp=st.booleans(),
        )
    )
    del keys["hidden_act"]
    heads = keys["num_attention_heads"]
    fitting = [n for n in range(1, heads + 1) if heads % n == 0]
    keys["num_global_key_value_heads"] = draw(st.sampled_from([None, *fitting]))
    full = st.one_of(proportional(), proportional(), ropes(keys["global_head_dim"], KINDS))
    by_type = {"full_attention": draw(full), "sliding_attention": draw(ropes(keys["head_dim"], KINDS))}
    # transformers reads `truncate` beside the types of layers only.
    keys["rope_parameters"] = {
        kind: {n: v for n, v in rope.items() if n != "truncate"} for kind, rope in by_type.items()
    }
    types = [*(keys["layer_types"] or ["sliding_attention"] * layers)[:-1], "full_attention"]
    counts = [n for n in reversed(range(layers)) if set(types[: layers - n]) == set(types)]
    # Where layers share keys and values, transformers can't do without vectors for each layer.
    may_share = counts if keys["hidden_size_per_layer_input"] else [0]
    keys["num_kv_shared_layers"] = draw(st.sampled_from(may_share))
    if draw(st.booleans()):
        experts = draw(st.integers(1, 4))
        keys |= {"enable_moe_block": True, "num_experts": experts, "moe_intermediate_size": 5}
        keys["top_k_experts"] = draw(st.integers(1, experts))
    return keys


EAGER = {"experts_implementation": "eager"}  # transformers' usual one has no float64


def amend(model: Any) -> None:
    """The layers' numbers are buffers, which aren't drawn."""
    for i, layer in enumerate(model.get_decoder().layers):
        layer.layer_scalar.copy_(torch.tensor([0.75 + 0.125 * i]))


TOWER: dict[str, Any] = {
    "model_type": "gemma4_vision", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "patch_size": 2,
    "position_embedding_size": 8,
}  # fmt: skip
ROWS = {
    "gemma4_text": Row(
        transformers.Gemma4TextConfig,
        (transformers.Gemma4ForCausalLM, transformers.Gemma4TextModel),
        text_keys().map(lambda keys: keys | EAGER),
        amend=amend,
    ),
    "gemma4": Row(
        transformers.Gemma4Config,
        (transformers.Gemma4ForConditionalGeneration, transformers.Gemma4Model),
        wrapped(text_keys(), TOWER, **EAGER),
        {"text_config": SIZES, "vision_config": TOWER},
        amend=amend,
    ),
}
