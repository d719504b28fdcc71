"""Whisper and Distil-Whisper (Radford et al. 2022): an encoder of sound, and a decoder that writes what was
said.

The encoder reads a log-mel spectrogram of 30 seconds through two convolutions. The files store its sinusoidal
positions as a table. Queries and values have biases, and keys have none.
"""

from __future__ import annotations

from typing import Any

from ...config import (
    LM,
    Attention,
    ConvStem,
    Embedding,
    EncoderDecoder,
    Layer,
    LayerNorm,
    Learned,
    Plain,
    Stack,
)
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, bart

MODEL_TYPES = ("whisper",)
ARCHITECTURES: dict[str, Task] = {"WhisperForConditionalGeneration": "lm"}
UNREAD_ARCHITECTURES = {
    "WhisperForAudioClassification": "classifies sounds, and doesn't transcribe them",
    "WhisperForCausalLM": "is a decoder without an encoder, so nothing reads the sound",
}
# Of training, of heads that this class hasn't, and of transformers' own loop.
UNUSED: dict[str, Any] = {
    "scale_embedding": (bool,), "use_weighted_layer_sum": (bool,), "classifier_proj_size": (int,),
    "apply_spec_augment": (bool,), "median_filter_width": (int,), "forced_decoder_ids": (list, None),
    **dict.fromkeys(
        (
            "dropout", "activation_dropout", "init_std", "encoder_layerdrop", "decoder_layerdrop",
            "mask_time_prob", "mask_feature_prob",
        ),
        (float,),
    ),
    **dict.fromkeys(
        (
            "mask_time_length", "mask_time_min_masks", "mask_feature_length", "mask_feature_min_masks",
        ),
        (int,),
    ),
}  # fmt: skip


def config(keys: Keys, task: Task) -> EncoderDecoder:
    keys.harmless(**UNUSED)
    norm, width = LayerNorm(1e-5), keys.size("d_model")
    kind = keys.choice("activation_function", ACTIVATIONS, "gelu")
    contexts = {
        "encoder": keys.size("max_source_positions", 1500),
        "decoder": keys.size("max_target_positions", 448),
    }
    stacks = []
    for side, context in contexts.items():
        heads = keys.size(named := f"{side}_attention_heads")
        size = head_size(keys, "d_model", named)
        attention = Attention(heads, heads, size, qkv_bias=True, out_bias=True, pre=norm)
        layer = Layer(
            attention,
            Plain(keys.size(f"{side}_ffn_dim"), kind, pre=norm),
            cross=attention if side == "decoder" else None,
        )
        stem = ConvStem(keys.size("num_mel_bins", 80)) if side == "encoder" else None
        layers = (layer,) * layer_count(keys, f"{side}_layers")
        stacks.append(Stack(layers, norm, Learned(context), stem=stem))
    for old_key, current_key in (("num_hidden_layers", "encoder_layers"), ("hidden_size", "d_model"),
                                 ("num_attention_heads", "encoder_attention_heads")):  # fmt: skip
        keys.restated(old_key, size := keys.size(current_key), f"the same as {current_key} ({size})")
    return EncoderDecoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        encoder=stacks[0],
        decoder=stacks[1],
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=contexts["decoder"],
        encoder_context=contexts["encoder"],
    )


_PLACES = {
    "encoder.layers.{i}.attn": "encoder.layers.{i}.self_attn",
    "decoder.layers.{i}.attn": "decoder.layers.{i}.self_attn",
    "decoder.layers.{i}.cross": "decoder.layers.{i}.encoder_attn",
}
WEIGHTS = (
    bart.WEIGHTS.without(*(f"{leaf}.{bias}" for leaf in _PLACES for bias in ("bq", "bk"))).renamed(
        {"lm_head": "proj_out"}
    )
    + weight_map(
        "".join(f"{leaf}.bq, bk <- {name}.q_proj.bias : zeros_after\n" for leaf, name in _PLACES.items())
    )
    + weight_map("""
    encoder.stem.conv1 <- encoder.conv1.weight : three_taps
    encoder.stem.conv1_bias <- encoder.conv1.bias
    encoder.stem.conv2 <- encoder.conv2.weight : three_taps
    encoder.stem.conv2_bias <- encoder.conv2.bias
""")
)
