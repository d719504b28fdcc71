"""Mixtral: Mistral's decoder with a mixture of experts in each layer (Jiang et al. 2024).

In GGUF the architecture is llama.
"""

from collections.abc import Callable

from ...config import Decoder, MoE, Rope
from ..config_readers.decoder import decoder, with_experts
from ..config_readers.keys import Keys
from ..config_readers.layers import read_window
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Task, decoders
from .llama import GGUF as GGUF
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("mixtral",)
ARCHITECTURES: dict[str, Task] = decoders("Mixtral")


def config(keys: Keys, task: Task, positions: Callable[..., Rope | None] = rope) -> Decoder:
    # Of training.
    keys.get("output_router_logits", bool, False)
    for key in ("router_aux_loss_coef", "router_jitter_noise"):
        keys.get(key, float, None)
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=131_072,
        attention_bias=False,
        window=read_window(keys),
        theta=1_000_000.0,
        eps=1e-5,
        positions=positions,
    )
    experts, top = keys.size("num_local_experts", 8), keys.size("num_experts_per_tok", 2)
    return with_experts(base, lambda mlp: MoE(experts, top, mlp.width, mlp.activation, **mlp.norms_around))


WEIGHTS = LLAMA + weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{i}.block_sparse_moe.gate.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate <- layers.{i}.block_sparse_moe.experts.{e}.w1.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.up <- layers.{i}.block_sparse_moe.experts.{e}.w3.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.block_sparse_moe.experts.{e}.w2.weight : transpose
""")
