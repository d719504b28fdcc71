"""InternLM 3 (Shanghai AI Laboratory 2025): Llama's decoder, with other defaults and other keys for
biases."""

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.keys import Keys
from . import Task, decoders
from .llama import GGUF as GGUF
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("internlm3",)
ARCHITECTURES: dict[str, Task] = {**decoders("Llama"), **decoders("InternLM3", tasks=())}


def config(keys: Keys, task: Task) -> Decoder:
    bias = keys.get(keys.spelled("attention_bias", "qkv_bias"), bool, False)
    # Its own code gives the output projection the mlp's biases: where both agree it is as in Llama.
    of_mlp = keys.spelled("mlp_bias", "bias")
    if keys.get(of_mlp, bool, False) != bias:
        raise keys.fail(of_mlp, f"the same as the bias of queries, keys and values ({str(bias).lower()})")
    return decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 2, null=True),
        context=32_768,
        attention_bias=bias,
        mlp_bias=bias,
        eps=1e-5,
        head=128,
    )
