"""Heads of encoders in GGUF: a pooling in the metadata, or a classifier among the tensors."""

from __future__ import annotations

from dataclasses import replace

from ..config import Attention, Classify, Config, Decoder, Dense, Encoder, Pool, Pooling, Window
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


def gguf_reading(decoder: Decoder, keys: Keys) -> Config:
    """The encoder that a decoder becomes where the file states how its vectors are pooled."""
    if "pooling_type" not in keys:
        keys.harmless(**{"attention.causal": (True,)})
        return decoder
    causal = keys.get("attention.causal", bool, True)
    masks = [layer.attention.mask for layer in decoder.layers if isinstance(layer.attention, Attention)]
    if not causal and any(isinstance(mask, Window) for mask in masks):
        # llama.cpp's windows then reach back alone, while later tokens are all seen.
        raise keys.fail("attention.causal", "true where layers have a window")
    return gguf_encoder(decoder, keys, causal=causal)


def gguf_encoder(
    decoder: Decoder, keys: Keys, *, causal: bool, projections: tuple[Dense, ...] = ()
) -> Encoder:
    """The encoder of a decoder's layers, whose vectors are pooled as the file says."""
    number = keys.get("pooling_type", int)
    if number not in POOLINGS:
        raise keys.fail("pooling_type", f"one of {', '.join(map(str, POOLINGS))}")
    head = Pool(POOLINGS[number], projections=projections)
    return Encoder(decoder.embedding, replace(decoder.stack, causal=causal), head, decoder.context)


def gguf_pooled(config: Encoder, keys: Keys, source: TensorSource) -> Encoder:
    """The encoder, whose vectors are pooled as the file says, unless it has a classifier."""
    if keys.get("attention.causal", bool, False):
        raise keys.fail("attention.causal", "false: tokens then see no later ones")
    if isinstance(config.head, Classify):
        return config
    number = keys.get("pooling_type", int)
    if number not in POOLINGS:
        raise keys.fail("pooling_type", f"one of {', '.join(map(str, POOLINGS))}")
    projections = gguf_projections(keys, source, config.embedding.width)
    return replace(config, head=Pool(POOLINGS[number], projections=projections))


def gguf_projections(keys: Keys, source: TensorSource, width: int) -> tuple[Dense, ...]:
    """The Dense modules of a sentence encoder: llama.cpp has two, without biases and activations."""
    projections: list[Dense] = []
    for name in ("dense_2", "dense_3"):
        if f"{name}.weight" not in source.names:
            continue
        shape = source.shape(f"{name}.weight")
        keys.restated(f"{name}_feat_in", width, f"what the step before gives, {width}")
        keys.restated(f"{name}_feat_out", shape[0], f"the rows of {name}.weight, {shape[0]}")
        projections.append(Dense(None, bias=False, width=shape[0]))
        width = shape[0]
    return tuple(projections)


# The output table of a decoder that only reads, and the Dense modules after it.
READING = weight_map("""
    nothing <- output.weight
    head.projections.0.weight <- dense_2.weight : transpose
    head.projections.1.weight <- dense_3.weight : transpose
""")
CLASSIFIER = weight_map("""
    for Classify:
    head.dense.weight <- cls.weight : transpose
    head.dense.bias <- cls.bias
    head.norm.weight <- cls.norm.weight
    head.norm.bias <- cls.norm.bias
    head.out.weight <- cls.output.weight : table transpose
    head.out.bias <- cls.output.bias
""")
