"""ERNIE 4.5 0.3B (Baidu 2025): Llama's decoder with rotary positions that rotate neighbouring elements.

One key of config.json switches on the biases of all projections."""

from ...config import Decoder
from ..config_readers.decoder import decoder, interleaved
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from . import Gguf, Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("ernie4_5",)
# The second name is that of the code that came with the model.
ARCHITECTURES: dict[str, Task] = {**decoders("Ernie4_5", tasks=()), "Ernie4_5_ForCausalLM": "lm"}


def config(keys: Keys, task: Task) -> Decoder:
    bias = keys.get("use_bias", bool, False, null=True) or False
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 2, null=True),
        context=131_072,
        attention_bias=bias,
        mlp_bias=bias,
        theta=500_000.0,
        eps=1e-5,
        head=None if "head_dim" in keys else 128,  # where it is null, heads share the width
        tied=True,
    )
    return interleaved(base)


GGUF = Gguf("ernie4_5", {**DECODER, "model_type": fixed("ernie4_5")}, UNPERMUTED_QK_WEIGHTS)
