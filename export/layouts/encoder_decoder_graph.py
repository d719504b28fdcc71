"""Write the graphs of a decoder that reads an encoder, with the inputs and outputs that other runtimes
expect.

The encoder's graph has the form of `encoder_graph`, with `last_hidden_state` as its only output. The
decoder's graph has the form that is called merged, because one graph serves the first step and all others:

    input_ids [B, T]               the new tokens, without padding
    encoder_hidden_states          [B, S, D], the encoder's output
    encoder_attention_mask [B, S]  1 for each real token of the encoder's text
    past_key_values.I.decoder.key  layer I's keys [B, G, P, K] of earlier tokens. In the first step P is 0
    past_key_values.I.encoder.key  layer I's keys [B, G, S, K] of the text. In the first step S is 0
    use_cache_branch [1]           false in the first step. Later, the keys of the text must be those that
                                   an earlier step returned
    logits                         [B, 1, N] of the last token, or [B, T, N] of all tokens
    present.I.decoder.key          keys [B, G, P + T, K], which are the past of the next step
    present.I.encoder.key          keys [B, G, S, K] of the text, which are the past of the next step

For each .key there is a .value of the same form. An encoder of audio reads input_features [B, C, 2·S]. Its
decoder has no mask, because all of the audio is real.

**Conventions**: a text may have padding on either side, or between its tokens. The real rows of
`encoder_hidden_states` are moved to the front before keys are computed from them, so the text's keys have no
gaps. One branch of an If does this, only in the first step. The other branch passes the keys on, which copies
them.

In a bundle, the encoder's graph computes the keys and values of the text. Here, the decoder's graph computes
them, because the runtimes pass `last_hidden_state` from the encoder to the decoder.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ...refimpl.config import LM, Attention, Config, EncoderDecoder, SampleStem, Stack
from ...refimpl.engine.cache_kinds import cache_kinds, recurrent
from ...refimpl.errors import ExportError
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import ENCODER
from ...runtime.bundle.targets import Target
from . import encoder_graph
from .layout import target_refusal
from .ports import Ports

PAST, PRESENT = "past_key_values.%d.%s.%s", "present.%d.%s.%s"
SIDES = {"k": "key", "v": "value"}
PAST_AXIS, TOTAL_AXIS = "past_decoder_sequence_length", "total_decoder_sequence_length"
TEXT_AXIS, KEPT_AXIS = "encoder_sequence_length", "past_encoder_sequence_length"
STATE_AXES = ("batch", "time")  # of an encoder's output, before its vectors
# Of a node of the encoder's graph that is the decoder's here.
PREFIX = "encoder_hidden_states."


def refusal(config: Config, target: Target) -> str | None:
    """Return the reason why the graphs of a decoder that reads an encoder can't be written for this model and
    target. Return None if they can.
    """
    if not isinstance(config, EncoderDecoder) or not isinstance(config.head, LM):
        return "the model must have an encoder and a decoder that generates text"
    if reason := target_refusal(target):
        return reason
    if isinstance(config.stem, SampleStem):
        return "the encoder must read a text or frames of a sound, but this encoder reads samples"
    if recurrent(cache_kinds(config)):
        return "each layer must cache keys and values, but some layers of this model cache a recurrent state"
    if config.rounds_cache:
        return "keys and values must be cached as floats, but this model quantizes them: export with kv=float"
    if config.embedding.token_types is not None:
        return (
            "the encoder must have no token types (token_type_ids), because the layout's runtimes "
            "don't pass types"
        )
    if len(sizes := _sizes(config)) > 1:
        return (
            "self-attention and cross-attention of all the decoder's layers must have the same heads, "
            f"got (kv_heads, head_size) of {sorted(sizes)}"
        )
    return None


def _sizes(config: EncoderDecoder) -> set[tuple[int, int]]:
    """Return all pairs (number of key and value heads, size of a head) that occur in the decoder's
    attentions.
    """
    assert isinstance(config.decoder, Stack)
    both = [(layer.attention, layer.cross) for layer in config.decoder.layers]
    return {(a.kv_heads, a.head_size) for pair in both for a in pair if isinstance(a, Attention)}


def heads(config: Config) -> tuple[int, int]:
    """Return the number of key and value heads and the size of a head, which are the same in all layers of
    the decoder (see `refusal`).
    """
    assert isinstance(config, EncoderDecoder)
    (sizes,) = _sizes(config)
    return sizes


def write(bundle: Bundle, encoder: Path, decoder: Path, *, every_position: bool) -> None:
    """Write the encoder's and the decoder's graph to these paths. The weights that a graph X reads are
    written to X_data beside it.

    With `every_position`, the decoder's graph outputs logits at all positions. Otherwise, it outputs only the
    logits of the last token. Raises ExportError if the encoder's values that the decoder reads can't be found
    in the graph.
    """
    encoder_graph.write(bundle, encoder, data=f"{encoder.name}_data")
    ports = Ports(bundle)
    ids, states, mask, cached, past = _inputs(ports, bundle.config)
    replace_inputs(ports, ids, next(iter(past.values())), every_position=every_position)
    told = (
        lengths(ports, states, 1)
        if mask is None
        else ports.op("ReduceSum", mask, ports.constant([1]), keepdims=0)
    )
    ports.replace("encoder_lengths", told)
    own = {
        name: value for name, value in past.items() if name in ports.old and not name.startswith("encoder_")
    }
    if bundle.cache == "copied":
        own = {name: ports.grown(value, ids) for name, value in own.items()}
        # A graph may take the cache's size from any input that has it.
        ports.replace_tables(ports.op("Shape", next(iter(own.values())), start=2, end=3))
    else:
        ports.replace_tables()
    for name, value in own.items():
        ports.replace(name, value)
    source = ir.load(bundle.path / ENCODER)
    names = [str(value.name) for value in source.graph.outputs]
    read = ports.choose(
        cached,
        lambda: [ports.op("Identity", past[name]) for name in names],
        lambda: _computed(ports, source, _without_gaps(ports, states, mask), bundle.config),
    )
    for name, value in zip(names, read, strict=True):
        ports.replace(name, value)
    _name_outputs(ports, bundle.config, dict(zip(names, read, strict=True)), every_position=every_position)
    encoder_graph.keep_sums(ports.graph)
    ports.save(decoder, f"{decoder.name}_data")


def _inputs(
    ports: Ports, config: Config
) -> tuple[ir.Value, ir.Value, ir.Value | None, ir.Value, dict[str, ir.Value]]:
    """Add the decoder's new inputs and return them: the ids, the encoder's output, its mask (None for audio),
    the condition `use_cache_branch`, and the cache arrays by the names that the bundle gives them."""
    dtype = ports.old["k.0"].dtype
    assert dtype is not None
    kv_heads, size = heads(config)
    ids = ports.input("input_ids", "batch", "time")
    states = ports.input(
        "encoder_hidden_states", "batch", TEXT_AXIS, config.text_embedding.width, dtype=dtype
    )
    mask = None if config.sound_shape else ports.input("encoder_attention_mask", "batch", TEXT_AXIS)
    past = {}
    for i in range(len(config.layers)):
        for of, prefix, axis in (("decoder", "", PAST_AXIS), ("encoder", "encoder_", KEPT_AXIS)):
            for side, name in SIDES.items():
                shape = "batch", kv_heads, axis, size
                past[f"{prefix}{side}.{i}"] = ports.input(PAST % (i, of, name), *shape, dtype=dtype)
    return ids, states, mask, ports.input("use_cache_branch", 1, dtype=ir.DataType.BOOL), past


def replace_inputs(ports: Ports, ids: ir.Value, key: ir.Value, *, every_position: bool) -> None:
    """Replace the input `past` by the length of a layer's keys, and the input `at` by the positions of the
    logits. All rows have the same `past`.
    """
    op, zero, one = ports.op, ports.constant([0]), ports.constant([1])
    batch, time = op("Shape", ids, start=0, end=1), ports.length(ids)
    past = op("Expand", op("Shape", key, start=2, end=3), batch)
    ports.replace("tokens", ids)
    ports.replace("past", past)
    if every_position:
        places = op("Range", ports.constant(0), op("Squeeze", time, zero), ports.constant(1))
        at = op("Expand", places, op("Concat", batch, time, axis=0))
    else:
        at = op("Expand", op("Sub", time, one), op("Concat", batch, one, axis=0))
    ports.replace("at", at)
    for name in ports.old:
        if name.startswith("window_length."):
            ports.replace(name, past)  # the cache keeps every token


def lengths(ports: Ports, value: ir.Value, axis: int) -> ir.Value:
    """Return the length of the encoded audio for each row [B]. The length is the size of an axis, since audio
    has no padding.
    """
    batch, time = (ports.op("Shape", value, start=i, end=i + 1) for i in (0, axis))
    return ports.op("Expand", time, batch)


def _without_gaps(ports: Ports, states: ir.Value, mask: ir.Value | None) -> ir.Value:
    """Move the encoder's vectors of real tokens to the front of each row. Without a mask, return the vectors
    unchanged.
    """
    if mask is None:
        return states
    order = ports.order(mask, ports.length(mask))
    return ports.op("GatherND", states, ports.op("Unsqueeze", order, ports.constant([2])), batch_dims=1)


def _computed(ports: Ports, source: ir.Model, states: ir.Value, config: Config) -> list[ir.Value]:
    """Copy the nodes of the encoder's graph that compute keys and values from the encoder's vectors into the
    decoder's graph. Return the keys and values that they compute from `states`.

    Raises ExportError if these nodes read anything else of the text than the vectors and their sizes.
    """
    graph = source.graph
    inputs = {str(value.name): value for value in graph.inputs}
    time = "time" if config.sound_shape is None else config.sound_shape[0] // 2
    inner = encoder_graph.states(graph, graph.inputs[0], config.text_embedding.width, time)
    values = {inner: states}
    for node in _after(graph, inner):
        (value, *_) = node.inputs
        if value in inputs.values():
            values[node.outputs[0]] = _text_sizes(ports, node, states)
            continue
        for value in node.inputs:
            if value is not None and value not in values:
                values[value] = _own(ports, value)
        values |= zip(node.outputs, ports.copy(node, values, PREFIX), strict=True)
    return [values[value] for value in graph.outputs]


def _text_sizes(ports: Ports, node: ir.Node, states: ir.Value) -> ir.Value:
    """Return the sizes that a Shape node of the encoder's graph computes from an input. Here, the sizes are
    read from the encoder's output, at the axes with the same names.

    Raises ExportError if the node computes anything but such sizes.
    """
    (value, *_) = node.inputs
    assert value is not None
    assert value.shape is not None
    axes = [str(axis) for axis in value.shape]
    axes = axes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(axes))]
    if node.op_type != "Shape" or not set(axes) <= set(STATE_AXES):
        raise ExportError(f"node {node.name} must read only the shape of {value.name}: please report this")
    places = [STATE_AXES.index(axis) for axis in axes]
    sizes = [ports.op("Shape", states, start=i, end=i + 1) for i in places]
    return sizes[0] if len(sizes) == 1 else ports.op("Concat", *sizes, axis=0)


def _after(graph: ir.Graph, states: ir.Value) -> list[ir.Node]:
    """Return the nodes that compute the graph's outputs from `states`, in order."""
    needed: set[ir.Node] = set()
    todo = list(graph.outputs)
    while todo:
        producer = todo.pop().producer()
        if producer is not None and producer is not states.producer() and producer not in needed:
            needed.add(producer)
            todo += [value for value in producer.inputs if value is not None]
    return [node for node in graph if node in needed]


def _own(ports: Ports, value: ir.Value) -> ir.Value:
    """Copy a weight or constant of the encoder's graph into the decoder's graph, and return the copy.

    Raises ExportError if the value is neither a weight nor a constant.
    """
    if not value.is_initializer():
        raise ExportError(f"value {value.name} of the encoder's graph must be a weight: please report this")
    constant = value.const_value
    stored = isinstance(constant, ir.ExternalTensor)
    name = str(value.name) if stored else f"{PREFIX}{value.name}"
    if name not in ports.graph.initializers:
        new = ir.Value(name=name, type=value.type, shape=value.shape, const_value=constant)
        ports.graph.register_initializer(new)
    return ports.graph.initializers[name]


def _name_outputs(ports: Ports, config: Config, read: dict[str, ir.Value], *, every_position: bool) -> None:
    """Give the decoder's outputs the names and axes that other runtimes expect, in the order of the
    inputs.
    """
    graph = ports.graph
    old = {str(value.name): value for value in graph.outputs}
    logits = old["logits"]
    assert logits.shape is not None
    logits.shape = ir.Shape(["batch", "time" if every_position else 1, logits.shape[2]])
    graph.outputs[:] = [logits]
    kv_heads, size = heads(config)
    for i in range(len(config.layers)):
        for side, name in SIDES.items():
            value = old[f"{side}_out.{i}"]
            value.name, value.shape = (
                PRESENT % (i, "decoder", name),
                ir.Shape(["batch", kv_heads, TOTAL_AXIS, size]),
            )
            graph.outputs.append(value)
        for side, name in SIDES.items():
            value = read[f"encoder_{side}.{i}"]
            value.name, value.type = PRESENT % (i, "encoder", name), logits.type
            value.shape = ir.Shape(["batch", kv_heads, TEXT_AXIS, size])
            graph.outputs.append(value)
