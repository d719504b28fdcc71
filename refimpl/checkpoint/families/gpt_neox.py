"""GPT-NeoX and Pythia (Black et al. 2022): attention and mlp in parallel, and partial rotary positions."""

from ...config import LM, Attention, Decoder, Embedding, Layer, LayerNorm, Plain, Stack
from ..config_readers.gguf_keys import COMMON, EPS, fixed, has, optional, rotary
from ..config_readers.gguf_metadata import gguf_head_size
from ..config_readers.gguf_weights import FUSED_QKV_WEIGHTS as GGUF_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders

MODEL_TYPES = ("gpt_neox",)
ARCHITECTURES: dict[str, Task] = decoders("GPTNeoX")
PREFIX = "gpt_neox."
OLDER = ("rotary_emb_base", "rotary_pct")


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("hidden_dropout")
    heads, size = keys.size("num_attention_heads"), head_size(keys)
    context = keys.size("max_position_embeddings", 2048)
    position = rope(keys, size, context, partial=0.25, names=OLDER)
    # Some versions wrote these numbers under both of their names.
    for key, older, default in zip(("rope_theta", "partial_rotary_factor"), OLDER, (1e4, 0.25), strict=True):
        if keys.get(key, float, None) not in (None, want := keys.get(older, float, default)):
            raise keys.fail(key, f"the same as {older} ({want})")
    bias, norm = keys.get("attention_bias", bool, True), LayerNorm(keys.positive("layer_norm_eps", 1e-5))
    layer = Layer(
        Attention(heads, heads, size, position, qkv_bias=bias, out_bias=bias, pre=norm),
        Plain(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "gelu"), pre=norm),
        keys.get("use_parallel_residual", bool, True),
    )
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), keys.size("hidden_size")),
        stack=Stack((layer,) * layer_count(keys), norm),
        head=LM(keys.get("tie_word_embeddings", bool, False)),
        context=exact_context(context, position),
    )


WEIGHTS = weight_map("""
    {embedding,head}.table <- {embed_in,(embed_out|lm_head)}.weight
    decoder.layers.{i}.attn_pre.{weight,bias} <- layers.{i}.input_layernorm.{weight,bias}
    decoder.layers.{i}.attn.wq, wk, wv <- layers.{i}.attention.query_key_value.weight : transpose grouped
    decoder.layers.{i}.attn.bq, bk, bv <- layers.{i}.attention.query_key_value.bias : grouped
    decoder.layers.{i}.attn.wo <- layers.{i}.attention.dense.weight : transpose
    decoder.layers.{i}.attn.bo <- layers.{i}.attention.dense.bias
    decoder.layers.{i}.mlp_pre.{weight,bias} <- layers.{i}.post_attention_layernorm.{weight,bias}
    decoder.layers.{i}.mlp.{up,down} <- layers.{i}.mlp.dense_{h_to_4h,4h_to_h}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- layers.{i}.mlp.dense_{h_to_4h,4h_to_h}.bias
    decoder.norm.{weight,bias} <- final_layer_norm.{weight,bias}
    embedding.table == {embed_out,lm_head}.weight
    inv_freq == layers.{i}.attention.rotary_emb.inv_freq
    {causal,masked_score} == layers.{i}.attention.{bias,masked_bias}
""")


KEYS = {
    **COMMON,
    **rotary(gguf_head_size, partial=True, names=OLDER),
    "model_type": fixed("gpt_neox"),
    "intermediate_size": "feed_forward_length",
    "layer_norm_eps": EPS,
    "attention_bias": has("blk.0.attn_qkv.bias"),
    "use_parallel_residual": optional("use_parallel_residual"),
}
GGUF = Gguf("gptneox", KEYS, GGUF_WEIGHTS)
