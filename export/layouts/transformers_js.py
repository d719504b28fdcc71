"""Files for transformers.js, https://github.com/huggingface/transformers.js, in Node or a browser.

    config.json             sizes, labels, and under "transformers.js_config" which file to open
    onnx/model_X.onnx       the graph of `decoder_graph`, logits at each row's last token, or `encoder_graph`
    onnx/model_X.onnx_data  the bundle's weights, and the rotary tables
    tokenizer.json          with tokenizer_config.json, and for a decoder generation_config.json

X is _quantized for 8 bits, _q4 for int4, and nothing for floats. In Node the tokens are those of ONNX Runtime
on a CPU. In a browser, WebAssembly computes products of blocks in floats, whatever the graph asks for: other
tokens than the certificate's for `--quant` int8, int4, keep and int8-dynamic.
"""

from __future__ import annotations

from pathlib import Path

from ...refimpl.config import Config
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target
from . import decoder_graph, encoder_graph, hub_files
from .layout import BundleLayout

# The library's name of a quantization, and what it appends to the name of the file.
DTYPES = {"fp32": ("fp32", ""), "int4": ("q4", "_q4")}
EIGHT_BITS = ("q8", "_quantized")


def refusal(config: Config, target: Target) -> str | None:
    covers = decoder_graph if "decoder" in config.stacks else encoder_graph
    return covers.refusal(config, target)


def write(bundle: Bundle, folder: Path) -> None:
    dtype, suffix = DTYPES.get(bundle.quant, EIGHT_BITS)
    path = folder / "onnx" / f"model{suffix}.onnx"
    path.parent.mkdir()
    data = f"{path.name}_data"
    if "decoder" in bundle.config.stacks:
        decoder_graph.write(bundle, path, data=data, every_position=False)
    else:
        encoder_graph.write(bundle, path, data=data)
    hub_files.write(
        bundle, folder, {"transformers.js_config": {"dtype": dtype, "use_external_data_format": True}}
    )


LAYOUT = BundleLayout("transformers.js", refusal, write)
