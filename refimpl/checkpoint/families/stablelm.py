"""StableLM (Bellagente et al. 2024): Llama's decoder with LayerNorm and partial rotary positions.

A norm for each head is optional. So is a layer with attention and mlp in parallel after one norm.
"""

from dataclasses import replace

from ...config import LM, Attention, Decoder, Embedding, Gated, HeadNorm, Layer, LayerNorm, Stack
from ..config_readers.gguf_keys import Row, fixed, has
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA
from .phi import KEYS as PHI

MODEL_TYPES = ("stablelm",)
ARCHITECTURES: dict[str, Task] = decoders("StableLm", tasks=("classify", "tag"))


def config(keys: Keys, task: Task) -> Decoder:
    keys.get("hidden_dropout", float, None)  # of training
    # Read by no class: norms have a bias, which the file must hold; positions aren't scaled.
    keys.harmless(use_norm_bias=(bool,), rotary_scaling_factor=(1.0,))
    size, context = head_size(keys), keys.size("max_position_embeddings", 4096)
    norm = LayerNorm(keys.positive("layer_norm_eps", 1e-5))
    position = rope(keys, size, context, partial=0.25)
    return build(
        Embedding(keys.size("vocab_size"), keys.size("hidden_size")),
        Attention(
            keys.size("num_attention_heads"),
            keys.size("num_key_value_heads", 32),
            size,
            position,
            qkv_bias=keys.get("use_qkv_bias", bool, False),
            pre=norm,
        ),
        Gated(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "silu"), pre=norm),
        layer_count(keys),
        norm,
        qk_norm=keys.get("qk_layernorm", bool, False),
        parallel=keys.get("use_parallel_residual", bool, False),
        tied=keys.get("tie_word_embeddings", bool, False),
        context=exact_context(context, position),
    )


def build(
    embedding: Embedding,
    attention: Attention,
    mlp: Gated,
    layers: int,
    norm: LayerNorm,
    *,
    qk_norm: bool,
    parallel: bool,
    tied: bool,
    context: int,
) -> Decoder:
    if qk_norm:
        attention = replace(attention, qk_norm=HeadNorm(replace(norm, bias=False), "each"))
    if parallel:
        mlp = replace(mlp, pre=None)
    return Decoder(embedding, Stack((Layer(attention, mlp, parallel),) * layers, norm), LM(tied), context)


WEIGHTS = LLAMA + weight_map("""
    decoder.layers.{i}.{attn,mlp}_pre.bias <- layers.{i}.{input,post_attention}_layernorm.bias
    decoder.layers.{i}.attn.{q,k}_norm <- layers.{i}.self_attn.{q,k}_layernorm.norms.{h}.weight
    decoder.norm.bias <- norm.bias
""")


GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + weight_map("""
    decoder.layers.{i}.{attn,mlp}_pre.bias <- blk.{i}.{attn,ffn}_norm.bias
    decoder.norm.bias <- output_norm.bias
""")


def _parallel(keys: Keys, source: TensorSource) -> bool:
    """Return whether both sublayers share one norm. The tensors show this, since many files' key is wrong."""
    keys.get("use_parallel_residual", bool, True)
    return "blk.0.ffn_norm.weight" not in source.names


KEYS = {
    **PHI,
    "model_type": fixed("stablelm"),
    "use_qkv_bias": has("blk.0.attn_q.bias"),
    "qk_layernorm": has("blk.0.attn_q_norm.weight"),
    "use_parallel_residual": Row(_parallel),
}
GGUF = Gguf("stablelm", KEYS, GGUF_WEIGHTS)
