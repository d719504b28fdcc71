"""The choices that declarations leave open: values of settings, which parameters occur together, and which
weights are present.

A new static setting gets its values from one line in `SETTINGS`. Settings of type `bool` or `Literal` need
no line. Settings that are a dataclass of the Config get an entry in `DRAWN`. A letter as a value means the
random size of this axis letter in a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ...components import mixers
from ...config import (
    ONE_GROUP,
    XIELU,
    Activation,
    Alibi,
    AltUp,
    Attention,
    ExpertGroups,
    FullAttention,
    HeadNorm,
    LayerNorm,
    MoE,
    Position,
    QueryScale,
    RMSNorm,
    Rope,
    SparseMixer,
    SwiGLUOAI,
    SwiGLUStep,
    Window,
)
from ...ops.pooled_attention import PooledAttention

SETTINGS: dict[str, tuple[Any, ...]] = {
    "eps": (1e-5, 0.1),
    "norm_eps": (1e-6, 0.1),
    "clip": (None, 0.5),
    "jitter": (0.01, 0.125),
    "window": (None, 1, 3),
    "later": (None, 1, 2),
    "scale": (None, 0.7),
    "softcap": (None, 2.0),
    "theta": (10_000.0, 50.0),
    "factor": (8.0,),
    "low_freq_factor": (1.0,),
    "high_freq_factor": (4.0, 1.0),
    "original_context": (16,),
    "context": (8, 16, 40),
    "beta": (0.1, 1.0),
    "beta_fast": (32.0, 2.0),
    "beta_slow": (1.0, 0.5),
    "magnitude": (1.0, 1.25),
    "max_bias": (8.0, 4.0),
    "buckets": (8, 32),
    "max_distance": (20, 128),
    "offset": (0, 2),
    "sinks": (0, 2),
    "head_size": ("K",),
    "top": ("I",),
    "capacity": (None, 70, 125),
    "alpha": (1.702, 1.0),
    "limit": (7.0, 0.5),
    "bits": (8, 4),
    "block": (4, 16),
    "axis": (0, 1),
    "tile": (2, 7),
    "chunk": (2, 7),
    "band": ((1, 0), (3, 0), (3, 2), (1, 2)),
    "reach": (1, 2),
    "first": (1, 2),
    "span": (2, 8),
    "log_until": (None, 20),
    "neighbours": ("A",),
    "sum_eps": (None, 0.1),
    "separator": (0, 1),
    "gate_scale": (None, 0.7),
    "turned": (1, 2),
    "topk": (1, 3),
    "block_size": (1, 2),
    "random_blocks": (0, 1),
    "share": (0.5, 0.95),
    "sparsity": (None, 0.7),
    "hop": ("A",),
    "stride": ("X",),
    "streams": ("X",),
    "groups": ("G",),
    "least": (1e-10, 0.1),
    "local": (0, 1),
}
# Lists whose length no array may say, and the letter of a size that it follows from.
LISTED = {"streams": "X"}
# Values of settings that are a class of the Config and stand among others, as an activation does.
CLASSES: dict[type, tuple[Any, ...]] = {
    SwiGLUOAI: (SwiGLUOAI(), SwiGLUOAI(1.0, 0.5)),
    SwiGLUStep: (SwiGLUStep(0.5),),
    XIELU: (XIELU(),),
}


@dataclass(frozen=True)
class Drawn:
    """How to make random settings of a dataclass: the possible values of each choice, and a function from
    choices to settings.

    `make` also gets the choices of all parameters, since settings must match the arrays. For example,
    settings include a norm of queries if the norm's weight is among the arrays. A choice is fixed by its
    name, as in `check(..., softcap=None)`.
    """

    choices: Mapping[str, tuple[Any, ...]]
    make: Callable[[Mapping[str, Any], Mapping[str, int]], Any]
    letters: str = ""  # sizes that no array has


def _attention(chosen: Mapping[str, Any], size: Mapping[str, int]) -> Attention:
    position: Position | None = None
    if chosen.get("rotary") is not None:
        position = Rope(10_000.0, 2 * size["J"], interleaved=chosen["interleaved"])
    elif chosen.get("bias") is not None:
        position = Alibi()
    norm = None
    if (weight := chosen.get("q_norm", chosen.get("k_norm"))) is not None:
        kind = RMSNorm(chosen["norm_eps"])
        if chosen["norm_kind"] == "layer":
            kind = LayerNorm(chosen["norm_eps"], bias=False)
        over: Mapping[Any, Literal["head", "each", "all"]] = {
            ("K",): "head", ("H", "K"): "each", ("H*K",): "all", ("G", "K"): "each", ("G*K",): "all",
        }  # fmt: skip
        rotated = chosen["norm_rotated"] and isinstance(position, Rope)
        norm = HeadNorm(kind, over[weight.dims], rotated)
    elif chosen["bare_norm"] and isinstance(position, Rope) and "q_norm" in chosen:
        norm = HeadNorm(RMSNorm(chosen["norm_eps"]), rotated=True, weight=False)
    return Attention(
        heads=size.get("H", size["G"]),
        kv_heads=size["G"],
        head_size=size["K"],
        position=position,
        mask=FullAttention() if chosen["window"] is None else Window(chosen["window"]),
        qkv_bias=chosen.get("bq") is not None,
        out_bias=chosen.get("bo") is not None,
        qk_norm=norm,
        scale=chosen["scale"],
        softcap=chosen["softcap"],
        clip=chosen["clip"],
        query_scale=chosen["query_scale"],
        kv="float" if chosen.get("k_scale") is None else "int8" if size["K"] % 4 else "int4",
        sink_logits=chosen.get("sink_logits") is not None,
        output_gate=chosen.get("wg") is not None,
        value_norm=chosen["value_norm"],
        head_gate=chosen.get("w_head_gate") is not None,
        out_norm=None if chosen.get("out_norm") is None else RMSNorm(chosen["out_eps"]),
        softplus_gate=chosen["softplus_gate"],
        value_scale=chosen["value_scale"],
        keys_as_values="wv" in chosen and chosen["wv"] is None,
    )


def _pooled(chosen: Mapping[str, Any], size: Mapping[str, int]) -> PooledAttention:
    """Return attention to chosen blocks over the kinds of attention that it may have inside."""
    plain = dict.fromkeys(("window", "softcap", "sink_logits"))
    return PooledAttention(
        _attention({**chosen, **plain}, size),
        size["X"],
        size["W"] + 2 * size["J"],
        chosen["block_size"],
        chosen["blocks"],
        chosen["norm_eps"],
    )


def _groups(chosen: Mapping[str, Any], size: Mapping[str, int]) -> ExpertGroups:
    """Return two groups if the number of experts is even, otherwise one group for each expert. As few
    groups as possible are chosen.
    """
    if chosen["groups"] not in ("max", "top2"):
        return ONE_GROUP
    count = 2 if size["E"] % 2 == 0 else size["E"]
    return ExpertGroups(count, -(-size["I"] * count // size["E"]), chosen["groups"])


def _mixture(chosen: Mapping[str, Any], size: Mapping[str, int]) -> MoE:
    return MoE(
        experts=size["E"],
        top=size["I"],
        width=size["F"],
        activation=chosen["activation"],
        score=chosen["score"],
        renormalize=chosen["renormalize"],
        scale=chosen["scale"],
        choice_bias=chosen["bias"] is not None,
        router_bias=chosen["router_bias"] is not None,
        expert_bias=chosen["bup"] is not None,
        shared=None if chosen["shared"] is None else size["F"],
        shared_gate=chosen["shared_gate"] is not None,
        groups=_groups(chosen, size),
        weighs=chosen["weighs"],
        sum_eps=chosen["sum_eps"],
        own_norms=None if chosen["router_norm"] is None else RMSNorm(0.1),
        expert_scale=chosen["expert_scale"] is not None,
        gated=chosen["gate"] is not None,
        latent=None if chosen["latent_down"] is None else size["C"],
        shared_bias=chosen["bup"] is not None,
    )


ATTENTION: dict[str, tuple[Any, ...]] = {
    "window": SETTINGS["window"],
    "scale": SETTINGS["scale"],
    "softcap": SETTINGS["softcap"],
    "clip": SETTINGS["clip"],
    "interleaved": (False, True),
    "norm_kind": ("rms", "layer"),
    "norm_rotated": (False, True),
    "bare_norm": (False, True),
    "query_scale": (None, QueryScale(0.5, 2), QueryScale(0.5, 3, offset=1)),
    "norm_eps": SETTINGS["norm_eps"],
    "value_norm": (None, RMSNorm(0.1)),
    # Where all look at a sink, what heads give is as small as rounding, which a small eps would show.
    "out_eps": (0.1, 1.0),
    "softplus_gate": (False, True),
    "value_scale": SETTINGS["scale"],
}
DRAWN: dict[type, Drawn] = {
    **{kind: Drawn(kind.choices, kind.drawn) for kind in mixers() if "drawn" in vars(kind)},
    Attention: Drawn(ATTENTION, _attention),
    PooledAttention: Drawn({**ATTENTION, "blocks": (1, 2), "block_size": (1, 2)}, _pooled),
    MoE: Drawn(
        {
            "activation": (*get_args(Activation), *CLASSES[SwiGLUOAI], *CLASSES[SwiGLUStep]),
            "score": ("softmax", "sigmoid", SparseMixer(0.125)),
            "renormalize": (False, True),
            "scale": SETTINGS["scale"],
            # Sums of sigmoids of large logits differ by their rounding alone, so `route` has those.
            "groups": (None, "max"),
            "weighs": ("output", "input"),
            "sum_eps": SETTINGS["sum_eps"],
        },
        _mixture,
        letters="I",
    ),
    AltUp: Drawn(
        {"eps": SETTINGS["eps"], "last": (False, True)},
        lambda chosen, size: AltUp(size["X"], size["X"] - 1 if chosen["last"] else 0, RMSNorm(chosen["eps"])),
    ),
    ExpertGroups: Drawn({"groups": (None, "max", "top2")}, _groups),
}
# Optional parameters that are there with settings of a class, and only with these.
ONLY_WITH: dict[str, tuple[str, type]] = {"alpha_p": ("kind", XIELU), "alpha_n": ("kind", XIELU)}
# Parameters that are there together with another one, or not at all.
TOGETHER = {
    "k_norm": "q_norm",
    "v_scale": "k_scale",
    "bk": "bq",
    "bv": "bq",
    "c0": "h0",
    "wq": "wq_a",
    **dict.fromkeys(("experts_pre", "experts_post", "shared_pre", "shared_post"), "router_norm"),
    "latent_up": "latent_down",
    "global_norm": "far",
    **{leaf: other for kind in mixers() for leaf, other in kind.together.items()},
}
# Parameters that may be there or not, but not without another one.
NEEDS = {
    "chosen": "rotary",
    "wq_index": "rotary",
    "bgate": "gate",
    "latent_bdown": "latent_down",
    "latent_bup": "latent_down",
}
# Parameters that are never there with another one.
NOT_WITH = {
    "router_norm": "latent_down",
    "wq_index": "chosen",
    **dict.fromkeys(("wg", "w_head_gate"), "out_norm"),
}
# Blocks that are drawn: (bits, has zero points, has minima, activations, has static codes of 16 bits, for
# outputs too). In a function with several products, or with one of `NORMED`, only `PASSIVE` is drawn: one
# activation code flipped by an ulp would hide all else.
Activations = Literal["none", "block", "row", "smoothed", "static"]
SCHEMES: dict[str, tuple[int, bool, bool, Activations, bool]] = {
    "8": (8, False, False, "block", False),
    "4 zero": (4, True, False, "block", False),
    "4 minimum": (4, False, True, "block", False),
    "8 row": (8, False, False, "row", False),
    "8 smoothed": (8, False, False, "smoothed", False),
    "8 static": (8, False, False, "static", False),
    "8 plain": (8, True, False, "none", False),
    "4 plain minimum": (4, True, True, "none", False),
    "8 static 16": (8, False, False, "static", True),
}
PASSIVE = "4 plain minimum"
NORMED = frozenset({"mtp_input"})  # functions with one product, whose input is rounded before
BLOCK = 4
# Axes that may be empty.
EMPTY = frozenset("OUP")
# Functions whose kernels approximate, see `budget.APPROXIMATE`.
ACTIVATIONS = frozenset({"sigmoid", "silu", "gelu", "gelu_tanh", "quick_gelu", "mish", "activation", "xielu"})
ATTENTIONS = frozenset(
    {"attention", "self_attention", "shared_attention", "latent_attention", "latent_self_attention"}
)  # with a gate of the output
MLPS = frozenset({"plain_mlp", "gated_mlp", "mixture", "moe", "per_layer_update"})
GATES = {kind.__module__.rpartition(".")[2]: kind.gates for kind in mixers() if kind.gates}
LARGEST = {leaf: most for kind in mixers() for leaf, most in kind.largest.items()}
GATED = frozenset(
    {"bidirectional_lstm", "lstm", "lstm_cell", "mixture_of_streams", "stream_openings", *GATES}
)
# Ops that have no laws of their own: parts of the ops beside them, whose laws hold them too.
INNER = frozenset(
    {
        "attention.from_heads", "attention.heads", "attention.project", "encoder.layer_kv", "head.head_dense",
        "head.lm_logits", "hyper_connections.enter_copies", "hyper_connections.join_streams",
        "latent_attention.chosen_latents", "linear_attention.linear_attention",
        "longt5.near_and_far", "longt5.sums_of_blocks", "lstm.lstm_layer", "mask.seen_by", "mlp.glu",
        "mlp.hidden_units", "moe.expert_mlp", "norm.normalize", "quant.blocks_of_products",
        "short_conv.begun", "short_conv.last_inputs",
    }
)  # fmt: skip
# Functions of a whole model or layer: their arguments depend on a Config, so tests/export/ops draws those.
HAND = frozenset(
    {
        "block.block", "block.encoder_block",
        "encoder.encode", "encoder.encoder_kv", "encoder.pooled_lengths", "encoder.predict",
        "encoder.reader_tokens",
        "moonshine_stem.moonshine_stem",
        "model.distance_biases", "model.distance_table", "model.embed", "model.layer_vectors",
        "model.model", "model.model_with_hidden", "model.mtp_model", "model.score_biases",
        "ngram_memory.ngram_memory", "ngram_memory.ngram_rows",
        "position_tables.position_tables", "shared_block.shared_block",
        "wave_stem.conv_positions", "wave_stem.wave_stem",
    }
)  # fmt: skip
