"""Qwen 3 with experts and Qwen3-Coder (Yang et al. 2025): experts without a shared expert, and normalized
queries and keys."""

from ...config import Decoder, FullAttention, Gated, MoE, Window
from ..config_readers.decoder import decoder
from ..config_readers.gguf_keys import DECODER, always, experts, experts_width, fixed, layers_without
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count, read_window
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .qwen2_moe import WEIGHTS as QWEN2
from .qwen2_moe import with_experts
from .qwen3 import with_qk_norm

MODEL_TYPES = ("qwen3_moe",)
ARCHITECTURES: dict[str, Task] = decoders("Qwen3Moe")


def config(keys: Keys, task: Task) -> Decoder:
    # What Qwen 2 MoE can do, and its norms, are fixed here: no class reads these.
    keys.harmless(qkv_bias=(False,), shared_expert_intermediate_size=(0,), use_qk_norm=(True,))
    base = decoder(keys, kv_heads=keys.size("num_key_value_heads", 4), context=32_768)
    attention, dense = with_qk_norm(base).stack.attentions[0], base.layers[0].mlp
    assert isinstance(dense, Gated)
    mixture = MoE(
        _experts(keys),
        keys.size("num_experts_per_tok", 8),
        keys.size("moe_intermediate_size", 768),
        dense.activation,
        renormalize=keys.get("norm_topk_prob", bool, False),
        **dense.norms_around,
    )
    keys.get("max_window_layers", int, None)  # stands in older files, transformers doesn't read it
    on, size = keys.get("use_sliding_window", bool, False), read_window(keys, 4096)
    pattern = Window(size) if on and size is not None else FullAttention()
    return with_experts(base, keys, attention, [pattern] * layer_count(keys), mixture)


def _experts(keys: Keys) -> int:
    """Return the number of experts. transformers reads the key num_experts, and writes num_local_experts."""
    counts = {name: keys.get(name, int) for name in ("num_experts", "num_local_experts") if name in keys}
    if len(set(counts.values())) > 1:
        raise keys.fail("num_local_experts", f"the same as num_experts ({counts['num_experts']!r:.40})")
    return next(iter(counts.values()), 128)


WEIGHTS = QWEN2 + QK_NORM


KEYS = {
    **DECODER,
    **experts(),
    "model_type": fixed("qwen3_moe"),
    "moe_intermediate_size": experts_width(lambda width, top: width // top),
    "norm_topk_prob": always("expert_weights_norm", True),
    "mlp_only_layers": layers_without("ffn_gate_inp.weight"),
}
GGUF = Gguf("qwen3moe", KEYS, UNPERMUTED_QK_WEIGHTS + EXPERTS)
