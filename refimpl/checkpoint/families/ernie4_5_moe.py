"""ERNIE 4.5's mixtures (Baidu 2025): ERNIE 4.5 with experts in some layers, beside shared experts.

A softmax and biases choose the experts. tfm leaves out the module that predicts further tokens.
"""

from dataclasses import replace

from ...config import LM, Decoder, Gated, Layer, MoE
from ..config_readers.decoder import map_layers
from ..config_readers.gguf_keys import DECODER, SHARED_WIDTH, experts, fixed, optional
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .ernie4_5 import config as ernie4_5
from .qwen2_moe import WEIGHTS as QWEN2

MODEL_TYPES = ("ernie4_5_moe",)
ARCHITECTURES: dict[str, Task] = decoders("Ernie4_5_Moe", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("output_router_logits", "router_aux_loss_coef")  # of training
    keys.unused("num_nextn_predict_layers", "num_mtp_layers")
    # A sum of weights below this, which none has in practice, isn't divided by itself there.
    keys.harmless(moe_norm_min=(1e-12,))
    # Heads share the width.
    base = ernie4_5(keys.with_defaults({"num_key_value_heads": 4, "head_dim": None}), task)
    count = keys.size(keys.spelled("moe_num_experts", "num_experts"), 64)
    top = keys.size(keys.spelled("moe_k", "num_experts_per_tok"), 6)
    width, shared = keys.size("moe_intermediate_size", 1536), keys.get("moe_num_shared_experts", int, 2)
    first, step = keys.get("moe_layer_start_index", int, 1), keys.size("moe_layer_interval", 1)
    last = keys.get("moe_layer_end_index", int, -1)
    last = len(base.layers) - 1 if last == -1 else last

    def layer(i: int, dense: Layer) -> Layer:
        mlp = dense.mlp
        assert isinstance(mlp, Gated)
        if not first <= i <= last or (i + 1) % step:
            return dense
        mixture = MoE(
            count,
            top,
            width,
            mlp.activation,
            choice_bias=True,
            shared=width * shared or None,
            shared_bias=mlp.bias and shared > 0,
            **mlp.norms_around,
        )
        return replace(dense, mlp=mixture)

    bias = keys.get("use_bias", bool, False, null=True) or False
    assert isinstance(base.head, LM)
    return replace(map_layers(base, layer), head=replace(base.head, bias=bias))


WEIGHTS = QWEN2.renamed({"mlp.shared_expert.": "mlp.shared_experts."}) + weight_map("""
    decoder.layers.{i}.mlp.bias <- layers.{i}.mlp.(moe_statics|gate.moe_statics).e_score_correction_bias : row
    decoder.layers.{i}.mlp.shared.{bgate,bup,bdown} <- layers.{i}.mlp.shared_experts.{gate,up,down}_proj.bias
    head.bias <- lm_head.bias
    left out <- mtp_*
""")
KEYS = {
    **DECODER,
    **experts("moe_num_experts", "moe_k"),
    "model_type": fixed("ernie4_5_moe"),
    "moe_intermediate_size": "expert_feed_forward_length",
    "moe_num_shared_experts": optional("expert_shared_count", 0),
    "moe_layer_start_index": optional("leading_dense_block_count", 0),
    "moe_layer_interval": "interleave_moe_layer_step",
    **SHARED_WIDTH,
}
GGUF = Gguf("ernie4_5-moe", KEYS, UNPERMUTED_QK_WEIGHTS + EXPERTS)
