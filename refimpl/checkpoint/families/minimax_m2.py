"""MiniMax-M2 (MiniMax 2025): Mixtral's decoder, with experts chosen by sigmoids and biases.

Norms cover all heads of queries and of keys together, and part of each head is rotated."""

from ...config import Decoder, Rope
from ..config_readers.decoder import decoder, sigmoid_experts, with_experts
from ..config_readers.gguf_keys import PARTIAL, SIGMOID, always, experts, fixed, scores, unused
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .mixtral import WEIGHTS as MIXTRAL
from .olmoe import with_joint_qk_norm

MODEL_TYPES = ("minimax_m2",)
ARCHITECTURES: dict[str, Task] = decoders("MiniMaxM2", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    # Of training.
    keys.get("output_router_logits", bool, False)
    for key in ("router_aux_loss_coef", "router_jitter_noise"):
        keys.get(key, float, None)
    # What the repositories' own code can do otherwise, and how many modules predict further tokens, which are
    # left out: no class of transformers reads these.
    keys.harmless(use_qk_norm=(True,), qk_norm_type=("per_layer",), scoring_func=("sigmoid",))
    keys.harmless(use_routing_bias=(True,), shared_intermediate_size=(0,), sliding_window=(None,))
    keys.harmless(use_mtp=(bool,), num_mtp_modules=(int,), mtp_transformer_layers=(int,))
    if any(kind != 1 for kind in keys.get("attn_type_list", list, None) or []):
        raise keys.fail("attn_type_list", "a list of ones, since each layer has full attention")
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8),
        context=196_608,
        attention_bias=False,
        theta=5_000_000.0,
        head=128,
        positions=rotary_part,
    )
    experts = keys.size(keys.spelled("num_local_experts", "num_experts"), 256)
    top = keys.size("num_experts_per_tok", 8)

    mixed = with_experts(base, lambda mlp: sigmoid_experts(mlp, experts, top, mlp.width))
    return with_joint_qk_norm(mixed)


def rotary_part(keys: Keys, head_size: int, context: int, *, theta: float) -> Rope:
    """Read rotary positions of the first `rotary_dim` elements of a head.

    The config may state the number of these elements, or their share of a head.
    """
    dims = keys.size("rotary_dim", None)
    position = rope(keys, head_size, context, theta=theta, partial=1.0 if dims is None else dims / head_size)
    if dims not in (None, position.dims):
        raise keys.fail("rotary_dim", f"the number of rotated elements of a head ({position.dims})")
    return position


WEIGHTS = (
    MIXTRAL
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.mlp.bias <- layers.{i}.block_sparse_moe.e_score_correction_bias
""")
)


KEYS = {
    **PARTIAL,
    **experts("num_local_experts"),
    "model_type": fixed("minimax_m2"),
    "intermediate_size": "expert_feed_forward_length",
    "feed_forward_length": unused("feed_forward_length", int),
    "expert_gating_func": scores(SIGMOID),
    "expert_weights_scale": always("expert_weights_scale", 1.0, told=False),
    "expert_shared_count": always("expert_shared_count", 0, told=False),
    "expert_group_count": always("expert_group_count", 1, told=False),
    "expert_group_used_count": always("expert_group_used_count", 1, told=False),
    "leading_dense_block_count": always("leading_dense_block_count", 0, told=False),
}
GGUF = Gguf("minimax-m2", KEYS, UNPERMUTED_QK_WEIGHTS + EXPERTS)
