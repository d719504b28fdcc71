"""Command A+ and North Mini Code (Cohere 2026): Command A with experts. A shared expert's output may be
averaged with their sum.

Layers without experts, by default the first layer, may have positions although they have no window."""

from dataclasses import replace

from ...config import Decoder, Gated, Layer, MoE, RMSNorm
from ..config_readers.decoder import map_layers, with_experts
from ..config_readers.gguf_keys import (
    EPS,
    GATING,
    RMS_EPS,
    SHARED_WIDTH,
    SIGMOID,
    SOFTMAX,
    Row,
    always,
    either,
    experts,
    fixed,
    only,
    optional,
    sliding_layers,
    trunk_layers,
    without,
)
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window, sparse_layers
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, cohere, decoders
from .cohere2 import KEYS as COHERE2
from .cohere2 import harmless_of_training, with_positions_in_windows
from .qwen2_moe import WEIGHTS as QWEN2

MODEL_TYPES = ("cohere2_moe",)
ARCHITECTURES: dict[str, Task] = decoders("Cohere2Moe", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    keys.get("output_router_logits", bool, False)  # of training
    first, every = keys.get("first_k_dense_replace", int, 0), keys.size("sliding_window_pattern", 4)
    every_dense = keys.size("prefix_dense_sliding_window_pattern", 1)
    harmless_of_training(keys, every)
    types = layer_types(
        keys, lambda i: (i + 1) % every_dense != 0 if i < first else (i - first + 1) % every != 0
    )
    sparse = sparse_layers(keys, 0)
    masks = layer_masks(keys, types, read_window(keys, 4096, everywhere=False))
    eps = keys.positive("rms_norm_eps", None)
    keys.harmless(rope_scaling=(None,))  # its class doesn't read it
    if keys.get("rope_parameters", dict, None):  # writes its default theta beside them
        keys.unused("rope_theta")
        keys = keys.replaced({key: value for key, value in keys.values.items() if key != "rope_theta"})
    base = cohere.decoder(keys.with_defaults({"head_dim": 128}), theta=10_000.0, qk_norm=False)
    position, dense = base.stack.attentions[0].position, base.layers[0].mlp
    assert isinstance(dense, Gated)
    dense = replace(dense, width=keys.size("prefix_dense_intermediate_size", None) or dense.width)
    norm = base.stack.final_norm if eps is None else RMSNorm(eps)
    experts, top = keys.size("num_experts", 8), keys.size("num_experts_per_tok", 2)
    score = keys.choice("expert_selection_fn", {"softmax": "softmax", "sigmoid": "sigmoid"}, "softmax")
    renormalize = keys.get("norm_topk_prob", bool, True) or score == "softmax"
    shared = keys.get("num_shared_experts", int, 0)
    average = keys.choice("shared_expert_combination_strategy", {"average": True, "sum": False}, "average")

    def mixture(mlp: Gated) -> MoE:
        return MoE(
            experts,
            top,
            mlp.width,
            mlp.activation,
            score,
            renormalize,
            shared=mlp.width * shared or None,
            average=average and shared > 0,
        )

    def changed(i: int, layer: Layer) -> Layer:
        attention = replace(layer.attention, pre=norm)
        if sparse[i]:
            return replace(layer, attention=attention)
        if every_dense == 1:
            attention = replace(attention, position=position)
        return replace(layer, attention=attention, mlp=dense)

    mixed = map_layers(with_experts(with_positions_in_windows(base, masks), mixture, sparse), changed)
    return replace(mixed, stack=replace(mixed.stack, final_norm=norm))


WEIGHTS = QWEN2.renamed({"mlp.shared_expert.": "mlp.shared_experts."})


def _choice(keys: Keys, _: TensorSource) -> str:
    """Return how experts are chosen. transformers takes the softmax over the chosen experts, so weights add
    up to 1.
    """
    number, normed = keys.get(GATING, int, SIGMOID), keys.get("expert_weights_norm", bool, False)
    if number not in (SIGMOID, SOFTMAX) or (number == SOFTMAX and not normed):
        raise keys.fail(GATING, f"{SIGMOID}, or {SOFTMAX} if expert_weights_norm is true")
    return "softmax" if number == SOFTMAX else "sigmoid"


KEYS = {
    **without(COHERE2, "rope_scaling"),
    **experts(),
    "model_type": fixed("cohere2_moe"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    # llama.cpp has an RMSNorm where the file states its eps.
    "layer_norm_eps": either(EPS, RMS_EPS),
    "rms_norm_eps": optional(RMS_EPS),
    "rope.scaling.type": only("rope.scaling.type", "none"),
    "layer_types": sliding_layers(4, trunk=True, first=True),
    "intermediate_size": "expert_feed_forward_length",
    "prefix_dense_intermediate_size": "feed_forward_length",
    "first_k_dense_replace": "leading_dense_block_count",
    "num_shared_experts": optional("expert_shared_count", 0),
    **SHARED_WIDTH,
    "norm_topk_prob": optional("expert_weights_norm", False),
    "expert_weights_scale": always("expert_weights_scale", 1.0, told=False),
    "expert_selection_fn": Row(_choice, GATING),
}
LEFT_OUT = weight_map("left out <- blk.{n}.*")
GGUF = Gguf(
    "cohere2moe",
    KEYS,
    UNPERMUTED_QK_WEIGHTS + EXPERTS + LEFT_OUT,
    by_layer=("attention.sliding_window_pattern",),
)
