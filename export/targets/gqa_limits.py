"""What GroupQueryAttention can't take, and the cache that follows from it: known from a Config alone."""

from __future__ import annotations

from typing import Literal

from ...refimpl.config import Alibi, Config, RelativeBias, Rope
from ...runtime.bundle import window_sizes

Kind = Literal["shared", "windowed", "copied"]


def refusals(config: Config) -> list[str]:
    """Why GroupQueryAttention can't take this Config; empty when it can."""
    reasons = []
    for i, layer in enumerate(config.layers):
        a = layer.attention
        rotary = isinstance(a.position, Rope)
        step = 16 if rotary else 8
        if isinstance(a.position, Alibi | RelativeBias):
            reasons.append(f"scores with a bias need the standard form, got {type(a.position).__name__}")
        elif a.head_size % step:
            kind = " with rotary positions" if rotary else ""
            reasons.append(f"head size{kind} must be a multiple of {step}, got {a.head_size}")
        elif isinstance(a.position, Rope) and a.position.dims % 16:
            reasons.append(f"rotary dims must be a multiple of 16, got {a.position.dims}")
        else:
            continue
        short = (
            ["caches as short as windows: they need GroupQueryAttention"]
            if window_sizes.sizes(config)
            else []
        )
        return [f"GroupQueryAttention in layer {i}: {reasons[0]}", *short]
    return []


def cache(config: Config) -> Kind:
    """The cache of the targets of ONNX Runtime, as the manifest calls it."""
    if refusals(config):
        return "copied"
    return "windowed" if window_sizes.sizes(config) else "shared"
