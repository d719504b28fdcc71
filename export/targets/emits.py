"""Choose the functions that replace ops while a graph for a target is traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...refimpl.config import Config
from ...runtime.bundle import operator_limits
from ...runtime.bundle.targets import Target
from . import (
    convbert,
    disentangled,
    group_query_attention,
    longformer,
    longt5,
    multi_head_attention,
    ort_ops,
    recurrence,
    standard,
    xlnet,
)

# Name of an op -> the target's function in its place, see `export.dispatch`.
Emits = Mapping[str, Callable[..., Any]]


def emits(target: Target, config: Config) -> Emits:
    """Return the functions that replace ops in a graph for this target, by the names of the ops.

    A fused operator replaces an op only if the operator supports this Config.
    """
    return _ort(config) if target.fused else standard.EMITS


def _ort(config: Config) -> Emits:
    """Return the functions that replace ops by ONNX Runtime's operators."""
    gqa, mha = group_query_attention, multi_head_attention
    group_query, multi_head = not operator_limits.group_query(config), not operator_limits.multi_head(config)
    operator = gqa.GroupQueryAttention(whole="decoder" not in config.stacks)
    # In parts the op's own body reads another layer's cache.
    fused = {"attention": operator, "shared_attention": operator.read} if group_query else {}
    return {
        "linear": ort_ops.linear,
        "embedding": ort_ops.embedding,
        "unembedding": ort_ops.unembedding,
        "gated_mlp": ort_ops.gated_mlp,
        "log_softmax": standard.EMITS["log_softmax"],
        **recurrence.EMITS,
        "linear_attention": recurrence.linear_attention,
        "gated_delta_rule": recurrence.gated_delta_operator,
        "ssd_recurrent": recurrence.ssd_operator,
        "selective_scan": recurrence.selective_scan_operator,
        "project": gqa.project,
        "self_attention": mha.self_attention if multi_head else mha.self_attention_in_parts,
        "cross_attention": mha.cross_attention if multi_head else mha.cross_attention_in_parts,
        "cross_keys": mha.cross_keys,
        "convbert_attention": convbert.convbert_attention,
        "disentangled_attention": disentangled.disentangled_attention,
        "longformer_attention": longformer.longformer_attention,
        "longt5_attention": longt5.longt5_attention,
        "xlnet_attention": xlnet.xlnet_attention,
        **fused,
    }
