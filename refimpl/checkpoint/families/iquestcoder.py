"""IQuest-Coder (IQuest Lab 2026): Llama's decoder, with other defaults."""

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.keys import Keys
from . import Task, decoders
from .llama import GGUF as GGUF
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("iquestcoder",)
ARCHITECTURES: dict[str, Task] = {**decoders("Llama"), **decoders("IQuestCoder", tasks=())}


def config(keys: Keys, task: Task) -> Decoder:
    # Its own code has these, its files turn them off, and transformers refuses them.
    keys.harmless(clip_qkv=(None,), use_sliding_window=(False,), sliding_window=(int, None))
    keys.harmless(max_window_layers=(int, None))
    return decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=131_072,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=keys.get("mlp_bias", bool, False),
        eps=1e-5,
        head=128,
    )
