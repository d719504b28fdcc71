"""OPT (Zhang et al. 2022), and Galactica, which has the same form.

Learned positions begin at row 2 of their table. Only the 350M model has its norms after the sublayers. Only
its token embeddings have half the width.
"""

from ...config import (
    LM,
    Attention,
    Decoder,
    Embedding,
    EmbeddingProjection,
    Layer,
    LayerNorm,
    Learned,
    Plain,
    Stack,
)
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, decoders

MODEL_TYPES = ("opt",)
ARCHITECTURES: dict[str, Task] = decoders("OPT", tasks=("classify", "answer"))
EPS = 1e-5  # no key states another


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("dropout", "activation_dropout", "layerdrop", "init_std", "prefix")
    if not keys.get("learned_embeddings", bool, True):
        raise keys.fail("learned_embeddings", "true: tfm supports OPT only with learned positions")
    if keys.get("scale_embeddings", bool, False):
        raise keys.fail("scale_embeddings", "false: tfm supports OPT only with unscaled embeddings")
    # Notes of the conversion: eos_token_id is what ends a text.
    keys.harmless(end_token_id=(int,), output_projection=(True,))
    width, heads, size = keys.size("hidden_size"), keys.size("num_attention_heads"), head_size(keys)
    affine = keys.get("layer_norm_elementwise_affine", bool, True)
    norm, bias = LayerNorm(EPS, bias=affine, weight=affine), keys.get("enable_bias", bool, True)
    before = keys.get("do_layer_norm_before", bool, True)
    last = not keys.get("_remove_final_layer_norm", bool, False) and before
    pre, after = (norm, None) if before else (None, norm)
    attention = Attention(heads, heads, size, qkv_bias=bias, out_bias=bias, pre=pre, after=after)
    activation = keys.choice("activation_function", ACTIVATIONS, "relu")
    layer = Layer(attention, Plain(keys.size("ffn_dim"), activation, bias, pre=pre, after=after))
    inner = keys.size("word_embed_proj_dim", None) or width
    context = keys.size("max_position_embeddings", 2048)
    return Decoder(
        embedding=Embedding(
            keys.size("vocab_size"), width, projection=None if inner == width else EmbeddingProjection(inner)
        ),
        stack=Stack(
            (layer,) * layer_count(keys),
            norm if last else None,
            Learned(context, offset=2),
        ),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=context,
    )


WEIGHTS = weight_map("""
    embedding.table <- decoder.embed_tokens.weight
    {embedding,head}.project <- decoder.project_{in,out}.weight : transpose
    decoder.positions <- decoder.embed_positions.weight
    decoder.layers.{i}.attn_pre.{weight,bias} <- decoder.layers.{i}.self_attn_layer_norm.{weight,bias}
    decoder.layers.{i}.attn_after.{weight,bias} <- decoder.layers.{i}.self_attn_layer_norm.{weight,bias}
    decoder.layers.{i}.attn.{wq,wk,wv} <- decoder.layers.{i}.self_attn.{q,k,v}_proj.weight : transpose
    decoder.layers.{i}.attn.wo <- decoder.layers.{i}.self_attn.out_proj.weight : transpose
    decoder.layers.{i}.attn.{bq,bk,bv,bo} <- decoder.layers.{i}.self_attn.{q,k,v,out}_proj.bias
    decoder.layers.{i}.mlp_pre.{weight,bias} <- decoder.layers.{i}.final_layer_norm.{weight,bias}
    decoder.layers.{i}.mlp_after.{weight,bias} <- decoder.layers.{i}.final_layer_norm.{weight,bias}
    decoder.layers.{i}.mlp.{up,down} <- decoder.layers.{i}.{fc1,fc2}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- decoder.layers.{i}.{fc1,fc2}.bias
    decoder.norm.{weight,bias} <- decoder.final_layer_norm.{weight,bias}
    head.table <- lm_head.weight
    embedding.table == lm_head.weight
""")
