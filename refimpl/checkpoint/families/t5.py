"""T5, Flan-T5, mT5, ByT5, UL2 and UMT5 (Raffel et al. 2020): an encoder and a decoder, in versions 1.0 and
1.1.

The versions differ in the mlp (ReLU, or gated GELU) and in the output. In 1.0, the output table is the
input's table, and logits are scaled by d_model^-½. 1.1 and mT5 have a separate output table and no scale. A
config states the output of 1.0 by `tie_word_embeddings`, which is true by default. A config written by
transformers 5 states it by `scale_decoder_outputs`. Then the tensors show whether there is an output table.
In UMT5 each layer has separate relative biases.
"""

from dataclasses import replace

from ...config import (
    LM,
    Attention,
    Embedding,
    EncoderDecoder,
    Gated,
    Layer,
    Plain,
    RelativeBias,
    RMSNorm,
    Stack,
)
from ..config_readers.gguf_keys import COMMON, EPS, RMS_EPS, Row, agreeing, either, lacks, unused
from ..config_readers.gguf_metadata import own_head_size
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import layer_count
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task

MODEL_TYPES = ("t5", "mt5", "umt5")
ARCHITECTURES: dict[str, Task] = {
    "T5ForConditionalGeneration": "lm",
    "MT5ForConditionalGeneration": "lm",
    "UMT5ForConditionalGeneration": "lm",
    "T5WithLMHeadModel": "lm",  # its name before transformers 4
    **dict.fromkeys(("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel"), "pool"),
    **{f"{name}ForTokenClassification": "tag" for name in ("T5", "MT5", "UMT5")},
    **{f"{name}ForSequenceClassification": "classify" for name in ("T5", "MT5", "UMT5")},
    **{f"{name}ForQuestionAnswering": "answer" for name in ("T5", "MT5", "UMT5")},
}
PREFIX = "transformer."

# T5 has no last position: all distances from max_distance on share a bucket. It was trained on 512 tokens
# (n_positions, which transformers doesn't read) and is used on some thousand; the bound keeps an
# encoder's scores, which grow with the square, at 64 MiB a head.
CONTEXT = 4096


def config(keys: Keys, task: Task) -> EncoderDecoder:
    # Of training, or of heads that these classes haven't.
    for key in ("dropout_rate", "initializer_factor"):
        keys.get(key, float, None)
    kind = keys.get("model_type", str)
    if kind == "umt5":
        keys.harmless(scalable_attention=(True,))  # no class reads it
    width, heads, depth = keys.size("d_model"), keys.size("num_heads"), layer_count(keys, "num_layers")
    for key, t5_key in (("hidden_size", "d_model"), ("num_attention_heads", "num_heads"),
                     ("num_hidden_layers", "num_layers")):  # fmt: skip
        keys.restated(key, size := keys.size(t5_key), f"the same as {t5_key} ({size})")
    norm = RMSNorm(keys.positive("layer_norm_epsilon", 1e-6))
    size = keys.size("d_kv", 64)
    buckets = keys.size("relative_attention_num_buckets", 32)
    distance = keys.size("relative_attention_max_distance", 128)
    position = RelativeBias(buckets, distance, shared=kind != "umt5")
    attention = Attention(heads, heads, size, position=position, scale=1.0, pre=norm)
    mlp = _mlp(keys, norm, "gated-gelu" if kind in ("mt5", "umt5") else "relu")
    reads = Layer(attention, mlp, cross=replace(attention, position=None))  # that has no positions
    return EncoderDecoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        encoder=Stack((Layer(attention, mlp),) * depth, norm),
        decoder=Stack((reads,) * layer_count(keys, "num_decoder_layers", depth), norm),
        head=_output(keys, kind == "mt5", width),
        context=max(CONTEXT, keys.size("n_positions", 512)),
    )


def _mlp(keys: Keys, norm: RMSNorm, default: str) -> Gated | Plain:
    """Return the mlp that a name such as `relu` or `gated-silu` describes.

    A gated gelu is the tanh approximation. The keys that transformers derives from the name must agree.
    """
    width = keys.size("d_ff")
    told = keys.get("feed_forward_proj", str, default)
    gated, name = told.startswith("gated-"), told.removeprefix("gated-")
    if name not in ACTIVATIONS:
        raise keys.fail("feed_forward_proj", f"one of {', '.join(ACTIVATIONS)}, or one of these after gated-")
    activation = "gelu_tanh" if told == "gated-gelu" else ACTIVATIONS[name]
    if keys.get("is_gated_act", bool, gated) != gated:
        raise keys.fail("is_gated_act", f"{str(gated).lower()}, as feed_forward_proj states")
    if "dense_act_fn" in keys and keys.choice("dense_act_fn", ACTIVATIONS) != activation:
        raise keys.fail("dense_act_fn", f"the activation {activation}, as feed_forward_proj states")
    if gated:
        return Gated(width, activation, pre=norm)
    return Plain(width, activation, bias=False, pre=norm)


def _output(keys: Keys, new: bool, width: int) -> LM:
    """Return the output head: whether its table is the input's table, and the factor of the logits."""
    told = keys.get("tie_word_embeddings", bool, True)
    scaled = False if new else keys.get("scale_decoder_outputs", bool, told)
    if keys.tensors is not None:
        told = (told and scaled) or "lm_head.weight" not in keys.tensors
    return LM(told, scale=width**-0.5 if scaled else None)


_STACK = weight_map("""
    encoder.relative_bias <- encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight
    encoder.layers.{i}.{attn,mlp}_pre.weight <- encoder.block.{i}.layer.{0,1}.layer_norm.weight
    encoder.layers.{i}.attn.{wq,wk} <- encoder.block.{i}.layer.0.SelfAttention.{q,k}.weight : transpose
    encoder.layers.{i}.attn.{wv,wo} <- encoder.block.{i}.layer.0.SelfAttention.{v,o}.weight : transpose
    encoder.layers.{i}.mlp.gate <- encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight : transpose
    encoder.layers.{i}.mlp.up <- encoder.block.{i}.layer.1.DenseReluDense.(wi_1|wi).weight : transpose
    encoder.layers.{i}.mlp.down <- encoder.block.{i}.layer.1.DenseReluDense.wo.weight : transpose
    encoder.norm.weight <- encoder.final_layer_norm.weight
""")
# UMT5's, in each layer.
_OWN = "encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight"
_STACK += weight_map(f"encoder.layers.{{i}}.attn.relative_bias <- {_OWN}")
# Old checkpoints hold a bias of cross-attention that was never used.
WEIGHTS = (
    weight_map("""
    embedding.table <- (shared|encoder.embed_tokens|decoder.embed_tokens).weight
    embedding.table == {encoder,decoder}.embed_tokens.weight
""")
    + _STACK
    + _STACK.renamed({"encoder.": "decoder.", "layer.1.": "layer.2."})
    + weight_map("""
    decoder.layers.{i}.cross_pre.weight <- decoder.block.{i}.layer.1.layer_norm.weight
    decoder.layers.{i}.cross.{wq,wk} <- decoder.block.{i}.layer.1.EncDecAttention.{q,k}.weight : transpose
    decoder.layers.{i}.cross.{wv,wo} <- decoder.block.{i}.layer.1.EncDecAttention.{v,o}.weight : transpose
    head.table <- lm_head.weight
    embedding.table == lm_head.weight
    nothing <- decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight
""")
)


_GGUF_STACK = weight_map("""
    encoder.relative_bias <- enc.blk.0.attn_rel_b.weight
    encoder.layers.{i}.attn.relative_bias <- enc.blk.{i}.attn_rel_b.weight
    encoder.layers.{i}.{attn,mlp}_pre.weight <- enc.blk.{i}.{attn,ffn}_norm.weight
    encoder.layers.{i}.attn.{wq,wk,wv,wo} <- enc.blk.{i}.attn_{q,k,v,o}.weight : transpose
    encoder.layers.{i}.mlp.{gate,up,down} <- enc.blk.{i}.ffn_{gate,up,down}.weight : transpose
    encoder.norm.weight <- enc.output_norm.weight
""")
GGUF_WEIGHTS = (
    weight_map("""
    embedding.table <- token_embd.weight
""")
    + _GGUF_STACK
    + _GGUF_STACK.renamed({"encoder.": "decoder.", "enc.": "dec."})
    + weight_map("""
    decoder.layers.{i}.cross_pre.weight <- dec.blk.{i}.cross_attn_norm.weight
    decoder.layers.{i}.cross.{wq,wk,wv,wo} <- dec.blk.{i}.cross_attn_{q,k,v,o}.weight : transpose
    head.table <- output.weight
    embedding.table == output.weight
    nothing <- dec.blk.0.cross_attn_rel_b.weight
""")
)


def _kind(_: Keys, source: TensorSource) -> str:
    """Return the model_type of a GGUF file. In UMT5 each layer has a separate table of relative positions."""
    own = {f"{side}.blk.1.attn_rel_b.weight" for side in ("enc", "dec")}
    return "t5" if own.isdisjoint(source.names) else "umt5"


# The metadata state neither the activation nor the largest distance: both are llama.cpp's. Nor do they say
# which version it is. An mlp without a gate is 1.0's, and a table of its own must then equal the input's; a
# gated one is 1.1's, and the table must be there. 1.0's logits are scaled as in the original; llama.cpp
# leaves the scale out, which changes no greedy text.
GATE = "enc.blk.0.ffn_gate.weight"
ENCODER = {
    "model_type": Row(_kind),
    "vocab_size": COMMON["vocab_size"],
    "d_model": "embedding_length",
    "num_layers": "block_count",
    "num_heads": "attention.head_count",
    "n_positions": "context_length",
    "d_kv": Row(lambda keys, _: own_head_size(keys), "attention.key_length"),
    "d_ff": "feed_forward_length",
    "feed_forward_proj": Row(lambda _, source: "gated-gelu" if GATE in source.names else "relu"),
    "layer_norm_epsilon": agreeing(RMS_EPS, EPS),
    "relative_attention_num_buckets": "attention.relative_buckets_count",
    "tie_word_embeddings": lacks(GATE),
}
KEYS = {
    **ENCODER,
    "num_decoder_layers": either("decoder_block_count", "block_count"),
    "decoder_start_token_id": unused("decoder_start_token_id", int, None),
}
GGUF = Gguf("t5", KEYS, GGUF_WEIGHTS, Gguf("t5encoder", ENCODER, GGUF_WEIGHTS, task="pool"))
