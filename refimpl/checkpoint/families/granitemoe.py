"""Granite 3 MoE and PowerMoE (IBM 2024): Granite with a mixture of experts in each layer."""

from dataclasses import replace

from ...config import Decoder, Gated, Layer, MoE
from ..config_readers.decoder import map_layers
from ..config_readers.gguf_weights import EXPERTS, PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .granite import BY_LAYER, granite, table
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("granitemoe",)
ARCHITECTURES: dict[str, Task] = decoders("GraniteMoe", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    unused_in_training(keys)
    experts, top = keys.size("num_local_experts", 8), keys.size("num_experts_per_tok", 2)
    return map_layers(granite(keys, mlp_bias=False), lambda _, layer: mixed(layer, experts, top))


def unused_in_training(keys: Keys) -> None:
    """Mark keys as known that concern the router's loss in training."""
    keys.get("output_router_logits", bool, False)
    keys.get("router_aux_loss_coef", float, None)
    keys.harmless(normalization_function=("rmsnorm",), init_method=(str,))  # of its trainer's code


def mixed(layer: Layer, experts: int, top: int) -> Layer:
    """Return the layer with a mixture of experts instead of its mlp. Each expert is as wide as the mlp."""
    mlp = layer.mlp
    assert isinstance(mlp, Gated)
    return replace(layer, mlp=MoE(experts, top, mlp.width, mlp.activation, **mlp.norms_around))


WEIGHTS = LLAMA + weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{i}.moe.router.layer.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.moe.input_linear.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.moe.output_linear.weight[{e}] : transpose
""").renamed({".moe.": ".block_sparse_moe."})

GGUF = Gguf("granitemoe", table, PERMUTED_QK_WEIGHTS + EXPERTS, by_layer=BY_LAYER)
