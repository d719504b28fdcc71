"""Which functions replace mirror functions while a graph for a target is traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...refimpl.config import Config
from ...runtime.bundle import operator_limits
from ...runtime.bundle.targets import Target
from . import group_query_attention, multi_head_attention, standard

# Name of a mirror function -> the target's function in its place, see `export.dispatch`.
Emits = Mapping[str, Callable[..., Any]]


def emits(target: Target, config: Config) -> Emits:
    """What a target puts in the place of mirror functions, as far as its operators can take the Config."""
    return _ort(config) if target.fused else standard.EMITS


def _ort(config: Config) -> Emits:
    """ONNX Runtime's fused operators."""
    group_query = not operator_limits.group_query(config)
    multi_head = not operator_limits.multi_head(config)
    return {
        "linear": group_query_attention.linear,
        "embedding": group_query_attention.embedding,
        "unembedding": group_query_attention.unembedding,
        "gated_mlp": group_query_attention.gated_mlp,
        "attention": partial(group_query_attention.attention, fused=group_query),
        "self_attention": partial(multi_head_attention.self_attention, fused=multi_head),
        "cross_attention": partial(multi_head_attention.cross_attention, fused=multi_head),
        "cross_keys": multi_head_attention.cross_keys,
    }
