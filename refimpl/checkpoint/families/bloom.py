"""BLOOM (Le Scao et al. 2022): ALiBi, and a norm of the token embeddings before the first layer."""

from ...config import LM, Alibi, Attention, Decoder, Embedding, Layer, LayerNorm, Plain, Stack
from ..config_readers.gguf_keys import COMMON, EPS, fixed, restated, without
from ..config_readers.gguf_weights import FUSED_QKV_WEIGHTS as GGUF_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("bloom",)
ARCHITECTURES: dict[str, Task] = decoders("Bloom")
PREFIX = "transformer."


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("hidden_dropout", "unk_token_id", "offset_alibi")
    # How Megatron fused its kernels.
    keys.unused("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion")
    keys.unused("skip_bias_add", "skip_bias_add_qkv")
    # Sums of sliced products; transformers then leaves out the bias.
    if keys.get("slow_but_exact", bool, False) and keys.size("pretraining_tp", 1) > 1:
        raise keys.fail("slow_but_exact", "false if pretraining_tp is more than 1")
    keys.size("pretraining_tp", 1)
    size = head_size(
        keys, named := keys.spelled("hidden_size", "n_embed"), keys.spelled("n_head", "num_attention_heads")
    )
    width = keys.size(named)
    if keys.size("n_inner", None) not in (None, 4 * width):
        raise keys.fail("n_inner", f"null or four times the width ({4 * width})")
    heads, norm = width // size, LayerNorm(keys.positive("layer_norm_epsilon", 1e-5))
    normed = keys.get("apply_residual_connection_post_layernorm", bool, False)
    layer = Layer(
        Attention(heads, heads, size, Alibi(), qkv_bias=True, out_bias=True, pre=norm),
        Plain(4 * width, "gelu_tanh", pre=norm),
        residual="norm" if normed else "input",
    )
    layers = layer_count(keys, keys.spelled("n_layer", "num_hidden_layers"))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        stack=Stack((layer,) * layers, norm, first_norm=norm),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=keys.size("seq_length", 2048),
    )


WEIGHTS = weight_map("""
    {embedding,head}.table <- {word_embeddings,lm_head}.weight
    decoder.first_norm.{weight,bias} <- word_embeddings_layernorm.{weight,bias}
    decoder.layers.{i}.attn_pre.{weight,bias} <- h.{i}.input_layernorm.{weight,bias}
    decoder.layers.{i}.attn.wq, wk, wv <- h.{i}.self_attention.query_key_value.weight : transpose grouped
    decoder.layers.{i}.attn.bq, bk, bv <- h.{i}.self_attention.query_key_value.bias : grouped
    decoder.layers.{i}.attn.wo <- h.{i}.self_attention.dense.weight : transpose
    decoder.layers.{i}.attn.bo <- h.{i}.self_attention.dense.bias
    decoder.layers.{i}.mlp_pre.{weight,bias} <- h.{i}.post_attention_layernorm.{weight,bias}
    decoder.layers.{i}.mlp.{up,down} <- h.{i}.mlp.dense_{h_to_4h,4h_to_h}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- h.{i}.mlp.dense_{h_to_4h,4h_to_h}.bias
    decoder.norm.{weight,bias} <- ln_f.{weight,bias}
    embedding.table == lm_head.weight
""")


KEYS = {
    **without(COMMON, "max_position_embeddings"),
    "model_type": fixed("bloom"),
    "seq_length": "context_length",
    "layer_norm_epsilon": EPS,
    "attention.head_count_kv": restated(
        "attention.head_count_kv", lambda keys: keys.size("attention.head_count")
    ),
    "feed_forward_length": restated("feed_forward_length", lambda keys: 4 * keys.size("embedding_length")),
}
GGUF = Gguf("bloom", KEYS, GGUF_WEIGHTS)
