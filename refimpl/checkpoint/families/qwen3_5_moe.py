"""Qwen 3.5 with experts (Qwen 2026), as text: each layer has the experts of Qwen3-Next."""

from ...config import Decoder, Gated, MoE
from ..config_readers.decoder import with_experts
from ..config_readers.gguf_keys import RECURRENT, SECTIONED, fixed, without
from ..config_readers.gguf_rope import SECTIONS
from ..config_readers.gguf_weights import EXPERTS
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .qwen2_moe import WEIGHTS as QWEN2_MOE
from .qwen2_vl import LEFT_OUT
from .qwen3_5 import GGUF_WEIGHTS, PROJECTIONS, text_keys, text_or_images, with_module
from .qwen3_5 import PREFIX as PREFIX
from .qwen3_next import MIXED_KEYS, gated_decoder, gated_weights, with_delta

MODEL_TYPES = ("qwen3_5_moe", "qwen3_5_moe_text")
ARCHITECTURES: dict[str, Task] = {
    "Qwen3_5MoeForConditionalGeneration": "lm",
    "Qwen3_5MoeTextModel": "pool",
    **decoders("Qwen3_5Moe", tasks=()),
}


def config(keys: Keys, task: Task) -> Decoder:
    return text_or_images(keys, task, TEXT, "qwen3_5_moe")


def _text(keys: Keys, task: Task) -> Decoder:
    keys = text_keys(keys)
    # The weights of chosen experts always sum to one.
    keys.harmless(norm_topk_prob=(True,))
    keys.get("output_router_logits", bool, False)
    keys.get("router_aux_loss_coef", float, None)
    # There is no mlp but the experts' and the shared one.
    shared = keys.size("shared_expert_intermediate_size", 512)
    keys.unused("intermediate_size")
    base = gated_decoder(keys.replaced({**keys.values, "intermediate_size": shared}), kv_heads=2)
    experts, top = keys.size("num_experts", 256), keys.size("num_experts_per_tok", 8)
    width = keys.size("moe_intermediate_size", 512)

    def mixture(mlp: Gated) -> MoE:
        return MoE(experts, top, width, mlp.activation, shared=shared, shared_gate=True, **mlp.norms_around)

    return with_module(with_delta(with_experts(base, mixture), keys), keys)


TEXT = TextModel(
    _text,
    {"vocab_size": 248_320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16},
)
# All experts of a layer are in one tensor on hubs, and each alone as transformers 5 writes a text model.
JOINED_EXPERTS = weight_map("""
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.mlp.experts.gate_up_proj[{e}] : either_order
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.mlp.experts.down_proj[{e}] : either_order
""")
WEIGHTS = (
    JOINED_EXPERTS.of_mtp("mtp.layers.0.")
    + gated_weights(QWEN2_MOE)
    + PROJECTIONS
    + JOINED_EXPERTS
    + LEFT_OUT
)


KEYS = {**without(MIXED_KEYS, "mlp_only_layers"), **SECTIONED, "model_type": fixed("qwen3_5_moe_text")}
GGUF = Gguf("qwen35moe", KEYS, GGUF_WEIGHTS + EXPERTS, arrays=(SECTIONS, RECURRENT))
