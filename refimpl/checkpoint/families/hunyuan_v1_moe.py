"""Hunyuan A13B (Tencent 2025): the layers of Hunyuan's dense models, with experts beside a shared expert in
each.
"""

from typing import Any

from ...config import Decoder, Gated, Layer, MoE
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.gguf_keys import DECODER, always, experts, fixed, restated
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from . import Gguf, Task, decoders
from .hunyuan_v1_dense import UNUSED, with_norms, with_stretched_theta
from .hunyuan_v1_dense import WEIGHTS as DENSE
from .qwen2_moe import WEIGHTS as QWEN2

MODEL_TYPES = ("hunyuan_v1_moe",)
ARCHITECTURES: dict[str, Task] = decoders("HunYuanMoEV1", tasks=("classify",))


def config(keys: Keys, task: Task) -> Decoder:
    # What Tencent's code could do otherwise: no class reads these.
    keys.harmless(use_qk_norm=(True,), use_cla=(False,), use_rotary_pos_emb=(True,), mlp_bias=(False,))
    keys.harmless(norm_type=("rms",), attention_head_dim=(keys.values.get("head_dim"),))
    keys.harmless(moe_layer_num_skipped=(0,), use_mixed_mlp_moe=(True,), norm_topk_prob=(True,))
    keys.harmless(moe_drop_tokens=(bool,), moe_random_routing_dropped_token=(bool,), capacity_factor=(float,))
    keys.harmless(add_classification_head=(False,))
    keys.get("pretraining_tp", int, 1)
    keys.get("output_router_logits", bool, False)
    keys.unused(*UNUSED)
    base = with_norms(decoder(with_stretched_theta(keys), context=2048, eps=1e-5))
    count = keys.size(keys.spelled("num_experts", "num_local_experts"), 1)
    layers = len(base.layers)
    tops = _by_layer(keys, keys.spelled("moe_topk", "num_experts_per_tok"), 1, layers)
    width = keys.size("intermediate_size")
    for key, must in (("moe_intermediate_size", width), ("num_shared_expert", 1)):
        if set(_by_layer(keys, key, must, layers)) != {must}:
            raise keys.fail(key, f"{must} in each layer")

    def mixed(i: int, layer: Layer) -> Layer:
        mlp = layer.mlp
        assert isinstance(mlp, Gated)
        return Layer(
            layer.attention, MoE(count, tops[i], width, mlp.activation, shared=width, **mlp.norms_around)
        )

    return map_layers(base, mixed)


def _by_layer(keys: Keys, key: str, default: int, layers: int) -> list[int]:
    """Return a number for each layer. The key states a list, or one number for all layers."""
    stated: Any = keys.values.get(key)
    if not isinstance(stated, list):
        return [keys.size(key, default, null=True) or default] * layers
    if len(stated) != layers or any(type(one) is not int or one < 1 for one in stated):
        raise keys.fail(key, f"a positive number, or a list of {layers} such numbers")
    return keys.get(key, list)


WEIGHTS = DENSE + QWEN2.renamed(
    {"mlp.shared_expert.": "mlp.shared_mlp.", "mlp.gate.weight": "mlp.gate.wg.weight"}
)
# llama.cpp has one width for all.
WIDTH, SHARED = "feed_forward_length", "expert_shared_feed_forward_length"
KEYS = {
    **DECODER,
    **experts("num_experts", "moe_topk"),
    "model_type": fixed("hunyuan_v1_moe"),
    "moe_intermediate_size": "expert_feed_forward_length",
    SHARED: restated(SHARED, lambda keys: keys.size(WIDTH)),
    "expert_shared_count": always("expert_shared_count", 1, told=False),
}
GGUF = Gguf("hunyuan-moe", KEYS, UNPERMUTED_QK_WEIGHTS + EXPERTS)
