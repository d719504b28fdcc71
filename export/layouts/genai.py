"""Write a bundle for onnxruntime-genai, https://github.com/microsoft/onnxruntime-genai.

    genai_config.json       sizes, names of inputs and outputs, special tokens, how tokens are chosen
    model.onnx              the graph of `decoder_graph`, with logits at each row's last token
    model.onnx.data         the bundle's weights, and the rotary tables
    tokenizer.json          with tokenizer_config.json, if the bundle has a tokenizer

A speech model such as Whisper has other files instead of model.onnx. These are the graphs of `genai_hearing`,
encoder.onnx and decoder.onnx, and audio_processor_config.json, which says how audio becomes frames.

A decoder's `type` is "llama" for nearly every family. In genai, this type only says that the graph is a
decoder with a cache of keys and values, and of two states in each recurrent layer. If layers have one state,
the last inputs of a convolution, the type is "lfm2". The family's own computation is in the graph. Sampling
options that genai lacks are left out.

genai pads the prompts of a batch on the right with `pad_token_id`, and recognizes padding by that id. So if
one of several prompts ends in real tokens with this id, genai drops them. genai treats padding on the left as
tokens. If a model has no end token, genai treats `pad_token_id` as the end token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...refimpl.config import Config, EncoderDecoder
from ...refimpl.engine.cache_kinds import cache_kinds
from ...refimpl.engine.sound import HOP, RATE, WINDOW
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target
from . import decoder_graph, encoder_decoder_graph, genai_hearing
from .hub_files import pad_id, tokenizer_config, write_json
from .layout import BundleLayout

FRAMES = 3000  # of a sound, which it has as a constant
# Of a layer's states: a convolution's last inputs, and what a recurrence has summed up.
STATES = (
    ("past_key_values.%d.conv_state", "present.%d.conv_state"),
    ("past_key_values.%d.recurrent_state", "present.%d.recurrent_state"),
)
MOST_AXES = 3  # of a layer's first state
Axes = tuple[str | int, ...]
# Options of a Sampler that genai has too.
SEARCH = ("temperature", "top_k", "top_p", "repetition_penalty")


def refusal(config: Config, target: Target) -> str | None:
    """Return the reason why a model can't be written for onnxruntime-genai, or None if it can."""
    if isinstance(config, EncoderDecoder):
        if config.sound_shape is None:
            return "a model with an encoder must be Whisper, or Marian with a recurrent decoder"
        if (size := config.sound_shape[0]) != FRAMES:
            return f"the model must read sounds of {FRAMES} frames, got {size}"
        return encoder_decoder_graph.refusal(config, target)
    if reason := decoder_graph.refusal(config, target, STATES):
        return reason
    states = _states(config)
    if len(set(states.values())) > 1:
        return "the runtime has one shape for the states of all layers, but this model's states have several"
    for i, (first, *_) in states.items():
        if len(first) > MOST_AXES:
            past = STATES[0][0] % i
            return f"the runtime's {past} has {MOST_AXES} axes, but the state of layer {i} has {len(first)}"
    if not _convolves(config):
        return None
    if len(states) + len(decoder_graph.heads_of_layers(config)) < len(config.layers):
        return "each layer must cache keys or a convolution's last inputs, but some layers read others' keys"
    return decoder_graph.one_size(config)


def _states(config: Config) -> dict[int, tuple[Axes, ...]]:
    """Return the axes of the states of each layer that has states."""
    kinds = enumerate(cache_kinds(config))
    states = {i: tuple(array.axes for array in decoder_graph.arrays(kind)[1]) for i, kind in kinds}
    return {i: axes for i, axes in states.items() if axes}


def _convolves(config: Config) -> bool:
    """Return whether the states of a model's layers are the last inputs of convolutions alone."""
    return any(len(axes) == 1 for axes in _states(config).values())


def write(bundle: Bundle, folder: Path) -> None:
    if (frames := bundle.config.sound_shape) is not None:
        genai_hearing.write_encoder(bundle, folder / "encoder.onnx")
        genai_hearing.write_decoder(bundle, folder / "decoder.onnx")
        write_json(folder / "audio_processor_config.json", audio_processor_config(frames))
    else:
        path = folder / "model.onnx"
        decoder_graph.write(bundle, path, data=f"{path.name}.data", every_position=False, states=STATES)
    write_json(folder / "genai_config.json", genai_config(bundle))
    if (tokenizer := tokenizer_config(bundle)) is not None:
        write_json(folder / "tokenizer_config.json", tokenizer)


def genai_config(bundle: Bundle) -> dict[str, Any]:
    """Return the content of genai_config.json for a bundle."""
    config, generation = bundle.config, bundle.generation
    hears = config.sound_shape is not None
    heads, kv_heads, size = decoder_graph.heads(config)
    decoder: dict[str, Any] = {
        "session_options": {"provider_options": []},
        "filename": "decoder.onnx" if hears else "model.onnx",
        "head_size": size,
        "hidden_size": config.embedding.width,
        "num_attention_heads": heads,
        "num_hidden_layers": len(config.layers),
        "num_key_value_heads": kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": decoder_graph.KEY,
            "past_value_names": decoder_graph.VALUE,
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": decoder_graph.NEW_KEY,
            "present_value_names": decoder_graph.NEW_VALUE,
        },
    }
    if hears:
        past, present = (
            {f"{side}_names": genai_hearing.name(when, side, "self") for side in ("key", "value")}
            for when in ("past", "present")
        )
        cross = {
            f"cross_past_{side}_names": genai_hearing.name("past", side, "cross") for side in ("key", "value")
        }
        decoder["inputs"] = {"input_ids": "input_ids"} | {f"past_{n}": v for n, v in past.items()} | cross
        decoder["outputs"] = {"logits": "logits"} | {f"present_{n}": v for n, v in present.items()}
    convolves = _convolves(config)
    if convolves:
        (past, present), _ = STATES
        decoder["inputs"]["past_conv_names"], decoder["outputs"]["present_conv_names"] = past, present
        with_keys = decoder_graph.heads_of_layers(config)
        decoder["layer_types"] = [
            "full_attention" if i in with_keys else "conv" for i in range(len(config.layers))
        ]
    model = {
        "type": "whisper" if hears else "lfm2" if convolves else "llama",
        "context_length": config.context,
        "vocab_size": config.embedding.vocabulary,
        **({} if generation.bos is None else {"bos_token_id": generation.bos}),
        "eos_token_id": list(generation.eos),
        "pad_token_id": pad_id(bundle),
        "decoder": decoder,
        **({"encoder": _encoder(bundle)} if hears else {}),
    }
    stated = generation.defaults
    search = {name: stated[name] for name in SEARCH if stated.get(name) is not None}
    search |= {"do_sample": stated.get("temperature") is not None, "max_length": config.context}
    return {"model": model, "search": search | {"past_present_share_buffer": False}}


def _encoder(bundle: Bundle) -> dict[str, Any]:
    """Return the part of genai_config.json that describes a speech model's encoder."""
    stack = bundle.config.stacks["encoder"]
    attention = stack.attentions[0]
    cross = {
        f"cross_present_{side}_names": genai_hearing.name("present", side, "cross")
        for side in ("key", "value")
    }
    return {
        "session_options": {"provider_options": []},
        "filename": "encoder.onnx",
        "head_size": attention.head_size,
        "hidden_size": bundle.config.embedding.width,
        "num_attention_heads": attention.heads,
        "num_hidden_layers": len(stack.layers),
        "num_key_value_heads": attention.kv_heads,
        "inputs": {"audio_features": genai_hearing.FEATURES},
        "outputs": {"encoder_hidden_states": genai_hearing.STATES, **cross},
    }


def audio_processor_config(frames: tuple[int, int]) -> dict[str, Any]:
    """Return the content of audio_processor_config.json: the operators that turn audio into frames
    (`engine.sound.features`).
    """
    size, bands = frames
    window = {"n_fft": WINDOW, "frame_length": WINDOW, "hop_length": HOP}
    seconds = {"chunk_size": size * HOP // RATE, "n_fft": WINDOW, "hop_length": HOP, "n_mel": bands}
    steps = [
        {"name": "audio_decoder", "type": "AudioDecoder"},
        {"name": "STFT", "type": "STFTNorm", "attrs": window},
        {"name": "log_mel_spectrogram", "type": "LogMelSpectrum", "attrs": seconds},
    ]
    return {"feature_extraction": {"sequence": [{"operation": step} for step in steps]}}


LAYOUT = BundleLayout("genai", refusal, write, frozenset(SEARCH), must_end=True)
