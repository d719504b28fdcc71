"""MPT (MosaicML 2023): ALiBi, no biases, and clipped queries, keys and values.

tfm applies alibi_bias_max as MosaicML's code and llama.cpp do. transformers reads the key, but always
uses 8.
"""

from ...config import LM, Alibi, Attention, Decoder, Embedding, Layer, LayerNorm, Plain, Stack
from ..config_readers.gguf_keys import COMMON, EPS, Row, fixed, restated, without
from ..config_readers.gguf_weights import FUSED_QKV_WEIGHTS as GGUF_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size, layer_count
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import UNREAD, Gguf, Task, decoders

MODEL_TYPES = ("mpt",)
ARCHITECTURES: dict[str, Task] = {**decoders("Mpt"), "MPTForCausalLM": "lm"}
PREFIX = "transformer."
NORMS = {"low_precision_layernorm": None, "layernorm": None}


def config(keys: Keys, task: Task) -> Decoder:
    # embedding_fraction scales gradients; learned_pos_emb says nothing where there is ALiBi.
    keys.unused("resid_pdrop", "emb_pdrop", "embedding_fraction", "learned_pos_emb", "init_device")
    keys.unused("init_config", "tokenizer_name", "verbose", "logit_scale")
    # What MosaicML's own code could do, and transformers' leaves out.
    if keys.values.get("logit_scale") is not None:
        raise keys.fail("logit_scale", "null")
    if not keys.get("no_bias", bool, True):
        raise keys.fail("no_bias", "true: tfm supports MPT only without biases")
    if keys.size("expansion_ratio", 4) != 4:
        raise keys.fail("expansion_ratio", "4")
    keys.choice("norm_type", NORMS, "low_precision_layernorm")
    width, heads = keys.spelled("d_model", "hidden_size"), keys.spelled("n_heads", "num_attention_heads")
    inner = Keys(keys.get("attn_config", dict, None) or {}, f"{keys.where}: attn_config")
    inner.unused("attn_pdrop", "attn_impl", "architectures")
    inner.choice("attn_type", {"multihead_attention": None}, "multihead_attention")
    if not inner.get("alibi", bool, True):
        raise inner.fail("alibi", "true: tfm supports MPT only with ALiBi")
    # Of training on several texts in a row; one text sees all of itself.
    inner.harmless(attn_uses_sequence_id=(bool,))
    for key in ("prefix_lm", "qk_ln"):
        if inner.get(key, bool, False):
            raise inner.fail(key, "false")
    clip = inner.get("clip_qkv", float, None) or None  # 0 doesn't clip
    size, count = head_size(keys, width, heads), keys.size(heads)
    norm = LayerNorm(keys.positive("layer_norm_epsilon", 1e-5), bias=False)
    position, scale = Alibi(inner.positive("alibi_bias_max", 8.0)), inner.positive("softmax_scale", None)
    layer = Layer(
        Attention(count, count, size, position, clip=clip, scale=scale, pre=norm),
        Plain(4 * keys.size(width), "gelu", bias=False, pre=norm),
    )
    layers = layer_count(keys, keys.spelled("n_layers", "num_hidden_layers"))
    # transformers once wrote all keys that any config has into this part too.
    inner.finish(UNREAD | {"is_encoder_decoder": (False,)})
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), keys.size(width)),
        stack=Stack((layer,) * layers, norm),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=keys.size("max_seq_len", 2048),
    )


WEIGHTS = weight_map("""
    {embedding,head}.table <- {wte,lm_head}.weight
    decoder.layers.{i}.{attn,mlp}_pre.weight <- blocks.{i}.norm_{1,2}.weight
    decoder.layers.{i}.attn.wq, wk, wv <- blocks.{i}.attn.Wqkv.weight : transpose
    decoder.layers.{i}.attn.wo <- blocks.{i}.attn.out_proj.weight : transpose
    decoder.layers.{i}.mlp.{up,down} <- blocks.{i}.ffn.{up,down}_proj.weight : transpose
    decoder.norm.weight <- norm_f.weight
    embedding.table == lm_head.weight
""")


def _attention(keys: Keys, _: TensorSource) -> dict[str, float | None]:
    clip, bias = keys.get("attention.clamp_kqv", float, None), keys.positive("attention.max_alibi_bias")
    return {"alibi_bias_max": bias, "clip_qkv": clip}


KEYS = {
    **without(COMMON, "max_position_embeddings"),
    "model_type": fixed("mpt"),
    "max_seq_len": "context_length",
    "layer_norm_epsilon": EPS,
    "attn_config": Row(_attention),
    "attention.head_count_kv": restated(
        "attention.head_count_kv", lambda keys: keys.size("attention.head_count")
    ),
    "feed_forward_length": restated("feed_forward_length", lambda keys: 4 * keys.size("embedding_length")),
}
GGUF = Gguf("mpt", KEYS, GGUF_WEIGHTS)
