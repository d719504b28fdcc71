"""OLMo Hybrid (OLMo Team 2026): gated delta networks, and OLMo 2's attention in every fourth layer.

The state transitions of the gated delta networks may have negative eigenvalues. The attention may have no
positions. Layers with a gated delta network have their norms before the sublayers. Layers with attention have
their norms after the sublayers.
"""

from dataclasses import replace

from ...config import Decoder, Layer
from ...ops.gated_delta import GatedDelta
from ..config_readers.decoder import decoder, map_attention, map_layers
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..weights.weight_map import WeightMap, weight_map
from . import Task, decoders
from .olmo2 import WEIGHTS as OLMO2
from .olmo2 import with_post_norms
from .qwen3_next import DELTA, attending_layers

MODEL_TYPES = ("olmo_hybrid",)
ARCHITECTURES: dict[str, Task] = decoders("OlmoHybrid", tasks=())
NORM_EPS = 1e-5  # of what a gated delta network's heads give, whatever rms_norm_eps is


def config(keys: Keys, task: Task) -> Decoder:
    keys.choice("hidden_act", {"silu": "silu"}, "silu")  # the convolutions' kernels know no other
    for key in ("a_log_min", "a_log_max", "dt_min", "dt_max", "dt_init_floor"):
        keys.get(f"linear_{key}", float, 0.0)  # of training
    context = keys.size("max_position_embeddings", 65_536)
    base = decoder(keys, context=context)
    # A theta that is null, not one that is missing, means no positions.
    if "rope_theta" in (rotary := keys.values.get("rope_parameters") or {}) and rotary["rope_theta"] is None:
        base = replace(map_attention(base, lambda _, a: replace(a, position=None)), context=context)
    mixer, layers = _mixer(keys), layer_count(keys)
    # One attends in any model.
    attends = attending_layers(keys, [i % 4 == 3 or i == layers - 1 < 3 for i in range(layers)])

    def mixed(i: int, layer: Layer) -> Layer:
        if attends[i]:
            return with_post_norms(i, layer)
        return replace(layer, attention=replace(mixer, **layer.attention.norms_around))

    return map_layers(base, mixed)


def _mixer(keys: Keys) -> GatedDelta:
    heads = keys.size("num_attention_heads")
    key_heads = keys.size("linear_num_key_heads", None) or heads
    key_size = keys.size("linear_key_head_dim", None) or int(0.75 * keys.size("hidden_size") / key_heads)
    return GatedDelta(
        heads=keys.size("linear_num_value_heads", None) or heads,
        key_heads=key_heads,
        key_size=key_size,
        value_size=keys.size("linear_value_head_dim", None) or 2 * key_size,
        length=keys.size("linear_conv_kernel_dim", 4),
        eps=NORM_EPS,
        allow_neg_eigval=keys.get("linear_allow_neg_eigval", bool, True),
    )


NAMES = {"linear_attn.norm.": "linear_attn.o_norm.", "linear_attn.out_proj.": "linear_attn.o_proj."}


def _joined(leaf: str, part: str, steps: str) -> WeightMap:
    """Return a weight map that joins the separate weights of queries, keys and values into one parameter."""
    tensors = " + ".join(f"layers.{{i}}.linear_attn.{kind}_{part}.weight" for kind in "qkv")
    return weight_map(f"decoder.layers.{{i}}.attn.{leaf} <- {tensors} : {steps}")


# Norms and kernels have other names on hubs, and in what transformers writes, than in its model.
WEIGHTS = (
    OLMO2
    + DELTA.renamed(NAMES)
    + _joined("wi", "proj", "transpose")
    + _joined("conv", "conv1d", "taps")
    + weight_map("""
    decoder.layers.{i}.{attn,mlp}_pre.weight <- layers.{i}.{attention,feedforward}_layer_norm.weight
    decoder.layers.{i}.attn_post.weight <- layers.{i}.feedforward_layer_norm.weight
    decoder.layers.{i}.attn.{wz,wb,wa} <- layers.{i}.linear_attn.{g,b,a}_proj.weight : transpose
""")
)
