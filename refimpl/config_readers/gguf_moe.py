"""Mixtures of experts in GGUF: counts in the metadata, all experts of a layer in one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from ..config import Decoder, ExpertGroups, Gated, MoE
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from .decoder import sigmoid_experts, with_experts
from .keys import Keys

SOFTMAX, SIGMOID = 1, 2  # llama.cpp's numbers


def with_gguf_experts(
    base: Decoder,
    keys: Keys,
    source: TensorSource,
    width: Callable[[int, int], int],
    *,
    renormalize: bool,
    shared: bool = False,
) -> Decoder:
    """The decoder with experts in each layer that has a router.

    Where the metadata don't state the experts' width, `width` computes it from the dense width and the number
    of chosen experts. `renormalize` says what llama.cpp does with the weights in this architecture.
    """
    if keys.get("expert_weights_norm", bool, renormalize) != renormalize:
        raise keys.fail("expert_weights_norm", f"{str(renormalize).lower()}, as llama.cpp runs it")
    dense, top = base.layers[0].mlp, keys.size("expert_used_count")
    assert isinstance(dense, Gated)
    mixture = MoE(
        keys.size("expert_count"),
        top,
        keys.size("expert_feed_forward_length", None) or width(dense.width, top),
        dense.activation,
        renormalize=renormalize,
        shared=keys.size("expert_shared_feed_forward_length", dense.width) if shared else None,
        shared_gate=shared,
        pre=dense.pre,
    )

    names = set(source.names)
    layers = tuple(
        replace(layer, mlp=mixture) if f"blk.{i}.ffn_gate_inp.weight" in names else layer
        for i, layer in enumerate(base.layers)
    )
    return replace(base, stack=replace(base.stack, layers=layers))


def with_gguf_sigmoid_experts(
    base: Decoder,
    keys: Keys,
    *,
    renormalize: bool | None = None,
    softmax: bool = False,
    softmax_by: Literal["max", "top2"] = "max",
) -> Decoder:
    """The decoder with experts chosen by sigmoids and biases after its leading dense layers.

    The shared experts are one, as wide as all of them. `renormalize` says what llama.cpp does with the
    weights in an architecture for which no key does. With `softmax` they may be chosen by a softmax, without
    biases, as where no key says how (DeepSeek-V2), and groups then count by `softmax_by`.
    """
    allowed = {SIGMOID: "a sigmoid"} | ({SOFTMAX: "a softmax"} if softmax else {})
    gating = keys.get("expert_gating_func", int, *((SOFTMAX,) if softmax else ()))
    if gating not in allowed:
        raise keys.fail("expert_gating_func", " or ".join(f"{n}, {kind}" for n, kind in allowed.items()))
    mixture = partial(
        sigmoid_experts,
        experts=keys.size("expert_count"),
        top=keys.size("expert_used_count"),
        width=keys.size("expert_feed_forward_length"),
        renormalize=keys.get("expert_weights_norm", bool, False) if renormalize is None else renormalize,
        scale=keys.positive("expert_weights_scale", 1.0),
        shared=keys.get("expert_shared_count", int, 0),
        groups=ExpertGroups(keys.size("expert_group_count", 1), keys.size("expert_group_used_count", 1)),
    )

    def scored(mlp: Gated) -> MoE:
        m = mixture(mlp)
        if gating == SIGMOID:
            return m
        return replace(m, score="softmax", choice_bias=False, groups=replace(m.groups, by=softmax_by))

    return with_experts(base, scored, keys.get("leading_dense_block_count", int, 0))


EXPERTS = weight_map("""
    decoder.layers.{i}.mlp.router <- blk.{i}.ffn_gate_inp.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate <- blk.{i}.ffn_gate_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.up <- blk.{i}.ffn_up_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- blk.{i}.ffn_gate_up_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- blk.{i}.ffn_down_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.shared.gate <- blk.{i}.ffn_gate_shexp.weight : transpose
    decoder.layers.{i}.mlp.shared.up <- blk.{i}.ffn_up_shexp.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- blk.{i}.ffn_down_shexp.weight : transpose
    decoder.layers.{i}.mlp.shared_gate <- blk.{i}.ffn_gate_inp_shexp.weight : column
    decoder.layers.{i}.mlp.bias <- blk.{i}.exp_probs_b.bias
""")
