"""The text part of Qwen3-VL: Qwen 3 without windows, with M-RoPE positions."""

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.gguf_keys import SECTIONED, unused
from ..config_readers.gguf_rope import SECTIONS
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, sizes, text_model, without_sections
from . import Gguf, Task, qwen3
from .qwen2_vl import LEFT_OUT, ignore_image_keys
from .qwen2_vl import PREFIX as PREFIX
from .qwen3 import with_qk_norm

MODEL_TYPES = ("qwen3_vl",)
ARCHITECTURES: dict[str, Task] = {"Qwen3VLForConditionalGeneration": "lm", "Qwen3VLModel": "pool"}


def config(keys: Keys, task: Task) -> Decoder:
    ignore_image_keys(keys)
    return text_model(keys, task, {"qwen3_vl_text": TEXT, "qwen3_vl": TEXT}, "qwen3_vl_text", tied=False)


def _text(keys: Keys, task: Task) -> Decoder:
    ignore_image_keys(keys)
    keys = without_sections(keys, 5e5)
    base = decoder(keys, kv_heads=keys.size("num_key_value_heads", 32, null=True), context=128_000, head=128)
    return with_qk_norm(base)


TEXT = TextModel(_text, sizes(151_936, 4096, mlp=22_016, layers=32, heads=32))
WEIGHTS = qwen3.WEIGHTS + LEFT_OUT


# The number of layers to whose outputs vectors of images are added: there are none of a text.
DEEPSTACK = {"n_deepstack_layers": unused("n_deepstack_layers", int, 0)}
GGUF = Gguf("qwen3vl", {**qwen3.KEYS, **SECTIONED, **DEEPSTACK}, UNPERMUTED_QK_WEIGHTS, arrays=(SECTIONS,))
