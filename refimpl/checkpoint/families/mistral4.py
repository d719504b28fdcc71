"""Mistral Small 4 (Mistral AI 2026): DeepSeek's latent attention, with queries scaled by their position.

A softmax chooses experts among the best groups of a token; they are beside a shared expert. In GGUF the
norms of latents have the same eps as the other norms, as llama.cpp computes them. In a checkpoint this eps
is 1e-6.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

from ...config import Decoder, ExpertGroups, Gated, MoE, QueryScale
from ..config_readers.decoder import map_layers, sigmoid_experts, with_experts
from ..config_readers.gguf_keys import SIGMOID_EXPERTS, SOFTMAX, Row, fixed, scores, without
from ..config_readers.keys import Keys
from ..config_readers.rope import ORIGINAL
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .deepseek_v2 import GGUF_WEIGHTS, LATENT_KEYS, LATENTS, MULTIPLIER, ROTATED, latent_decoder
from .ministral3 import query_scaling, with_query_scale
from .qwen2_moe import WEIGHTS as QWEN2

MODEL_TYPES = ("mistral4",)
ARCHITECTURES: dict[str, Task] = decoders("Mistral4", tasks=("classify", "tag"))
# The class's own, where the other families with latents have others.
DEFAULTS = {"kv_lora_rank": 256, "q_lora_rank": 1024, "qk_nope_head_dim": 64}
ROPE = {
    "type": "yarn", "rope_theta": 10_000.0, "factor": 128.0, ORIGINAL: 8192, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip


def config(keys: Keys, task: Task) -> Decoder:
    keys.get("pretraining_tp", int, 1, null=True)  # several slices of one product, summed
    keys.get("output_router_logits", bool, False)  # of training
    keys = keys.with_defaults(DEFAULTS)
    stated, scale = with_query_scale(_rotated_in_part(keys), ROPE)
    base = latent_decoder(
        stated, context=1_048_576, rope_interleave=keys.get("rope_interleave", bool, True, null=True) is True
    )
    dense = keys.get("first_k_dense_replace", int, 0)
    return with_experts(_scaled(base, scale), partial(mixture, keys), dense)


def _rotated_in_part(keys: Keys) -> Keys:
    """Convert the keys to DeepSeek's meaning of a head's size.

    DeepSeek's key states the size of the rotated part. Mistral's key states the size of the whole head, and
    its rotary keys state the share that is rotated."""
    rotated = keys.size("qk_rope_head_dim", 64)
    size = keys.size("qk_nope_head_dim") + rotated
    keys.restated("head_dim", size, f"qk_nope_head_dim + qk_rope_head_dim ({size})")
    values = {**keys.values, "head_dim": rotated}
    for name in {"rope_scaling", "rope_parameters"} & values.keys():
        inner = Keys(keys.get(name, dict, None) or {}, f"{keys.where}: {name}")
        if int(size * inner.positive("partial_rotary_factor", rotated / size)) != rotated:
            raise inner.fail("partial_rotary_factor", f"qk_rope_head_dim / head_dim ({rotated} / {size})")
        values[name] = {key: value for key, value in inner.values.items() if key != "partial_rotary_factor"}
    return keys.replaced(values)


def _scaled(config: Decoder, scale: QueryScale | None) -> Decoder:
    """Return the decoder with the given scale of queries in each layer."""
    changed: dict[str, Any] = {"query_scale": scale}
    return map_layers(config, lambda _, layer: replace(layer, attention=replace(layer.attention, **changed)))


def mixture(keys: Keys, mlp: Gated) -> MoE:
    """Return the mixture of experts in place of a gated mlp, which a softmax chooses."""
    experts = sigmoid_experts(
        mlp,
        keys.size(keys.spelled("n_routed_experts", "num_local_experts"), 128),
        keys.size("num_experts_per_tok", 4),
        keys.size("moe_intermediate_size", 2048),
        renormalize=keys.get("norm_topk_prob", bool, True),
        scale=keys.positive("routed_scaling_factor", 1.0),
        shared=keys.size("n_shared_experts", 1),
        groups=ExpertGroups(keys.size("n_group", 1), keys.size("topk_group", 1)),
    )
    return replace(experts, score="softmax", choice_bias=False)


# All experts of a layer are in one tensor.
JOINED_EXPERTS = weight_map("""
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.mlp.experts.gate_up_proj[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.mlp.experts.down_proj[{e}] : transpose
""")
WEIGHTS = QWEN2.renamed({"mlp.shared_expert.": "mlp.shared_experts."}) + LATENTS + JOINED_EXPERTS


def _rotary(keys: Keys, source: TensorSource) -> dict[str, Any]:
    if not math.isclose(keys.get(MULTIPLIER, float, 0.1), 0.1, rel_tol=1e-6):
        # llama.cpp takes it for YaRN's magnitude too, and then scales scores otherwise than the checkpoint.
        raise keys.fail(MULTIPLIER, "0.1, a tenth of mscale_all_dim")
    rotary = query_scaling(keys, source, keys.size(ROTATED))
    if rotary["rope_type"] == "yarn":
        keys.stated(MULTIPLIER)
        rotary |= {"mscale": 1.0, "mscale_all_dim": 1.0}
    if rotary["llama_4_scaling_beta"]:
        keys.restated("attention.temperature_length", rotary[ORIGINAL], f"{rotary[ORIGINAL]}")
    return rotary


# llama.cpp chooses by a softmax where no key says how.
KEYS = {
    **without(LATENT_KEYS, "rope_theta", "rope_scaling"),
    **SIGMOID_EXPERTS,
    "model_type": fixed("mistral4"),
    "rope_parameters": Row(_rotary),
    "expert_gating_func": scores(SOFTMAX, default=SOFTMAX),
}
GGUF = Gguf("mistral4", KEYS, GGUF_WEIGHTS)
