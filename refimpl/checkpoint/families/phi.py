"""Phi 1, 1.5 and 2 (Gunasekar et al. 2023; Li et al. 2023): attention and mlp in parallel after one norm.

All projections have biases, and part of each head is rotated."""

from ...config import LM, Attention, Decoder, Embedding, Layer, LayerNorm, Plain, Stack
from ..config_readers.gguf_keys import EPS, PARTIAL, fixed, rotary, without
from ..config_readers.gguf_metadata import gguf_head_size
from ..config_readers.gguf_weights import FUSED_QKV, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("phi",)
ARCHITECTURES: dict[str, Task] = decoders("Phi", tasks=("classify", "tag"))


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("resid_pdrop", "embd_pdrop")
    if keys.get("qk_layernorm", bool, False):
        raise keys.fail(
            "qk_layernorm", "false: tfm doesn't support Phi's norm of queries and keys, which has a bias"
        )
    heads, size = keys.size("num_attention_heads"), head_size(keys)
    context = keys.size("max_position_embeddings", 2048)
    position = rope(keys, size, context, partial=0.5)
    norm = LayerNorm(keys.positive("layer_norm_eps", 1e-5))
    groups = keys.size("num_key_value_heads", None) or heads
    attention = Attention(heads, groups, size, position, qkv_bias=True, out_bias=True, pre=norm)
    mlp = Plain(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "gelu_new"))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), keys.size("hidden_size")),
        stack=Stack((Layer(attention, mlp, parallel=True),) * layer_count(keys), norm),
        head=LM(keys.get("tie_word_embeddings", bool, False), bias=True),
        context=exact_context(context, position),
    )


WEIGHTS = weight_map("""
    {embedding,head}.table <- {embed_tokens,lm_head}.weight
    decoder.layers.{i}.attn_pre.{weight,bias} <- layers.{i}.input_layernorm.{weight,bias}
    decoder.layers.{i}.attn.{wq,wk,wv} <- layers.{i}.self_attn.{q,k,v}_proj.weight : transpose
    decoder.layers.{i}.attn.wo <- layers.{i}.self_attn.dense.weight : transpose
    decoder.layers.{i}.attn.{bq,bk,bv,bo} <- layers.{i}.self_attn.{q_proj,k_proj,v_proj,dense}.bias
    decoder.layers.{i}.mlp.{up,down} <- layers.{i}.mlp.{fc1,fc2}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- layers.{i}.mlp.{fc1,fc2}.bias
    decoder.norm.{weight,bias} <- final_layernorm.{weight,bias}
    head.bias <- lm_head.bias
    embedding.table == lm_head.weight
""")


GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + FUSED_QKV
    + weight_map("""
    decoder.layers.{i}.attn_pre.bias <- blk.{i}.attn_norm.bias
    decoder.norm.bias <- output_norm.bias
    head.bias <- output.bias
""")
)
KEYS = {
    **without(PARTIAL, "head_dim", "rms_norm_eps"),
    **rotary(gguf_head_size, partial=True),
    "model_type": fixed("phi"),
    "layer_norm_eps": EPS,
}
GGUF = Gguf("phi2", KEYS, GGUF_WEIGHTS)
