"""Targets `ort-cpu` and `ort-cuda`: which of ONNX Runtime's fused operators apply to a Config."""

from __future__ import annotations

from functools import partial

from ...refimpl.config import Config
from . import gqa_limits, group_query_attention, multi_head_attention
from .target import Emits, Target


def _emits(config: Config) -> Emits:
    cached, whole = gqa_limits.refusals(config), multi_head_attention.refusals(config)
    table = {
        "linear": group_query_attention.linear,
        "embedding": group_query_attention.embedding,
        "unembedding": group_query_attention.unembedding,
        "gated_mlp": group_query_attention.gated_mlp,
        "attention": partial(group_query_attention.attention, fused=not cached),
        "self_attention": partial(multi_head_attention.self_attention, fused=not whole),
        "cross_attention": partial(multi_head_attention.cross_attention, fused=not whole),
        "cross_keys": multi_head_attention.cross_keys,
    }
    return Emits(table, (*cached, *whole), gqa_limits.cache(config))


CPU = Target("ort-cpu", "cpu", opset=23, emits=_emits)
CUDA = Target("ort-cuda", "cuda", opset=23, emits=_emits)
