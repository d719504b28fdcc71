"""The graphs of a bundle: what goes into each and what comes out, by name. Part of the format.

    graph         of                  inputs                                      outputs
    model.onnx    a decoder           tokens past at k.I v.I cos.J sin.J          logits k_out.I v_out.I
                  one that reads an   these, keys.I values.I source               the same
                  encoder
                  an encoder alone,   tokens lengths types cos.J sin.J            said
                  or with a reader
    encoder.onnx  an encoder that a   tokens lengths types cos.J sin.J            keys.I values.I
                  decoder reads

A decoder whose cache is windowed has window_length.W too, for each W of `windows.sizes`. I counts the decoder's
layers, J the rotary settings in the Config's order, of which each graph has those of its own stack;
`types` is there where the embedding has them. `said` is what the head says (`ops.encoder.predict`).
`past`, `at`, `lengths` and `source`, the lengths of the encoder's text, are numbers of tokens, as in
`ops.model` and `ops.encoder`; `held` is how many of a row's tokens the caches of layers with that window
hold, the latest ones, from place 0 on, where other caches hold all. All ids and numbers are int64;
logits and `said` are float32; keys, values, cosines and sines have the bundle's `dtype`, but k.I and v.I of
a layer that keeps 8 bits are int8 codes (`refimpl.ops.quantized_cache`, by channel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...refimpl.config import LM, Attention, Classify, Config, MaskedLM, Pool, QuestionAnswering, Tag
from . import window_sizes

GRAPH, ENCODER = "model.onnx", "encoder.onnx"
# Leaves of a decoder's cross-attention that the encoder's graph uses, joined or not.
READ = ("wk", "wv", "bk", "bv", "wkv", "bkv")


class Port(NamedTuple):
    """An input or output: its axes, strings where they vary, and its type, None for the bundle's floats."""

    name: str
    axes: tuple[str | int, ...]
    dtype: Literal["int64", "int8"] | None = None


@dataclass(frozen=True)
class Graph:
    """One graph: its file, its stack, and its ports in order."""

    file: str
    encodes: bool
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def owns(self, leaf: str) -> bool:
        """Whether this graph computes with a leaf of the tree, a group of them, or one of its tensors."""
        top = leaf.split(".", 1)[0]
        if self.encodes and self.file == GRAPH:
            return True
        if ".cross." in leaf:
            return (leaf.split(".cross.")[1].split(".")[0] in READ) == self.encodes
        if top == "embedding" and leaf != "embedding.token_types":
            # Where logits are another graph's, nothing multiplies the table here.
            return not self.encodes or not leaf.startswith("embedding.table.input_")
        return top in ("encoder", "embedding") if self.encodes else top in ("decoder", "head")


def graphs(config: Config, windowed: bool = False) -> tuple[Graph, ...]:
    """The graphs of a model, the one that reads first; `windowed` as the manifest's cache says."""
    found = []
    if "encoder" in config.stacks:
        inputs = [Port("tokens", ("batch", "time"), "int64"), Port("lengths", ("batch",), "int64")]
        if config.embedding.token_types is not None:
            inputs.append(Port("types", ("batch", "time"), "int64"))
        inputs += _tables(config, ("encoder", "reader"), "time")
        alone = not isinstance(config.head, LM)
        outputs = (Port("said", _said(config)),) if alone else _memory(config, "time")
        found.append(Graph(GRAPH if alone else ENCODER, True, tuple(inputs), tuple(outputs)))
    if "decoder" in config.stacks:
        inputs = [
            Port("tokens", ("batch", "time"), "int64"),
            Port("past", ("batch",), "int64"),
            Port("at", ("batch", "wanted"), "int64"),
            *_cache(config, "", windowed),
            *_tables(config, ("decoder",), "capacity"),
        ]
        if windowed:
            inputs += [
                Port(f"window_length.{size}", ("batch",), "int64") for size in window_sizes.sizes(config)
            ]
        if "encoder" in config.stacks:
            inputs += [*_memory(config, "text"), Port("source", ("batch",), "int64")]
        logits = Port("logits", ("batch", "wanted", config.embedding.vocabulary))
        found.append(Graph(GRAPH, False, tuple(inputs), (logits, *_cache(config, "_out", windowed))))
    return tuple(found)


def cache_type(attention: Attention) -> Literal["int8"] | None:
    """The type that a layer's keys and values are kept in, None for the bundle's floats."""
    return "int8" if attention.kv == "int8" else None


def _tables(config: Config, names: tuple[str, ...], rows: str) -> list[Port]:
    stacks = [stack for name, stack in config.stacks.items() if name in names]
    own = {layer.attention.position for stack in stacks for layer in stack.layers}
    kinds = [(i, rope) for i, rope in enumerate(config.ropes) if rope in own]
    return [Port(f"{side}.{i}", (rows, rope.dims // 2)) for i, rope in kinds for side in ("cos", "sin")]


def _cache(config: Config, suffix: str, windowed: bool) -> list[Port]:
    made = []
    for i, layer in enumerate(config.layers):
        size = window_sizes.of_layer(config, i) if windowed else None
        rows = "capacity" if size is None else f"rows{size}"
        axes = ("batch", layer.attention.kv_heads, rows, layer.attention.head_size)
        made += [Port(f"{side}{suffix}.{i}", axes, cache_type(layer.attention)) for side in "kv"]
    return made


def _memory(config: Config, length: str) -> list[Port]:
    made = []
    for i, layer in enumerate(config.layers):
        assert layer.cross is not None
        axes = ("batch", layer.cross.kv_heads, length, layer.cross.head_size)
        made += [Port(f"{side}.{i}", axes) for side in ("keys", "values")]
    return made


def _said(config: Config) -> tuple[str | int, ...]:
    match config.head:
        case MaskedLM():
            return ("batch", "time", config.embedding.vocabulary)
        case Tag(labels):
            return ("batch", "time", labels)
        case QuestionAnswering():
            return ("batch", "time", 2)
        case Classify(labels):
            return ("batch", labels)
        case Pool(dense=dense):
            width = config.embedding.width
            return ("batch", width if dense is None else dense.width or width)
        case LM():
            raise AssertionError("a Config's check keeps LM for decoders")
