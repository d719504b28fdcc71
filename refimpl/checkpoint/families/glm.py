"""GLM-4 9B (GLM Team 2024): Llama's decoder with fused gate and up projections, and with biases of queries,
keys and values. The first half of each head is rotated, in pairs of neighbouring elements.

In GGUF the architecture is chatglm. It is also the architecture of an earlier form with fused queries, keys
and values.
"""

from dataclasses import replace
from functools import partial

from ...config import Decoder
from ..config_readers.decoder import decoder, interleaved, map_attention
from ..config_readers.gguf_keys import PARTIAL, fixed
from ..config_readers.gguf_weights import FUSED_QKV, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("glm",)
ARCHITECTURES: dict[str, Task] = decoders("Glm", tasks=("classify", "tag"))


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 2),
        context=131_072,
        attention_bias=keys.get("attention_bias", bool, True),
        eps=1.5625e-7,
        head=128,
        positions=partial(rope, partial=0.5),
    )
    qkv_bias = base.stack.attentions[0].qkv_bias or keys.shows("attn_qkv.bias", stated=False)
    out_bias = keys.shows("attn_output.bias", stated=False)
    base = map_attention(base, lambda _, a: replace(a, qkv_bias=qkv_bias, out_bias=out_bias))
    return base if keys.of_gguf and keys.get("rotates_halves", bool, False) else interleaved(base)


GATE_AND_UP = ("decoder.layers.{i}.mlp.gate", "decoder.layers.{i}.mlp.up")
WEIGHTS = LLAMA.without(*GATE_AND_UP) + weight_map("""
    decoder.layers.{i}.mlp.gate, up <- layers.{i}.mlp.gate_up_proj.weight : transpose
""")


GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS.without(*GATE_AND_UP)
    + FUSED_QKV
    + weight_map("""
    decoder.layers.{i}.mlp.gate, up <- blk.{i}.ffn_up.weight : transpose
""")
)
KEYS = {**PARTIAL, "model_type": fixed("glm")}
GGUF = Gguf("chatglm", KEYS, GGUF_WEIGHTS)
