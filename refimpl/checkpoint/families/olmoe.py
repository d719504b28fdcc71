"""OLMoE (Muennighoff et al. 2024): a mixture of experts in each layer.

A norm over all heads together normalizes the queries, and another one the keys."""

from dataclasses import replace

from ...config import Decoder, Gated, HeadNorm, MoE
from ..config_readers.decoder import decoder, map_attention, with_experts
from ..config_readers.gguf_keys import DECODER, always, experts, experts_width, fixed
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .qwen2_moe import WEIGHTS as QWEN2

MODEL_TYPES = ("olmoe",)
ARCHITECTURES: dict[str, Task] = decoders("Olmoe", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    # Of training.
    keys.get("output_router_logits", bool, False)
    keys.get("router_aux_loss_coef", float, None)
    if keys.get("clip_qkv", float, None) is not None:
        raise keys.fail("clip_qkv", "null: tfm doesn't clip queries and keys after their norms")
    base = decoder(keys, context=4096, eps=1e-5)
    experts = keys.size(keys.spelled("num_experts", "num_local_experts"), 64)
    top, renormalize = keys.size("num_experts_per_tok", 8), keys.get("norm_topk_prob", bool, False)

    def mixture(mlp: Gated) -> MoE:
        return MoE(experts, top, mlp.width, mlp.activation, renormalize=renormalize, **mlp.norms_around)

    return with_joint_qk_norm(with_experts(base, mixture))


def with_joint_qk_norm(base: Decoder) -> Decoder:
    """Return the decoder with norms over all heads of queries and of keys together.

    These norms have the same kind as the sublayers' norms."""
    return map_attention(
        base, lambda _, a: replace(a, qk_norm=None if a.pre is None else HeadNorm(a.pre, "all"))
    )


WEIGHTS = QWEN2 + QK_NORM


KEYS = {
    **DECODER,
    **experts(),
    "model_type": fixed("olmoe"),
    "intermediate_size": experts_width(lambda width, _: width),
    "norm_topk_prob": always("expert_weights_norm", False),
}
GGUF = Gguf("olmoe", KEYS, UNPERMUTED_QK_WEIGHTS + EXPERTS)
