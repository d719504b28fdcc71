"""Granite 4 (IBM 2025): Granite with a shared mlp, with or without experts beside it.

The models with an h in their names have layers of Mamba 2, and attention in a few layers.
"""

from dataclasses import replace

from ...config import Decoder, Gated, Layer
from ..config_readers.decoder import map_attention, map_layers
from ..config_readers.gguf_keys import Table, layers_with_heads
from ..config_readers.gguf_states import EXPANDED, GGUF_MAMBA2, MAMBA2
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..config_readers.mamba2 import MIXER, with_mamba2
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .granite import BY_LAYER, HYBRID_DENSE, HYBRID_MOE, SHARED, granite, with_shared_expert
from .granitemoe import GGUF as WITHOUT_STATES
from .granitemoe import mixed, unused_in_training
from .granitemoeshared import WEIGHTS as GRANITE_MOE

MODEL_TYPES = ("granitemoehybrid",)
ARCHITECTURES: dict[str, Task] = decoders("GraniteMoeHybrid", tasks=())

POSITIONS = {"rope": True, "nope": False}


def config(keys: Keys, task: Task) -> Decoder:
    unused_in_training(keys)
    base = granite(keys, mlp_bias=False)
    kind = keys.get("position_embedding_type", str, None)
    if kind is None or not keys.choice("position_embedding_type", POSITIONS):
        base = map_attention(base, lambda _, attention: replace(attention, position=None))
        base = replace(base, context=keys.size("max_position_embeddings", 2048))
    width, experts = keys.size("shared_intermediate_size", 1024), keys.get("num_local_experts", int, 8)
    if experts == 0:
        keys.unused("num_experts_per_tok")
        return _mixed(map_layers(base, lambda _, layer: _resized(layer, width)), keys)
    experts, top = keys.size("num_local_experts", 8), keys.size("num_experts_per_tok", 2)
    shared = map_layers(base, lambda _, layer: with_shared_expert(mixed(layer, experts, top), width))
    return _mixed(shared, keys)


def _places(keys: Keys) -> list[int]:
    """Return the numbers of the layers with a state instead of attention: by default all layers."""
    kinds = keys.get(keys.spelled("layer_types", "layers_block_type"), list, None)
    layers = layer_count(keys)
    if kinds is None:
        return [*range(layers)]
    if len(kinds) != layers or any(kind not in (*ATTENTION, *STATES) for kind in kinds):
        raise keys.fail(
            "layer_types", f"a list of {layers} entries, each {' or '.join((*ATTENTION, *STATES))}"
        )
    return [i for i, kind in enumerate(kinds) if kind in STATES]


def _mixed(config: Decoder, keys: Keys) -> Decoder:
    places = _places(keys)
    if not places:
        keys.unused(*STATE_KEYS)
        return config
    return with_mamba2(config, keys, places)


def _resized(layer: Layer, width: int) -> Layer:
    mlp = layer.mlp
    assert isinstance(mlp, Gated)
    return replace(layer, mlp=replace(mlp, width=width))


ATTENTION, STATES = ("attention", "full_attention"), ("mamba", "linear_attention")
STATE_KEYS = (
    "mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_head", "mamba_d_conv", "mamba_expand",
    "mamba_chunk_size", "mamba_conv_bias", "mamba_proj_bias", "time_step_limit", "time_step_min",
    "time_step_max", "time_step_floor",
)  # fmt: skip

# Llama's names of an mlp aren't those of this one.
MLP = [f"decoder.layers.{{i}}.mlp.{part}" for part in ("gate", "up", "down")]
WEIGHTS = GRANITE_MOE.without(*MLP) + weight_map("""
    decoder.layers.{i}.mlp.gate, up <- layers.{i}.shared_mlp.input_linear.weight : transpose
    decoder.layers.{i}.mlp.down <- layers.{i}.shared_mlp.output_linear.weight : transpose
""")
WEIGHTS += MIXER.renamed({".mixer.": ".mamba."})


def table(keys: Keys) -> Table:
    """Return GGUF's table for a Granite 4 model with state layers, which have no key/value heads in the
    file.
    """
    if keys.get("expert_count", int, 0):
        return {**HYBRID_MOE, **STATES_TABLE}
    keys.unused("expert_used_count", SHARED)
    return {**HYBRID_DENSE, **STATES_TABLE}


STATES_TABLE = {
    **MAMBA2,
    **EXPANDED,
    **layers_with_heads(),
}
GGUF = Gguf("granitehybrid", table, WITHOUT_STATES.weights + GGUF_MAMBA2, WITHOUT_STATES, by_layer=BY_LAYER)
