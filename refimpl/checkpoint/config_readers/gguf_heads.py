"""Read the heads of encoders from GGUF. Either the metadata state a pooling, or the tensors include a
classifier.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...config import Attention, Classify, Config, Decoder, Dense, Encoder, Pool, Pooling, Window
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from .gguf_keys import Row, Table
from .gguf_metadata import rows
from .keys import ABSENT, Keys

POOLINGS: dict[int, Pooling] = {1: "mean", 2: "first", 3: "last"}  # a classifier has the first two only
RANK = 4  # a classifier; also stated where the file has no tensors of one
OUT = "cls.output.weight"


def labelled(keys: Keys, source: TensorSource) -> bool:
    """Return whether a GGUF file has a classifier: it contains the classifier's output tensor, and its
    metadata state no pooling of vectors.
    """
    return OUT in source.names and keys.values.get("pooling_type", RANK) not in POOLINGS


def _labels(keys: Keys, source: TensorSource) -> Any:
    """Return the number of labels of the file's classifier, or ABSENT if the file has no classifier.

    Names of labels don't show that there is a classifier, because a file may state names for a head that it
    doesn't contain.
    """
    names = keys.get("classifier.output_labels", list, None)
    if not labelled(keys, source):
        return ABSENT
    count = rows(source, OUT)
    if names is not None and len(names) != count:
        raise keys.fail("classifier.output_labels", f"as many names as {OUT} has rows ({count})")
    return count


# The file doesn't state how a classifier's logits are read, so they stay as they are, as in llama.cpp.
CLASSES: Table = {
    "num_labels": Row(_labels),
    "problem_type": Row(lambda keys, source: "regression" if labelled(keys, source) else ABSENT),
}


def gguf_reading(decoder: Decoder, keys: Keys) -> Config:
    """Return the decoder as an encoder, with the pooling of vectors that a GGUF file states. If the file
    states no pooling, return the decoder itself.
    """
    if "pooling_type" not in keys:
        keys.harmless(**{"attention.causal": (True,)})
        return decoder
    causal = keys.get("attention.causal", bool, True)
    masks = [layer.attention.mask for layer in decoder.layers if isinstance(layer.attention, Attention)]
    if not causal and any(isinstance(mask, Window) for mask in masks):
        # llama.cpp's windows then reach back alone, while later tokens are all seen.
        raise keys.fail("attention.causal", "true if layers have a window")
    encoder = Encoder(decoder.embedding, replace(decoder.stack, causal=causal), Pool("last"), decoder.context)
    return pooled(encoder, keys)


def gguf_pooled(config: Encoder, keys: Keys, source: TensorSource) -> Encoder:
    """Return the encoder with the pooling of vectors that a GGUF file states. An encoder with a classifier is
    returned unchanged.
    """
    if keys.get("attention.causal", bool, False):
        raise keys.fail("attention.causal", "false: with true, tokens don't see later tokens")
    if not isinstance(config.head, Classify):
        return pooled(config, keys, gguf_projections(keys, source, config.embedding.width))
    if keys.get("pooling_type", int, RANK) != RANK:
        raise keys.fail("pooling_type", f"one of {', '.join(map(str, (*POOLINGS, RANK)))}")
    return config


def pooled(config: Encoder, keys: Keys, projections: tuple[Dense, ...] = ()) -> Encoder:
    """Return the encoder with the pooling that the GGUF file states and these projections after it."""
    number = keys.get("pooling_type", int)
    if number not in POOLINGS:
        raise keys.fail("pooling_type", f"one of {', '.join(map(str, POOLINGS))}")
    return replace(config, head=Pool(POOLINGS[number], projections=projections))


def gguf_projections(keys: Keys, source: TensorSource, width: int) -> tuple[Dense, ...]:
    """Return the Dense modules after the pooling of a sentence encoder. A GGUF file has at most two such
    modules, without biases and activations, as llama.cpp reads them.
    """
    projections: list[Dense] = []
    for name in ("dense_2", "dense_3"):
        if f"{name}.weight" not in source.names:
            continue
        shape = source.shape(f"{name}.weight")
        keys.restated(f"{name}_feat_in", width, f"the output width of the step before ({width})")
        keys.restated(f"{name}_feat_out", shape[0], f"the rows of {name}.weight ({shape[0]})")
        projections.append(Dense(None, bias=False, width=shape[0]))
        width = shape[0]
    return tuple(projections)


# The output table of a decoder that only reads, and the Dense modules after it.
READING = weight_map("""
    nothing <- output.weight
    head.projections.{0,1}.weight <- dense_{2,3}.weight : transpose
""")
CLASSIFIER = weight_map("""
    for Classify:
    head.dense.weight <- cls.weight : transpose
    head.dense.bias <- cls.bias
    head.norm.{weight,bias} <- cls.norm.{weight,bias}
    head.out.weight <- cls.output.weight : table transpose
    head.out.bias <- cls.output.bias
""")
