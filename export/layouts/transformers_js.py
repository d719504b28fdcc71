"""Write a bundle for transformers.js, https://github.com/huggingface/transformers.js, in Node or a browser.

    config.json             sizes, labels, and under "transformers.js_config" which file to open
    onnx/model_X.onnx       the graph of `decoder_graph` with logits at each row's last token, or of
                            `encoder_graph`
    onnx/model_X.onnx_data  the bundle's weights, and the rotary tables
    tokenizer.json          with tokenizer_config.json, and for a decoder generation_config.json

A decoder that reads an encoder has the graphs of `encoder_decoder_graph` instead of model_X.onnx:

    onnx/encoder_model_X.onnx, onnx/decoder_model_merged_X.onnx, and the weights of each in NAME.onnx_data

_X is _quantized for 8 bits, _q4 for int4, and nothing for floats.

In Node, the tokens are the same as those of ONNX Runtime on a CPU. In a browser, WebAssembly computes
products of blocks in floats, whatever the graph asks for. So for `--quant` int8, int4, keep and int8-dynamic,
a browser may generate other tokens than those that the certificate describes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...refimpl.config import Config
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target
from . import decoder_graph, encoder_decoder_graph, encoder_graph, hub_files
from .layout import BundleLayout

# The library's name of a quantization, and what it appends to the name of the file.
DTYPES = {"fp32": ("fp32", ""), "int4": ("q4", "_q4")}
EIGHT_BITS = ("q8", "_quantized")
# It reads beams, and takes the best token of each step all the same; top_p and others it doesn't look at.
# Source: _get_logits_processor and the loop of src/models/modeling_utils.js, and its samplers, in 4.3.
OPTIONS = frozenset(
    (
        "temperature",
        "top_k",
        "repetition_penalty",
        "no_repeat_ngram",
        "min_new_tokens",
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad_words",
        "forced_tokens",
        "forced_last",
    )
)


# Of a layer's states: a convolution's last inputs, and what a recurrence has summed up.
STATES = (("past_conv.%d", "present_conv.%d"), ("past_ssm.%d", "present_ssm.%d"))


def refusal(config: Config, target: Target, states: decoder_graph.StateNames = STATES) -> str | None:
    if "decoder" not in config.stacks:
        return encoder_graph.refusal(config, target)
    if "encoder" in config.stacks:
        return encoder_decoder_graph.refusal(config, target)
    if reason := decoder_graph.refusal(config, target, states):
        return reason
    if not decoder_graph.heads_of_layers(config):
        return "the runtime counts a text's tokens by a layer's keys, but no layer of this model has keys"
    return None


def write(bundle: Bundle, folder: Path) -> None:
    dtype, suffix = DTYPES.get(bundle.quant, EIGHT_BITS)
    (folder / "onnx").mkdir()
    write_graphs(bundle, folder / "onnx", suffix, every_position=False, states=STATES)
    more = {"transformers.js_config": {"dtype": dtype, "use_external_data_format": True}}
    stated = replace(bundle.manifest, generation=LAYOUT.stated(bundle.generation))
    hub_files.write(replace(bundle, manifest=stated), folder, more)


def write_graphs(
    bundle: Bundle, folder: Path, suffix: str, *, every_position: bool, states: decoder_graph.StateNames = ()
) -> None:
    """Write the graphs of a model: one graph, or an encoder and a decoder. The file names are NAME.onnx,
    where NAME ends with `suffix`. Each graph's weights are in NAME.onnx_data. `states` are the names of a
    decoder's states.
    """
    stacks = bundle.config.stacks
    if "decoder" in stacks and "encoder" in stacks:
        encoder, decoder = (
            folder / f"{name}{suffix}.onnx" for name in ("encoder_model", "decoder_model_merged")
        )
        encoder_decoder_graph.write(bundle, encoder, decoder, every_position=every_position)
        return
    path = folder / f"model{suffix}.onnx"
    if "decoder" in stacks:
        decoder_graph.write(
            bundle, path, data=f"{path.name}_data", every_position=every_position, states=states
        )
    else:
        encoder_graph.write(bundle, path, data=f"{path.name}_data")


LAYOUT = BundleLayout("transformers.js", refusal, write, OPTIONS)
