"""The text part of Llama 3.2 Vision (Meta 2024): Llama 3's decoder, without the layers that read an image.

Without an image these layers (`cross_attention_layers`) do nothing. So tfm leaves them out and numbers the
other layers without them. The embedding table has eight more rows, for ids that represent images."""

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..config_readers.text_part import TextModel, sizes, text_part
from ..weights.weight_map import WeightMap, weight_map
from . import Task
from .llama import WEIGHTS as LLAMA
from .llava import PREFIX as PREFIX

MODEL_TYPES = ("mllama",)
ARCHITECTURES: dict[str, Task] = {"MllamaForConditionalGeneration": "lm", "MllamaModel": "pool"}
# No dialect of GGUF: llama.cpp has no architecture for it.
CROSS = [3, 8, 13, 18, 23, 28, 33, 38]


def _own_layers(keys: Keys) -> list[int]:
    """Return the numbers of the layers that read tokens, not images."""
    stated = keys.get("cross_attention_layers", list, None)
    cross = CROSS if stated is None else stated
    own = sorted(set(range(layer_count(keys))).difference(i for i in cross if type(i) is int))
    if not own or not all(type(i) is int for i in cross):
        raise keys.fail(
            "cross_attention_layers", "a list of layer numbers from 0, which leaves out at least one layer"
        )
    return own


def _text(keys: Keys, task: Task) -> Decoder:
    keys.unused("dropout")
    keys.harmless(tie_word_embeddings=(bool,))  # no class ties: the tables differ
    own = {"num_hidden_layers": len(_own_layers(keys)), "tie_word_embeddings": False}
    return decoder(
        keys.replaced({**keys.values, **own}),
        kv_heads=keys.size("num_key_value_heads", 8),
        context=131_072,
        attention_bias=False,
        theta=5e5,
        eps=1e-5,
    )


TEXT = TextModel(_text, sizes(128_256, 4096, mlp=14_336, layers=40, heads=32))
config = text_part(
    {"mllama_text_model": TEXT}, "mllama_text_model", tied=False, unused=(
        "vision_config", "image_token_index", "image_token_id",
    ),
)  # fmt: skip
WEIGHTS = LLAMA.without("embedding.table") + weight_map("""
    embedding.table <- embed_tokens.weight : fewer_rows
    left out <- {vision_model,multi_modal_projector}.*
""")


def checkpoint_weights(keys: Keys) -> WeightMap:
    text = keys.replaced(TEXT.defaults | keys.values["text_config"])
    own = _own_layers(text)
    others = set(range(layer_count(text))) - {*own}
    return WEIGHTS.numbered(own) + weight_map("\n".join(f"left out <- layers.{i}.*" for i in sorted(others)))
