"""Falcon (Almazrouei et al. 2023), in both of its architectures.

In the older architecture all query heads share one key/value head (7B), or each query head has its own (RW).
RW uses ALiBi and has the mlp after the attention. In the newer architecture each group of query heads has one
key/value head. Its attention and mlp are in parallel: each after its own norm (40B), or both after one norm
(11B).
"""

from ...config import (
    LM,
    Alibi,
    Attention,
    Decoder,
    Embedding,
    Layer,
    LayerNorm,
    Plain,
    Stack,
)
from ..config_readers.gguf_keys import COMMON, EPS, Row, either, fixed, only, rotary
from ..config_readers.gguf_metadata import gguf_head_size
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("falcon",)
ARCHITECTURES: dict[str, Task] = decoders("Falcon")
PREFIX = "transformer."


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("hidden_dropout", "num_key_value_heads")  # transformers writes what follows from other keys
    if keys.get("apply_residual_connection_post_layernorm", bool, False):
        raise keys.fail("apply_residual_connection_post_layernorm", "false")
    # The older names are those of its first releases.
    width = keys.size(wide := keys.spelled("hidden_size", "n_embed"))
    heads = keys.size(many := keys.spelled("num_attention_heads", "n_head"))
    context, size = keys.size("max_position_embeddings", 2048), head_size(keys, wide, many)
    position = rope(keys, size, context)  # with ALiBi they are read, and not used
    inner = keys.size("ffn_hidden_size", None) or 4 * width
    if keys.size("ff_factor", None) not in (None, inner / width):
        raise keys.fail("ff_factor", f"ffn_hidden_size / hidden_size ({inner / width})")
    norms, parallel = _norms(keys)
    norm = LayerNorm(keys.positive("layer_norm_epsilon", 1e-5))
    bias = keys.get("bias", bool, False, null=True) or False
    # The sum of score and bias is divided by sqrt(size), so the bias is too.
    own = Alibi(scale=size**-0.5) if keys.get("alibi", bool, False, null=True) else position
    activation = keys.choice("activation", ACTIVATIONS, "gelu")
    layer = Layer(
        Attention(heads, _groups(keys, heads), size, own, qkv_bias=bias, out_bias=bias, pre=norm),
        Plain(inner, activation, bias, pre=norm if norms == 2 else None),
        parallel,
    )
    layers = layer_count(keys, keys.spelled("num_hidden_layers", "n_layer"))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        stack=Stack((layer,) * layers, norm),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=exact_context(context, position),
    )


def _groups(keys: Keys, heads: int) -> int:
    """Return the number of key/value heads. The newer architecture ignores the key multi_query."""
    stated, shared = keys.size("num_kv_heads", None), keys.get("multi_query", bool, True, null=True)
    if keys.get("new_decoder_architecture", bool, False, null=True):
        return stated or heads
    if shared:
        return 1
    if stated not in (None, heads):
        raise keys.fail(
            "num_kv_heads", f"the number of all heads ({heads}), if heads don't share keys and values"
        )
    return heads


def _norms(keys: Keys) -> tuple[int, bool]:
    """Return the number of norms in a layer, and whether attention and mlp are parallel."""
    new = keys.get("new_decoder_architecture", bool, False, null=True)
    parallel = bool(keys.get("parallel_attn", bool, True, null=True))
    norms = keys.size("num_ln_in_parallel_attn", None)
    if new and not parallel:
        raise keys.fail("parallel_attn", "true if new_decoder_architecture is true")
    if not parallel:
        return 2, False
    norms = norms or (2 if new else 1)
    if norms not in ((1, 2) if new else (1,)):
        raise keys.fail(
            "num_ln_in_parallel_attn", "1 or 2" if new else "1 if new_decoder_architecture is false"
        )
    return norms, True


WEIGHTS = weight_map("""
    {embedding,head}.table <- {word_embeddings,lm_head}.weight
    decoder.layers.{i}.attn_pre.{weight,bias} <- h.{i}.(input_layernorm|ln_attn).{weight,bias}
    decoder.layers.{i}.attn.wq, wk, wv <- h.{i}.self_attention.query_key_value.weight : transpose grouped
    decoder.layers.{i}.attn.bq, bk, bv <- h.{i}.self_attention.query_key_value.bias : grouped
    decoder.layers.{i}.attn.wo <- h.{i}.self_attention.dense.weight : transpose
    decoder.layers.{i}.attn.bo <- h.{i}.self_attention.dense.bias
    decoder.layers.{i}.mlp_pre.{weight,bias} <- h.{i}.(post_attention_layernorm|ln_mlp).{weight,bias}
    decoder.layers.{i}.mlp.{up,down} <- h.{i}.mlp.dense_{h_to_4h,4h_to_h}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- h.{i}.mlp.dense_{h_to_4h,4h_to_h}.bias
    decoder.norm.{weight,bias} <- ln_f.{weight,bias}
    embedding.table == lm_head.weight
""")


GGUF_WEIGHTS = weight_map("""
    {embedding,head}.table <- {token_embd,output}.weight
    decoder.layers.{i}.attn_pre.{weight,bias} <- blk.{i}.(attn_norm_2|attn_norm).{weight,bias}
    decoder.layers.{i}.attn.wq, wk, wv <- blk.{i}.attn_qkv.weight : transpose
    decoder.layers.{i}.attn.wo <- blk.{i}.attn_output.weight : transpose
    decoder.layers.{i}.mlp_pre.{weight,bias} <- blk.{i}.attn_norm.{weight,bias}
    decoder.layers.{i}.mlp.{up,down} <- blk.{i}.ffn_{up,down}.weight : transpose
    decoder.norm.{weight,bias} <- output_norm.{weight,bias}
""")
KEYS = {
    **COMMON,
    **rotary(gguf_head_size),
    "model_type": fixed("falcon"),
    "new_decoder_architecture": fixed(True),
    "num_kv_heads": either("attention.head_count_kv", "attention.head_count"),
    "num_ln_in_parallel_attn": Row(lambda _, source: 1 + ("blk.0.attn_norm_2.weight" in source.names)),
    "ffn_hidden_size": "feed_forward_length",
    "layer_norm_epsilon": EPS,
    "tensor_data_layout": only("tensor_data_layout", "jploski"),  # they are undone
}
GGUF = Gguf("falcon", KEYS, GGUF_WEIGHTS)
