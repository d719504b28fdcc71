"""Decide from a model's Config which of a target's operators and caches the model can use."""

from __future__ import annotations

from ...refimpl.config import Attention, Config, MoE, has_mtp
from ...refimpl.engine.cache_kinds import cache_kinds, recurrent, windows
from .targets import CacheForm, FloatType, Target


def refusals(target: Target, config: Config) -> tuple[str, ...]:
    """Return the reasons why a model can't use the target's fused operators, or why a GPU can't capture the
    model's steps. The tuple is empty if there are no reasons.
    """
    reasons = (*group_query(config), *multi_head(config)) if target.fused else ()
    captured = capture(config) if target.device == "cuda" and "decoder" in config.stacks else None
    return reasons if captured is None else (*reasons, f"CUDA graph of a step: {captured}")


def capture(config: Config) -> str | None:
    """Return the reason why a GPU can't capture a decoder's step and replay it; None if a GPU can.

    A replay reads and writes the same memory as the captured step, with the same shapes.
    """
    if group_query(config):
        return "each step writes a copied cache to another place in memory"
    if recurrent(cache_kinds(config)):
        return "ONNX Runtime runs a step several times to capture it, and each run would change the state"
    if any(isinstance(layer.mlp, MoE) for layer in config.layers):
        return "the number of tokens for each expert is known only while the step runs"
    return None


def cache(target: Target, config: Config) -> CacheForm:
    """Return how a bundle for the target keeps a decoder's keys and values: "shared", "windowed", "copied" or
    "none".
    """
    if "decoder" not in config.stacks:
        return "none"
    if not target.fused or group_query(config):
        return "copied"
    if recurrent(cache_kinds(config)):
        return "shared"  # a windowed one beside a state was never tried
    return "windowed" if windows(cache_kinds(config, windowed=True)) else "shared"


def no_bundle(target: Target, config: Config, floats: FloatType) -> str | None:
    """Return the reason why tfm writes no bundle of this Config for the target; None if tfm can write one."""
    return recurrence(target, config, floats) or selection(config, floats) or untried(target, config)


def recurrence(target: Target, config: Config, floats: FloatType) -> str | None:
    """Return the reason why a bundle with this float type can't run the Config's recurrences; None if it can.

    A bundle keeps the states of recurrences in its float type.
    """
    kinds = cache_kinds(config)
    if not recurrent(kinds):
        return None
    if floats == "float16" and any(kind.adds_up for kind in kinds):
        return "the rounding errors of a recurrence in float16 would add up from token to token"
    return None


def selection(config: Config, floats: FloatType) -> str | None:
    """Return the reason why a bundle with this float type can't compute attention that selects its tokens;
    None if it can.
    """
    if floats != "float16":
        return None
    limits = (layer.attention.float16_limit() for layer in config.layers)
    return next((limit for limit in limits if limit is not None), None)


def untried(target: Target, config: Config) -> str | None:
    """Return the reason why tfm refuses a bundle because a part of the Config was never run on the target;
    None if there is no such part.
    """
    if target.device != "cuda":
        return None
    if has_mtp(config):
        return "a module for drafts (mtp) was never tested on a GPU: export the model without mtp"
    return None


def group_query(config: Config) -> list[str]:
    """Return the reasons why ONNX Runtime's GroupQueryAttention can't compute a decoder's attention; an empty
    list if it can.
    """
    for i, layer in enumerate(config.layers):
        merged = "the softmax also has the keys of an encoder's text" if layer.merged else None
        reason = merged or layer.attention.group_query_limit()
        if reason is None:
            continue
        reasons = [f"GroupQueryAttention in layer {i}: {reason}"]
        if windows(cache_kinds(config, windowed=True)) and not recurrent(cache_kinds(config)):
            reasons.append("a cache that stores only a window's tokens needs GroupQueryAttention")
        return reasons
    return []


def multi_head(config: Config) -> list[str]:
    """Return the reasons why ONNX Runtime's MultiHeadAttention can't compute attention over a whole text; an
    empty list if it can.

    Attention over a whole text is an encoder's self-attention or a decoder's cross-attention.
    """
    for name, stack in config.stacks.items():
        for i, layer in enumerate(stack.layers):
            attention = layer.attention
            if stack.layers is config.layers or not isinstance(attention, Attention):
                continue
            if attention.softcap is not None:
                return [_softcap(f"{name} layer {i}", attention)]
            if attention.sink_logits:
                return [f"MultiHeadAttention in {name} layer {i}: sinks need standard ONNX operators"]
        for i, layer in enumerate(stack.layers):
            cross, where = layer.cross, f"cross-attention of layer {i}"
            if cross is None or layer.merged:
                continue
            if cross.softcap is not None:
                return [_softcap(where, cross)]
            if cross.kv_heads != cross.heads:
                got = f"got {cross.kv_heads} and {cross.heads}"
                return [f"MultiHeadAttention in {where}: must have as many key-value heads as heads, {got}"]
    return []


def _softcap(where: str, attention: Attention) -> str:
    return f"MultiHeadAttention in {where}: a soft cap needs standard ONNX operators, got {attention.softcap}"
