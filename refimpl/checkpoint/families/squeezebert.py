"""SqueezeBERT (Iandola et al. 2020): BERT, but its projections have four groups. Only attention's output
projection has no groups.

Each group projects a quarter of the inputs to a quarter of the outputs. Here the groups are one matrix,
filled up with zeros.
"""

from dataclasses import replace

from ...config import Encoder, LayerNorm
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import HEADS, TRUNK
from .bert import config as bert

MODEL_TYPES = ("squeezebert",)
ARCHITECTURES: dict[str, Task] = encoders("SqueezeBert")
PREFIX = "transformer."
GROUPED = ("q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups")


def config(keys: Keys, task: Task) -> Encoder:
    width = keys.size("hidden_size")
    keys.restated("embedding_size", width, f"hidden_size ({width})")
    keys.harmless(**dict.fromkeys(GROUPED, (4,)), post_attention_groups=(1,))
    for key in ("hidden_size", "intermediate_size"):
        if keys.size(key) % 4:
            raise keys.fail(key, "a multiple of 4, the number of groups")
    base, norm = bert(keys, task), LayerNorm(1e-12)  # in layers, whatever layer_norm_eps is
    layers = tuple(
        replace(
            layer,
            attention=replace(layer.attention, after=norm),
            mlp=replace(layer.mlp, after=norm),
        )
        for layer in base.stack.layers
    )
    return replace(base, stack=replace(base.stack, layers=layers))


WEIGHTS = (
    TRUNK
    + HEADS
    + weight_map("""
    encoder.layers.{i}.attn.{wq,wk,wv} <- encoder.layers.{i}.attention.{query,key,value}.weight : four_groups
    encoder.layers.{i}.attn.{bq,bk,bv} <- encoder.layers.{i}.attention.{query,key,value}.bias
    encoder.layers.{i}.attn.wo <- encoder.layers.{i}.post_attention.conv1d.weight : kernel
    encoder.layers.{i}.attn.bo <- encoder.layers.{i}.post_attention.conv1d.bias
    encoder.layers.{i}.attn_after.{weight,bias} <- encoder.layers.{i}.post_attention.layernorm.{weight,bias}
    encoder.layers.{i}.mlp.{up,down} <- encoder.layers.{i}.{intermediate,output}.conv1d.weight : four_groups
    encoder.layers.{i}.mlp.{bup,bdown} <- encoder.layers.{i}.{intermediate,output}.conv1d.bias
    encoder.layers.{i}.mlp_after.{weight,bias} <- encoder.layers.{i}.output.layernorm.{weight,bias}
""")
)
