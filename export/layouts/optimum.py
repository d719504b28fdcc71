"""Write a bundle for optimum, https://github.com/huggingface/optimum-onnx, whose ORTModel classes run it in
Python.

    config.json       sizes and labels
    model.onnx        the graph of `decoder_graph` with logits at all positions, or of `encoder_graph`
    model.onnx_data   the bundle's weights, and the rotary tables
    tokenizer.json    with tokenizer_config.json, and for a decoder generation_config.json

A decoder that reads an encoder has other files instead of model.onnx: the graphs of `encoder_decoder_graph`,
encoder_model.onnx and decoder_model_merged.onnx, and their weights beside them.
"""

from __future__ import annotations

from pathlib import Path

from ...refimpl.config import Config, Decoder
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target
from . import decoder_graph, hub_files, transformers_js
from .layout import BundleLayout
from .transformers_js import write_graphs


def refusal(config: Config, target: Target) -> str | None:
    if reason := transformers_js.refusal(config, target, states=()):
        return reason
    return decoder_graph.one_size(config) if isinstance(config, Decoder) else None


def write(bundle: Bundle, folder: Path) -> None:
    write_graphs(bundle, folder, "", every_position=True)
    hub_files.write(bundle, folder, {})


LAYOUT = BundleLayout("optimum", refusal, write)
