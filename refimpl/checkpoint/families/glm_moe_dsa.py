"""GLM-5 to 5.2 (Zhipu AI 2026): DeepSeek-V3.2's layers. Rotary positions of the indexer's heads rotate
neighbouring elements.

A layer without an indexer uses the tokens that the nearest earlier indexer chose.
"""

from dataclasses import replace
from typing import Any

from ...config import Decoder, Layer, SharedIndexer
from ..config_readers.decoder import map_layers
from ..config_readers.gguf_keys import SIGMOID, Row, fixed, scores, trunk_layers
from ..config_readers.keys import ABSENT, Keys
from ..formats.tensor_source import TensorSource
from . import Gguf, Task
from .deepseek_v32 import GGUF_WEIGHTS, indexed_decoder
from .deepseek_v32 import KEYS as DEEPSEEK
from .deepseek_v32 import WEIGHTS as WEIGHTS

MODEL_TYPES = ("glm_moe_dsa",)
ARCHITECTURES: dict[str, Task] = {"GlmMoeDsaForCausalLM": "lm"}
DEFAULTS = {
    "moe_intermediate_size": 2048,
    "routed_scaling_factor": 2.5,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "rms_norm_eps": 1e-5,
}
LETTERS = {"F": "full", "S": "shared"}  # of a pattern


def config(keys: Keys, task: Task) -> Decoder:
    keys.harmless(indexer_rope_interleave=(True,))
    base = indexed_decoder(keys, DEFAULTS, context=202_752, index_heads=32, interleaved=True)
    types = indexer_types(keys, len(base.layers))

    def shared(i: int, layer: Layer) -> Layer:
        """Return the layer without its own indexer, unless its type is "full"."""
        if types[i] == "full":
            return layer
        latent: Any = layer.attention
        return replace(layer, attention=replace(latent, indexer=SharedIndexer(latent.indexer.topk)))

    return map_layers(base, shared)


def indexer_types(keys: Keys, count: int) -> list[str]:
    """Return which layers have their own indexer ("full"), and which layers share one.

    The config states this as a list, a pattern or a period. A list overrules a pattern, and a pattern
    overrules a period. A list may be longer than the layers, because it may have the types of modules after
    them, which are left out.
    """
    names = "indexer_types", "index_topk_pattern", "index_topk_freq"
    name = next((n for n in names[:2] if keys.values.get(n) is not None), names[2])
    keys.unused(*names, "index_skip_topk_offset")
    if name == "index_topk_freq":
        period, offset = max(keys.get(name, int, 1), 1), keys.get("index_skip_topk_offset", int, 2)
        types = _by_period(count, period, offset)
    elif isinstance(keys.values[name], str) and name == "index_topk_pattern":
        pattern: str = keys.get(name, str)
        types = [LETTERS.get(letter, letter) for letter in pattern]
    else:
        types = keys.get(name, list)
    if len(types) < count or types[0] != "full" or any(t not in ("full", "shared") for t in types[:count]):
        must = f"full or shared for each of {count} layers, full for the first"
        raise keys.fail("index_skip_topk_offset" if name == "index_topk_freq" else name, must)
    return types


def _by_period(count: int, period: int, offset: int) -> list[str]:
    """Return the types of `count` layers. The first `offset` layers have an indexer, and then every
    `period`-th.
    """
    return ["shared" if max(i - offset + 1, 0) % period else "full" for i in range(count)]


def _types(keys: Keys, source: TensorSource) -> Any:
    """Return the types of the layers in a GGUF file, which states true for each layer with an indexer."""
    full, count = keys.get(TYPES, list, None), trunk_layers(keys, source)
    if full is None:
        return ABSENT
    if len(full) < count or full[0] is not True or any(type(one) is not bool for one in full):
        raise keys.fail(
            TYPES, f"a value for each of {count} layers, and the first layer must have an indexer"
        )
    return ["full" if one else "shared" for one in full]


def _period(newer: int) -> Row:
    """Return the row for the period in files older than its key. llama.cpp recognizes GLM-5.2 by its
    context.
    """
    return Row(lambda keys, _: newer if keys.size("context_length") >= 2**20 else 1)


TYPES = "attention.indexer.types"
KEYS = {
    **DEEPSEEK,
    "model_type": fixed("glm_moe_dsa"),
    "expert_gating_func": scores(SIGMOID, default=SIGMOID),
    "indexer_types": Row(_types, TYPES),
    "index_topk_freq": _period(4),
    "index_skip_topk_offset": _period(3),
}
GGUF = Gguf("glm-dsa", KEYS, GGUF_WEIGHTS, arrays=(TYPES,))
