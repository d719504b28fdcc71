"""GPT-Neo (Black et al. 2021): GPT-2's decoder without a scale of scores. Every other layer has a sliding
window."""

from dataclasses import replace

from ...config import (
    LM,
    Attention,
    Decoder,
    Embedding,
    FullAttention,
    Layer,
    LayerNorm,
    Learned,
    Plain,
    Stack,
    Window,
)
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, decoders
from .gpt2 import unused

MODEL_TYPES = ("gpt_neo",)
ARCHITECTURES: dict[str, Task] = decoders("GPTNeo")
PREFIX = "transformer."
KINDS = ["global", "local"]


def config(keys: Keys, task: Task) -> Decoder:
    unused(keys)
    keys.unused("resid_dropout", "embed_dropout")
    keys.harmless(rotary=(False,))  # GPT-J had this class's name before its own
    heads_key = keys.spelled("num_heads", "num_attention_heads")
    width, heads, size = keys.size("hidden_size"), keys.size(heads_key), head_size(keys, heads=heads_key)
    norm, context = (
        LayerNorm(keys.positive("layer_norm_epsilon", 1e-5)),
        keys.size("max_position_embeddings", 2048),
    )
    attention = Attention(heads, heads, size, out_bias=True, scale=1.0, pre=norm)
    mlp = Plain(
        keys.size("intermediate_size", None) or 4 * width,
        keys.choice("activation_function", ACTIVATIONS, "gelu_new"),
        pre=norm,
    )
    masks = {"global": FullAttention(), "local": Window(keys.size("window_size", 256))}
    layers = tuple(Layer(replace(attention, mask=masks[kind]), mlp) for kind in _attention_layers(keys))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        stack=Stack(layers, norm, Learned(context)),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=context,
    )


def _attention_layers(keys: Keys) -> list[str]:
    """Return the kind of each layer. `attention_types` lists groups of kinds, and how often each group is
    repeated.
    """
    count = layer_count(keys, keys.spelled("num_layers", "num_hidden_layers"))
    groups, kinds = keys.get("attention_types", list, None), keys.get("attention_layers", list, None)
    if groups is not None or kinds is None:
        expanded: list[str] = []
        for group in [[KINDS, 12]] if groups is None else groups:
            match group:
                case [[*names], int(times)] if type(times) is int:
                    expanded += names * min(times, count)
                case _:
                    raise keys.fail(
                        "attention_types",
                        "a list of groups, each with kinds of layers and how often they repeat",
                    )
        if kinds not in (None, expanded):
            raise keys.fail("attention_layers", "the same kinds as in attention_types")
        kinds = expanded
    if len(kinds) != count or any(kind not in KINDS for kind in kinds):
        raise keys.fail("attention_types", f"kinds for {count} layers, each {' or '.join(KINDS)}")
    return kinds


WEIGHTS = weight_map("""
    {embedding,head}.table <- {wte,lm_head}.weight
    decoder.positions <- wpe.weight
    decoder.layers.{i}.attn_pre.{weight,bias} <- h.{i}.ln_1.{weight,bias}
    decoder.layers.{i}.attn.{wq,wk,wv,wo} <- h.{i}.attn.attention.{q,k,v,out}_proj.weight : transpose
    decoder.layers.{i}.attn.bo <- h.{i}.attn.attention.out_proj.bias
    decoder.layers.{i}.mlp_pre.{weight,bias} <- h.{i}.ln_2.{weight,bias}
    decoder.layers.{i}.mlp.{up,down} <- h.{i}.mlp.c_{fc,proj}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- h.{i}.mlp.c_{fc,proj}.bias
    decoder.norm.{weight,bias} <- ln_f.{weight,bias}
    embedding.table == lm_head.weight
    {causal,masked_score} == h.{i}.attn.attention.{bias,masked_bias}
""")
