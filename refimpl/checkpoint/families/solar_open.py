"""Solar Open (Upstage 2026): GLM-4.5's experts in every layer, with whole heads rotated as in Llama."""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.keys import Keys
from . import Task, decoders
from .glm4_moe import GGUF as GGUF
from .glm4_moe import WITHOUT_MTP, with_sigmoid_experts

MODEL_TYPES = ("solar_open",)
ARCHITECTURES: dict[str, Task] = decoders("SolarOpen", tasks=())
WEIGHTS = WITHOUT_MTP


def config(keys: Keys, task: Task) -> Decoder:
    # Of dense layers and norms of heads, which transformers' class hasn't: off, where a file states them.
    keys.harmless(first_k_dense_replace=(0,), use_qk_norm=(False,), intermediate_size=(int, None))
    keys.harmless(num_nextn_predict_layers=(0,), num_mtp_layers=(0,))
    width = keys.size("moe_intermediate_size", 1280)
    keys = keys.replaced({**keys.values, "intermediate_size": width, "moe_intermediate_size": width})
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8),
        context=131_072,
        attention_bias=keys.get("attention_bias", bool, False),
        theta=1e6,
        eps=1e-5,
        head=128,
    )
    base = map_attention(base, lambda _, attention: replace(attention, out_bias=False))
    return with_sigmoid_experts(
        base,
        keys,
        experts=keys.size(keys.spelled("n_routed_experts", "num_local_experts"), 128),
        top=keys.size("num_experts_per_tok", 8),
        shared=keys.size("n_shared_experts", 1),
        sparse=0,
        renormalize=keys.get("norm_topk_prob", bool, True),
    )
