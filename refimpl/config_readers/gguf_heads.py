"""Heads of encoders in GGUF: a pooling in the metadata, or a classifier among the tensors."""

from __future__ import annotations

from ..config import Classify, Dense, Pool, Pooling
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from .gguf_metadata import rows
from .keys import Keys

POOLINGS: dict[int, Pooling] = {1: "mean", 2: "first", 3: "last"}  # a classifier has the first two only
RANK = 4  # a classifier; also stated where the file has no tensors of one
OUT = "cls.output.weight"


def gguf_head(keys: Keys, source: TensorSource, dense: Dense, pooling: int | None = 2) -> Pool | Classify:
    """The stated pooling, or else the classifier, which begins with `dense` on the vector that `pooling`
    gives.

    The file doesn't state how a classifier's logits are read, so they stay as they are, as in llama.cpp.
    """
    if keys.get("attention.causal", bool, False):
        raise keys.fail("attention.causal", "false: tokens then see no later ones")
    labelled = OUT in source.names
    allowed = (*POOLINGS, RANK) if labelled else tuple(POOLINGS)
    number = keys.get("pooling_type", int, RANK) if labelled else keys.get("pooling_type", int)
    if number not in allowed:
        raise keys.fail("pooling_type", f"one of {', '.join(map(str, allowed))}")
    labels = keys.get("classifier.output_labels", list, None)  # of a head that the file may not hold
    if number in POOLINGS:
        return Pool(POOLINGS[number])
    if pooling not in (1, 2):
        raise keys.fail("classifier.pooling_type", "1 or 2")
    count = rows(source, OUT)
    if labels is not None and len(labels) != count:
        raise keys.fail("classifier.output_labels", f"as many names as {OUT} has rows, {count}")
    return Classify(count, POOLINGS[pooling], dense, kind="regression")


CLASSIFIER = weight_map("""
    for Classify:
    head.dense.weight <- cls.weight : transpose
    head.dense.bias <- cls.bias
    head.norm.weight <- cls.norm.weight
    head.norm.bias <- cls.norm.bias
    head.out.weight <- cls.output.weight : table transpose
    head.out.bias <- cls.output.bias
""")
