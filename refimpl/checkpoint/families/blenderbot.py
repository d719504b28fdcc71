"""Blenderbot (Roller et al. 2020): BART's form, with norms before sublayers. The first position has row 0."""

from ...config import EncoderDecoder
from ..config_readers.keys import Keys
from . import Task
from .bart import WEIGHTS as WEIGHTS
from .bart import pair

MODEL_TYPES = ("blenderbot",)
ARCHITECTURES: dict[str, Task] = {"BlenderbotForConditionalGeneration": "lm"}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    # Of the library that trained it: the class decides where norms stand.
    keys.unused("do_blenderbot_90_layernorm")
    keys.harmless(layernorm_variant=("prelayernorm",), extra_layer_norm=(False,), unk_token_id=(int,))
    values = {"max_position_embeddings": 128, **keys.values}
    values.pop("do_blenderbot_90_layernorm", None)
    return pair(keys.replaced(values), norms="pre", first=False, offset=0)
