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

from ...runtime.bundle.bundle import Bundle
from . import hub_files
from .layout import BundleLayout
from .transformers_js import refusal, write_graphs


def write(bundle: Bundle, folder: Path) -> None:
    write_graphs(bundle, folder, "", every_position=True)
    hub_files.write(bundle, folder, {})


LAYOUT = BundleLayout("optimum", refusal, write)
