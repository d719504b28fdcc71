"""Write the graphs of a speech model, with the inputs and outputs that onnxruntime-genai expects for Whisper.

    encoder.onnx   audio_features [B, C, 2·S] -> hidden_states [B, S, D], and for each layer of the decoder
                   present_key_cross_I [B, G, S, K] and present_value_cross_I
    decoder.onnx   input_ids [B, T], past_key_self_I [B, G, P, K], past_key_cross_I, and values in the same
                   form -> logits [B, 1, N] of the last token, present_key_self_I [B, G, P + T, K] and values

As in a bundle, the encoder computes the keys and values that the decoder reads.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import ENCODER
from . import encoder_decoder_graph, encoder_graph
from .encoder_decoder_graph import PAST_AXIS, SIDES, TOTAL_AXIS
from .ports import Ports

FEATURES, STATES = "audio_features", "hidden_states"


def name(when: str, side: str, of: str, layer: int | str = "%d") -> str:
    """Return the name of a cache input or output. `when` is past or present, `side` is key or value, and `of`
    is self or cross.

    By default, the layer is "%d", which makes the name a pattern for all layers.
    """
    return f"{when}_{side}_{of}_{layer}"


def write_encoder(bundle: Bundle, path: Path) -> None:
    """Write the encoder's graph to `path`, and its weights to a file beside it."""
    ports = Ports(bundle, ENCODER)
    vectors = encoder_graph.heard(ports, FEATURES, bundle.config)
    old = {str(value.name): value for value in ports.graph.outputs}
    vectors.name = STATES
    for i in range(len(bundle.config.layers)):
        for short, side in SIDES.items():
            old[f"encoder_{short}.{i}"].name = name("present", side, "cross", i)
    ports.graph.outputs.insert(0, vectors)
    encoder_graph.keep_sums(ports.graph)
    ports.save(path, f"{path.name}.data")


def write_decoder(bundle: Bundle, path: Path) -> None:
    """Write the decoder's graph to `path`, and its weights to a file beside it."""
    ports, config = Ports(bundle), bundle.config
    assert config.sound_shape is not None
    kv_heads, size = encoder_decoder_graph.heads(config)
    dtype, positions = ports.old["k.0"].dtype, config.sound_shape[0] // 2
    assert dtype is not None
    ids = ports.input("input_ids", "batch", "time")
    past = {}
    for of, prefix, axis in (("self", "", PAST_AXIS), ("cross", "encoder_", positions)):
        for i in range(len(config.layers)):
            for short, side in SIDES.items():
                port = ports.input(name("past", side, of, i), "batch", kv_heads, axis, size, dtype=dtype)
                past[f"{prefix}{short}.{i}"] = port
    encoder_decoder_graph.replace_inputs(ports, ids, past["k.0"], every_position=False)
    ports.replace("encoder_lengths", encoder_decoder_graph.lengths(ports, past["encoder_k.0"], 2))
    for old, value in past.items():
        grows = bundle.cache == "copied" and not old.startswith("encoder_")
        ports.replace(old, ports.grown(value, ids) if grows else value)
    ports.replace_tables()
    outputs = {str(value.name): value for value in ports.graph.outputs}
    logits = outputs["logits"]
    assert logits.shape is not None
    logits.shape = ir.Shape(["batch", 1, logits.shape[2]])
    ports.graph.outputs[:] = [logits]
    for i in range(len(config.layers)):
        for short, side in SIDES.items():
            value = outputs[f"{short}_out.{i}"]
            value.name, value.shape = (
                name("present", side, "self", i),
                ir.Shape(["batch", kv_heads, TOTAL_AXIS, size]),
            )
            ports.graph.outputs.append(value)
    encoder_graph.keep_sums(ports.graph)
    ports.save(path, f"{path.name}.data")
