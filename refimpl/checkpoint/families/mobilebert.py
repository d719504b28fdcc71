"""MobileBERT (Sun et al. 2020): BERT's encoder with a bottleneck in each layer (`ops.mobilebert`).

A token's vector is made from three rows of a small table. In the output, the same table multiplies the first
elements of the vectors, and another table multiplies the other elements. Most models have factors and shifts
instead of norms.
"""

from ...config import (
    Affine,
    Dense,
    Embedding,
    EmbeddingProjection,
    Encoder,
    Layer,
    LayerNorm,
    Learned,
    MaskedLM,
    NoMlp,
    Norm,
    Plain,
    Pool,
    Stack,
)
from ...ops.mobilebert import MobileBertBottleneck
from ..config_readers.heads import head
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import layer_count
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import HEADS, TRUNK, layer_norm

MODEL_TYPES = ("mobilebert",)
ARCHITECTURES: dict[str, Task] = {**encoders("MobileBert"), "MobileBertForPreTraining": "masked"}
PREFIX = "mobilebert."


def config(keys: Keys, task: Task) -> Encoder:
    width, narrow = keys.size("hidden_size"), keys.size("intra_bottleneck_size", 128)
    tables, heads = keys.size("embedding_size", 128), keys.size("num_attention_heads")
    if not keys.get("use_bottleneck", bool, True):
        raise keys.fail(
            "use_bottleneck", "true: tfm doesn't read layers of several mlps without a bottleneck"
        )
    keys.restated("true_hidden_size", narrow, f"intra_bottleneck_size ({narrow})")
    if narrow % heads:
        raise keys.fail("intra_bottleneck_size", f"a multiple of {heads}, the number of heads")
    shared = not keys.get("use_bottleneck_attention", bool, False)
    if not keys.get("key_query_shared_bottleneck", bool, True) and shared:
        must = "true, or use_bottleneck_attention true: queries and keys are made of narrow vectors"
        raise keys.fail("key_query_shared_bottleneck", must)
    norms: dict[str, tuple[Norm, Norm]] = {
        "no_norm": (Affine(), Affine()),
        "layer_norm": (layer_norm(keys), LayerNorm(1e-5)),  # transformers doesn't hand layer_norm_eps to all
    }
    norm, other = keys.choice("normalization_type", norms, "no_norm")
    kind, inner = keys.choice("hidden_act", ACTIVATIONS, "relu"), keys.size("intermediate_size")
    count = keys.size("num_feedforward_networks", 4)
    mlps = *(Plain(inner, kind, after=norm),) * (count - 1), Plain(inner, kind, after=other)
    mixer = MobileBertBottleneck(heads, narrow // heads, mlps, norm, shared, shared, after=norm)
    trigram, context = keys.get("trigram_input", bool, True), keys.size("max_position_embeddings", 512)
    mapped = EmbeddingProjection(tables, bias=True, trigram=trigram) if trigram or tables != width else None
    pooler = Dense("tanh") if keys.get("classifier_activation", bool, True) else None
    masked = MaskedLM(
        keys.get("tie_word_embeddings", bool, True),
        Dense(kind, norm=layer_norm(keys)),
        further=width - tables or None,
    )
    read = head(keys, task, masked=masked, classify=pooler, pooler=pooler)
    return Encoder(
        Embedding(
            keys.size("vocab_size"), width, token_types=keys.size("type_vocab_size", 2), projection=mapped
        ),
        Stack((Layer(mixer, NoMlp()),) * layer_count(keys), None, Learned(context), other),
        Pool("first") if task == "pool" and pooler is None else read,
        context,
    )


_LAYER, _ATTN = "encoder.layer.{i}.", "encoder.layers.{i}.attn."
_MLP = f"{_LAYER}(ffn.{{e}}.|)"
WEIGHTS = (
    TRUNK.without("encoder.layers.{i}.attn_after.weight", "encoder.layers.{i}.attn_after.bias")
    + HEADS
    + weight_map(f"""
    embedding.project <- embeddings.embedding_transformation.weight : transpose
    embedding.project_bias <- embeddings.embedding_transformation.bias
    nothing <- embeddings.embedding_transformation.{{weight,bias}}
    {_ATTN}{{w_narrow,w_shared}} <- {_LAYER}bottleneck.{{input,attention}}.dense.weight : transpose
    {_ATTN}{{b_narrow,b_shared}} <- {_LAYER}bottleneck.{{input,attention}}.dense.bias
    {_ATTN}narrow_norm.{{weight,bias}} <- {_LAYER}bottleneck.input.LayerNorm.{{weight,bias}}
    {_ATTN}shared_norm.{{weight,bias}} <- {_LAYER}bottleneck.attention.LayerNorm.{{weight,bias}}
    nothing <- {_LAYER}bottleneck.attention.dense.{{weight,bias}}
    nothing <- {_LAYER}bottleneck.attention.LayerNorm.{{weight,bias}}
    {_ATTN}{{w_query,w_key,w_value}} <- {_LAYER}attention.self.{{query,key,value}}.weight : transpose
    {_ATTN}{{b_query,b_key,b_value}} <- {_LAYER}attention.self.{{query,key,value}}.bias
    {_ATTN}wo <- {_LAYER}attention.output.dense.weight : transpose
    {_ATTN}bo <- {_LAYER}attention.output.dense.bias
    {_ATTN}out_norm.{{weight,bias}} <- {_LAYER}attention.output.LayerNorm.{{weight,bias}}
    {_ATTN}mlps.{{e}}.{{up,down}} <- {_MLP}{{intermediate,output}}.dense.weight : transpose
    {_ATTN}mlps.{{e}}.{{bup,bdown}} <- {_MLP}{{intermediate,output}}.dense.bias
    {_ATTN}mlps.{{e}}.after.{{weight,bias}} <- {_MLP}output.LayerNorm.{{weight,bias}}
    {_ATTN}w_wide <- {_LAYER}output.bottleneck.dense.weight : transpose
    {_ATTN}b_wide <- {_LAYER}output.bottleneck.dense.bias
    encoder.layers.{{i}}.attn_after.{{weight,bias}} <- {_LAYER}output.bottleneck.LayerNorm.{{weight,bias}}
    for MaskedLM:
    head.further <- cls.predictions.dense.weight
    nothing <- cls.predictions.dense.weight
""")
)
