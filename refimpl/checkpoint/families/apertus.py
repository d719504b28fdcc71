"""Apertus (Swiss AI 2025): Llama's decoder with a plain mlp of xIELU, and normalized queries and keys."""

from ...config import XIELU, Decoder
from ..config_readers.decoder import decoder, without_gates
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .llama import WEIGHTS as LLAMA
from .qwen3 import with_qk_norm

MODEL_TYPES = ("apertus",)
ARCHITECTURES: dict[str, Task] = decoders("Apertus", tasks=("tag",))
THETA = 12e6
# transformers' scaling where a config states none.
ROPE = {
    "rope_type": "llama3", "rope_theta": THETA, "factor": 8.0, "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip


def config(keys: Keys, task: Task) -> Decoder:
    # What the trainer's other models may have otherwise, and no class reads.
    keys.harmless(qk_norm=(True,), post_norm=(False,), mlp_bias=(False,))
    if not (keys.values.get("rope_parameters") or keys.values.get("rope_scaling")):
        keys = keys.replaced({**keys.values, "rope_parameters": ROPE})
    activation = keys.choice("hidden_act", {**ACTIVATIONS, "xielu": XIELU()}, "xielu")
    base = decoder(
        keys.replaced({**keys.values, "hidden_act": "silu"}), context=65_536, theta=THETA, eps=1e-5
    )
    return without_gates(with_qk_norm(base), activation)


WEIGHTS = (
    LLAMA.renamed(
        {"input_layernorm": "attention_layernorm", "post_attention_layernorm": "feedforward_layernorm"}
    )
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.mlp.alpha_{p,n} <- layers.{i}.mlp.act_fn.alpha_{p,n}
    xielu_{beta,eps} == layers.{i}.mlp.act_fn.{beta,eps}
""")
)


GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + weight_map("""
    decoder.layers.{i}.mlp.alpha_{p,n} <- xielu.alpha_{p,n}.{i}
    xielu_{beta,eps} == xielu.{beta,eps}.{i}
    rope_freqs == rope_freqs.weight
""")
GGUF = Gguf("apertus", {**DECODER, "model_type": fixed("apertus")}, GGUF_WEIGHTS)
