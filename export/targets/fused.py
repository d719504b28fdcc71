"""Targets `ort-cpu` and `ort-cuda`: which of ONNX Runtime's fused operators apply to a Config."""

from __future__ import annotations

from functools import partial

from ...refimpl.config import Config
from . import Emits, Target, limits, multi_head, ort


def _emits(config: Config) -> Emits:
    cached, whole = limits.refusals(config), multi_head.refusals(config)
    table = {
        "linear": ort.linear,
        "embedding": ort.embedding,
        "unembedding": ort.unembedding,
        "gated_mlp": ort.gated_mlp,
        "attention": partial(ort.attention, fused=not cached),
        "self_attention": partial(multi_head.self_attention, fused=not whole),
        "cross_attention": partial(multi_head.cross_attention, fused=not whole),
        "cross_keys": multi_head.cross_keys,
    }
    return Emits(table, (*cached, *whole), limits.cache(config))


CPU = Target("ort-cpu", "cpu", opset=23, emits=_emits)
CUDA = Target("ort-cuda", "cuda", opset=23, emits=_emits)
