"""OLMo 1 (Groeneveld et al. 2024): Llama's decoder with norms without weights. Queries, keys and values may
be clipped."""

from dataclasses import replace

from ...config import Decoder, LayerNorm
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import DECODER, fixed, optional, without
from ..config_readers.gguf_weights import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from . import Gguf, Task, decoders, llama

MODEL_TYPES = ("olmo",)
ARCHITECTURES: dict[str, Task] = decoders("Olmo", tasks=("classify",))
WEIGHTS = llama.TRUNK


def config(keys: Keys, task: Task) -> Decoder:
    keys.get("pretraining_tp", int, 1)  # several slices of one product, summed: the same mathematics
    eps = keys.positive("layer_norm_eps") if keys.of_gguf else 1e-5  # config.json has no key for it
    base = decoder(keys, context=2048, norm=LayerNorm(eps, bias=False, weight=False))
    clip = keys.positive("clip_qkv", None)
    return map_attention(base, lambda _, a: replace(a, clip=clip))


# The converter permutes queries and keys but not their biases: a file with biases is refused.
BIASES = tuple(f"decoder.layers.{{i}}.attn.{name}" for name in ("bq", "bk", "bv", "bo"))
KEYS = {
    **without(DECODER, "rms_norm_eps"),
    "model_type": fixed("olmo"),
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "clip_qkv": optional("attention.clamp_kqv"),
}
GGUF = Gguf("olmo", KEYS, PERMUTED_QK_WEIGHTS.without(*BIASES))
