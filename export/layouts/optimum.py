"""Files for optimum, https://github.com/huggingface/optimum-onnx: its ORTModel classes, in Python.

config.json       sizes and labels
model.onnx        the graph of `decoder_graph`, logits at all positions, or `encoder_graph`
model.onnx_data   the bundle's weights, and the rotary tables
tokenizer.json    with tokenizer_config.json, and for a decoder generation_config.json
"""

from __future__ import annotations

from pathlib import Path

from ...runtime.bundle.bundle import Bundle
from . import decoder_graph, encoder_graph, hub_files
from .layout import BundleLayout
from .transformers_js import refusal


def write(bundle: Bundle, folder: Path) -> None:
    if "decoder" in bundle.config.stacks:
        decoder_graph.write(bundle, folder / "model.onnx", data="model.onnx_data", every_position=True)
    else:
        encoder_graph.write(bundle, folder / "model.onnx", data="model.onnx_data")
    hub_files.write(bundle, folder, {})


LAYOUT = BundleLayout("optimum", refusal, write)
