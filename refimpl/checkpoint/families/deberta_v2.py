"""DeBERTa v2 and v3 (He et al. 2021, arXiv 2111.09543): DeBERTa with normalized vectors of distances.

Far distances share vectors. One pair of matrices projects both tokens and distances. The largest models have
a convolution beside the first layer.
"""

from ...config import Distances, Encoder, NeighbourConv
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import TRUNK
from .deberta import HEADS, encoder, layer_norm, max_distance

MODEL_TYPES = ("deberta-v2",)
ARCHITECTURES = encoders("DebertaV2")
PREFIX = "deberta."


def config(keys: Keys, task: Task) -> Encoder:
    keys.restated(
        "attention_head_size", size := head_size(keys), f"hidden_size / num_attention_heads ({size})"
    )
    shared = keys.get("share_att_key", bool, False)
    return encoder(keys, task, _distances(keys), shared=shared, conv=_conv(keys))


def _distances(keys: Keys) -> Distances:
    """Return how distances get vectors. With `position_buckets` far distances share vectors."""
    norms = [name.strip() for name in keys.get("norm_rel_ebd", str, "none").lower().split("|")]
    if not {*norms} <= {"none", "layer_norm"}:
        raise keys.fail("norm_rel_ebd", "none or layer_norm")
    norm = layer_norm(keys) if "layer_norm" in norms else None
    buckets, farthest = keys.get("position_buckets", int, -1), max_distance(keys)
    if buckets < 1:
        return Distances(farthest, norm=norm)
    return Distances(buckets, farthest, norm)


def _conv(keys: Keys) -> NeighbourConv | None:
    size = keys.get("conv_kernel_size", int, 0)
    kind = keys.choice("conv_act", ACTIVATIONS, "tanh")
    keys.harmless(conv_groups=(1,))
    if size < 1:
        return None
    if size % 2 == 0:
        raise keys.fail("conv_kernel_size", "odd, so that it reads as many tokens before as after")
    return NeighbourConv(min(size, 2**16) // 2, kind, layer_norm(keys))


WEIGHTS = (
    TRUNK.renamed(
        {
            "attention.self.query": "attention.self.query_proj",
            "attention.self.key": "attention.self.key_proj",
            "attention.self.value": "attention.self.value_proj",
        }
    )
    + weight_map("""
    encoder.layers.{i}.attn.wk_pos <- encoder.layer.{i}.attention.self.pos_key_proj.weight : transpose
    encoder.layers.{i}.attn.{bk,bq}_pos <- encoder.layer.{i}.attention.self.pos_{key,query}_proj.bias
    encoder.layers.{i}.attn.wq_pos <- encoder.layer.{i}.attention.self.pos_query_proj.weight : transpose
    encoder.distances <- encoder.rel_embeddings.weight
    encoder.distances_norm.{weight,bias} <- encoder.LayerNorm.{weight,bias}
    encoder.layers.0.conv.weight <- encoder.conv.conv.weight : kernel
    encoder.layers.0.conv.bias <- encoder.conv.conv.bias
    encoder.layers.0.conv_after.{weight,bias} <- encoder.conv.LayerNorm.{weight,bias}
""")
    + HEADS
)
