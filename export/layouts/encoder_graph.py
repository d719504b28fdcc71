"""Write an encoder's graph with the inputs and outputs that other runtimes expect.

    input_ids [B, T]         the tokens
    attention_mask [B, T]    1 for each real token
    token_type_ids [B, T]    if the model has token types
    input_features           [B, C, 2·T], the only input if the model reads a sound
    last_hidden_state        [B, T, D], the tokens' vectors, if the model computes embeddings or a decoder
                             reads the encoder
    sentence_embedding       [B, D], if the model computes embeddings: the result of `embed`, which is pooled,
                             and normalized if the model does that
    logits                   [B, T, N] of a masked language model or of tags, or [B, N] of labels of whole
                             texts

In a bundle's graph, the rotary tables are inputs. This module makes them weights, for the model's whole
context.

**Conventions**: a row may have padding on either side, or between its tokens. The real tokens are moved to
the front of the row. The result for each token is moved back to the token's original position. At padding,
outputs are unspecified.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ...refimpl.config import Classify, Config, MaskedLM, Pool, Tag
from ...refimpl.errors import ExportError
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import ENCODER, GRAPH
from ...runtime.bundle.targets import Target
from .layout import target_refusal
from .ports import Ports

NORMS = ("LayerNormalization", "RMSNormalization")


def refusal(config: Config, target: Target) -> str | None:
    """Return the reason why an encoder's graph can't be written with other runtimes' inputs and outputs for
    this model and target. Return None if it can.
    """
    if "decoder" in config.stacks:
        return "the model must be an encoder without a decoder"
    if reason := target_refusal(target):
        return reason
    if not isinstance(config.head, MaskedLM | Tag | Classify | Pool):
        return f"the head must be MaskedLM, Tag, Classify or Pool, got {type(config.head).__name__}"
    return None


def write(bundle: Bundle, path: Path, *, data: str) -> None:
    """Write the graph to `path`, and its weights to a file `data` beside it.

    Raises ExportError if the tokens' vectors, which are pooled or which a decoder reads, can't be found in
    the graph.
    """
    ports = Ports(bundle, ENCODER if "decoder" in bundle.config.stacks else GRAPH)
    if bundle.config.sound_shape is not None:
        vectors = heard(ports, "input_features", bundle.config)
        vectors.name, ports.graph.outputs[:] = "last_hidden_state", [vectors]
        keep_sums(ports.graph)
        ports.save(path, data)
        return
    ids, mask = (ports.input(name, "batch", "time") for name in ("input_ids", "attention_mask"))
    time, axis = ports.length(ids), ports.constant([1])
    order = ports.order(mask, time)
    tokens = ports.op("GatherElements", ids, order, axis=1)
    ports.replace("tokens", tokens)
    if "token_types" in ports.old:
        types = ports.input("token_type_ids", "batch", "time")
        ports.replace("token_types", ports.op("GatherElements", types, order, axis=1))
    ports.replace("lengths", ports.op("ReduceSum", mask, axis, keepdims=0))
    ports.replace_tables(time)
    _name_outputs(ports, bundle.config, tokens, mask)
    keep_sums(ports.graph)
    ports.save(path, data)


def heard(ports: Ports, name: str, config: Config) -> ir.Value:
    """Add an input [B, C, 2·T] for a sound, and return the encoder's vectors [B, T, D] for it. The last axis
    of the input is time.
    """
    assert config.sound_shape is not None
    size, bands = config.sound_shape
    given = ports.input(name, "batch", bands, size, dtype=ir.DataType.FLOAT)
    frames = ports.op("Transpose", given, perm=[0, 2, 1])
    ports.replace("frames", frames)
    return states(ports.graph, frames, config.text_embedding.width, size // 2)


def _name_outputs(ports: Ports, config: Config, tokens: ir.Value, mask: ir.Value) -> None:
    """Name the graph's outputs as other runtimes expect. Move the result for each token back to the token's
    original position.
    """
    output, *_ = ports.graph.outputs
    if isinstance(config.head, Classify):
        output.name = "logits"
        return
    if isinstance(config.head, Pool):
        output.name = "sentence_embedding"
        name, values = "last_hidden_state", states(ports.graph, tokens, config.text_embedding.width)
    elif "decoder" in config.stacks:
        name, values = "last_hidden_state", states(ports.graph, tokens, config.text_embedding.width)
        ports.graph.outputs.clear()
    else:
        ports.graph.outputs.clear()
        name, values = "logits", output
    zero, one = ports.constant(0), ports.constant(1)
    rank = ports.op("Max", ports.op("Sub", ports.op("CumSum", mask, one), one), zero)
    places = ports.op("Unsqueeze", rank, ports.constant([2]))
    restored = ports.op("GatherND", values, places, batch_dims=1)
    restored.name, restored.type, restored.shape = name, values.type, values.shape
    ports.graph.outputs.insert(0, restored)


def keep_sums(graph: ir.Graph) -> None:
    """Replace each Add before a layer norm by a Sum, which computes the same. ONNX Runtime fuses an Add with
    the norm, but not a Sum.

    tfm's own session switches this fusion off (`runtime.ort.session`). The fusion is slower, and its results
    differ in their last digits, so that some activations are rounded to other codes. For MiniLM in
    int8-dynamic, this changes vectors by 9e-4.
    """
    for node in graph:
        readers = {use.node.op_type for value in node.outputs for use in value.uses()}
        if node.op_type == "Add" and "LayerNormalization" in readers:
            node.op_type = "Sum"


def states(graph: ir.Graph, tokens: ir.Value, width: int, time: int | str = "time") -> ir.Value:
    """Return the output [B, T, D] of the encoder's last norm, which a head pools or a decoder reads.

    Raises ExportError if the graph's outputs depend on the tokens in any other way, for example in a model
    without a norm at the end.
    """
    norms = [node.outputs[0] for node in graph if node.op_type in NORMS]
    shape = ["batch", str(time), str(width)]
    found = [value for value in norms if value.shape is not None and [str(a) for a in value.shape] == shape]
    seen, todo = set(found[-1:]), list(graph.outputs)
    while todo:
        value = todo.pop()
        producer = value.producer()
        if value not in seen and producer is not None and producer.op_type != "Shape":
            todo += [read for read in producer.inputs if read is not None]
        seen.add(value)
    if not found or tokens in seen:
        raise ExportError(
            "the model must have a norm after the last layer, because the layout takes the tokens' vectors "
            "from this norm"
        )
    return found[-1]
