"""OLMo 2 (OLMo Team 2025): norms only on the sublayers' outputs.

A norm over all heads together also normalizes the queries, and another one the keys."""

from dataclasses import replace
from typing import Any

from ...config import Decoder, HeadNorm, Layer
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.gguf_keys import DECODER, Row, Table, fixed, sliding_layers, without
from ..config_readers.gguf_metadata import own_head_size
from ..config_readers.gguf_rope import rope_scaling, share_of_dims
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("olmo2",)
ARCHITECTURES: dict[str, Task] = decoders("Olmo2", tasks=("classify",))


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(keys, context=2048, eps=1e-5)
    return map_layers(base, with_post_norms)


def with_post_norms(_: int, layer: Layer) -> Layer:
    """Return the layer with norms on the sublayers' outputs, and with norms on queries and keys."""
    norm = layer.mlp.pre
    assert norm is not None
    attention = replace(layer.attention, pre=None, post=norm, qk_norm=HeadNorm(norm, "all"))
    return replace(layer, attention=attention, mlp=replace(layer.mlp, pre=None, post=norm))


WEIGHTS = (
    LLAMA
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- layers.{i}.post_{attention,feedforward}_layernorm.weight
""")
)


GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- blk.{i}.post_{attention,ffw}_norm.weight
""")


def _thetas(keys: Keys, source: TensorSource) -> dict[str, Any]:
    """Return the rotary keys. Positions of layers with a window aren't scaled."""
    theta, size = keys.positive(THETA, 10_000.0), own_head_size(keys)
    if keys.positive("rope.freq_base_swa", theta) != theta:
        raise keys.fail("rope.freq_base_swa", f"the same as {THETA} ({theta})")
    share_of_dims(keys, size, partial=False)
    far = {"rope_theta": theta, **rope_scaling(keys, source, size)}
    return {"full_attention": far, "sliding_attention": {"rope_type": "default", "rope_theta": theta}}


THETA = "rope.freq_base"
OLMO2 = {**DECODER, "model_type": fixed("olmo2")}
OLMO3 = {
    **without(DECODER, "rope_theta", "rope_scaling", "partial_rotary_factor"),
    "model_type": fixed("olmo3"),
    "layer_types": sliding_layers(4),
    "sliding_window": "attention.sliding_window",
    "rope_parameters": Row(_thetas),
}


def table(keys: Keys) -> Table:
    """Return GGUF's table for OLMo 2 or 3. A file of OLMo 3 also states a window, and which layers have
    it.
    """
    return OLMO3 if "attention.sliding_window" in keys else OLMO2


GGUF = Gguf("olmo2", table, GGUF_WEIGHTS, by_layer=("attention.sliding_window_pattern",))
