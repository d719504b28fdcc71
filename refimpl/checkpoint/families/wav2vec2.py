"""wav2vec 2.0 (Baevski et al. 2020): an encoder of a recording's samples. It predicts a letter at each
position.

Convolutions make one vector from every 20 milliseconds. Positions come from a convolution over many of these
vectors; the files store its weight as lengths and directions. Layers have their norms after the residual
sums, or before the sublayers with `do_stable_layer_norm`.
"""

from __future__ import annotations

from typing import Any

from ...config import (
    CTC,
    LIMITS,
    Attention,
    Convolution,
    ConvPositions,
    Embedding,
    Encoder,
    Layer,
    LayerNorm,
    Plain,
    Stack,
    WaveStem,
)
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task

MODEL_TYPES = ("wav2vec2",)
ARCHITECTURES: dict[str, Task] = {"Wav2Vec2ForCTC": "ctc"}
WITHOUT_WORDS = {
    "Model": "returns hidden states, and has no head that predicts letters",
    "ForPreTraining": "was trained only on sounds, and has no head that predicts letters",
    "ForSequenceClassification": "classifies sounds, and doesn't transcribe them",
    "ForAudioFrameClassification": "finds who speaks, and doesn't transcribe the speech",
    "ForXVector": "recognizes a speaker, and doesn't transcribe the speech",
}
UNREAD_ARCHITECTURES = {f"Wav2Vec2{name}": why for name, why in WITHOUT_WORDS.items()}
PREFIX = "wav2vec2."
# Positions of a sound that are read at once: 20 seconds where there is one of every 20 milliseconds.
CONTEXT = 1000
MOST_CONVOLUTIONS = LIMITS["clusters"]
# Of training, and of heads that this class hasn't.
UNUSED: dict[str, Any] = {
    **dict.fromkeys(
        (
            "hidden_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop",
            "feat_quantizer_dropout", "final_dropout", "mask_time_prob", "mask_feature_prob",
            "contrastive_logits_temperature", "diversity_loss_weight", "feat_extract_dropout",
            "mask_channel_prob",
        ),
        (float,),
    ),
    **dict.fromkeys(
        (
            "mask_time_length", "mask_time_min_masks", "mask_feature_length", "mask_feature_min_masks",
            "num_codevectors_per_group", "num_codevector_groups", "num_negatives", "codevector_dim",
            "proj_codevector_dim", "classifier_proj_size", "xvector_output_dim", "adapter_kernel_size",
            "adapter_stride", "num_adapter_layers", "output_hidden_size", "mask_channel_length",
            "mask_channel_min_space",
        ),
        (int, None),
    ),
    **dict.fromkeys(("tdnn_dim", "tdnn_kernel", "tdnn_dilation"), (list,)),
    **dict.fromkeys(
        (
            "apply_spec_augment", "ctc_zero_infinity", "use_weighted_layer_sum", "mask_channel_other",
            "no_mask_channel_overlap", "no_mask_time_overlap",
        ),
        (bool,),
    ),
    **dict.fromkeys(("ctc_loss_reduction", "mask_channel_selection"), (str,)),
}  # fmt: skip


def config(keys: Keys, task: Task) -> Encoder:
    keys.harmless(**UNUSED)
    width = keys.size("hidden_size")
    norm = LayerNorm(keys.positive("layer_norm_eps", 1e-5))
    before = keys.get("do_stable_layer_norm", bool, False)
    around: dict[str, Any] = {"pre": norm} if before else {"after": norm}
    heads, size = keys.size("num_attention_heads"), head_size(keys, "hidden_size", "num_attention_heads")
    layer = Layer(
        Attention(heads, heads, size, qkv_bias=True, out_bias=True, **around),
        Plain(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "gelu"), **around),
    )
    stack = Stack(
        (layer,) * layer_count(keys, "num_hidden_layers"),
        final_norm=norm if before else None,
        first_norm=None if before else norm,
        positions=ConvPositions(
            keys.size("num_conv_pos_embeddings", 128),
            keys.size("num_conv_pos_embedding_groups", 16),
            activation := keys.choice("feat_extract_activation", ACTIVATIONS, "gelu"),
        ),
        stem=WaveStem(
            _convolutions(keys),
            normalized=keys.choice("feat_extract_norm", {"group": "first", "layer": "each"}, "group"),
            activation=activation,
            bias=keys.get("conv_bias", bool, False),
            norm=norm if keys.get("feat_proj_layer_norm", bool, True) else None,
        ),
    )
    for name in ("add_adapter", "conv_pos_batch_norm", "is_decoder"):
        if keys.get(name, bool, False):
            raise keys.fail(name, "false")
    if keys.get("adapter_attn_dim", int, None, null=True) is not None:
        raise keys.fail("adapter_attn_dim", "null: tfm doesn't read weights for single languages")
    return Encoder(Embedding(keys.size("vocab_size"), width), stack, CTC(), CONTEXT)


def _convolutions(keys: Keys) -> tuple[Convolution, ...]:
    """Return the convolutions of the stem, from lists of their channels, lengths and strides."""
    usual = {
        "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    }
    lists = [keys.get(name, list, default) for name, default in usual.items()]
    if keys.get("num_feat_extract_layers", int, len(lists[0])) != len(lists[0]):
        raise keys.fail("num_feat_extract_layers", f"{len(lists[0])}, the length of conv_dim")
    for name, values in zip(usual, lists, strict=True):
        if len(values) != len(lists[0]) or not all(type(value) is int for value in values):
            raise keys.fail(name, f"{len(lists[0])} whole numbers, one for each convolution")
    return tuple(Convolution(*one) for one in zip(*lists, strict=True))


# Of one of the stem's convolutions.
_CONVOLUTION = """
    encoder.stem.convolutions.{c}.kernel <- feature_extractor.conv_layers.{c}.conv.weight
    encoder.stem.convolutions.{c}.bias <- feature_extractor.conv_layers.{c}.conv.bias
    encoder.stem.convolutions.{c}.norm.weight <- feature_extractor.conv_layers.{c}.layer_norm.weight
    encoder.stem.convolutions.{c}.norm.bias <- feature_extractor.conv_layers.{c}.layer_norm.bias
"""
WEIGHTS = weight_map(
    "".join(_CONVOLUTION.replace("{c}", str(c)) for c in range(MOST_CONVOLUTIONS))
    + """
    nothing <- masked_spec_embed
    encoder.stem.norm.{weight,bias} <- feature_projection.layer_norm.{weight,bias}
    encoder.stem.project <- feature_projection.projection.weight : transpose
    encoder.stem.project_bias <- feature_projection.projection.bias
    encoder.position_kernel <- encoder.pos_conv_embed.conv.weight
    encoder.position_bias <- encoder.pos_conv_embed.conv.bias
    encoder.first_norm.{weight,bias} <- encoder.layer_norm.{weight,bias}
    encoder.layers.{i}.attn_pre.{weight,bias} <- encoder.layers.{i}.layer_norm.{weight,bias}
    encoder.layers.{i}.attn_after.{weight,bias} <- encoder.layers.{i}.layer_norm.{weight,bias}
    encoder.layers.{i}.attn.{wq,wk,wv} <- encoder.layers.{i}.attention.{q,k,v}_proj.weight : transpose
    encoder.layers.{i}.attn.{bq,bk,bv,bo} <- encoder.layers.{i}.attention.{q,k,v,out}_proj.bias
    encoder.layers.{i}.attn.wo <- encoder.layers.{i}.attention.out_proj.weight : transpose
    encoder.layers.{i}.mlp_pre.{weight,bias} <- encoder.layers.{i}.final_layer_norm.{weight,bias}
    encoder.layers.{i}.mlp_after.{weight,bias} <- encoder.layers.{i}.final_layer_norm.{weight,bias}
    encoder.layers.{i}.mlp.up <- encoder.layers.{i}.feed_forward.intermediate_dense.weight : transpose
    encoder.layers.{i}.mlp.down <- encoder.layers.{i}.feed_forward.output_dense.weight : transpose
    encoder.layers.{i}.mlp.bup <- encoder.layers.{i}.feed_forward.intermediate_dense.bias
    encoder.layers.{i}.mlp.bdown <- encoder.layers.{i}.feed_forward.output_dense.bias
    encoder.norm.{weight,bias} <- encoder.layer_norm.{weight,bias}
    embedding.table <- lm_head.weight
    head.bias <- lm_head.bias
"""
)
