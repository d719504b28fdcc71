"""Blenderbot Small (Roller et al. 2020, the model of 90 million parameters): BART's form. The first position
has row 0.

The decoder adds positions after the norm of the embedding. transformers 5 doesn't scale the decoder's tokens
by `scale_embedding`. Earlier versions do, and so does the library that trained the model.
"""

from dataclasses import replace

from ...config import EncoderDecoder, Stack
from ..config_readers.keys import Keys
from . import Task
from .bart import WEIGHTS as WEIGHTS
from .bart import pair

MODEL_TYPES = ("blenderbot-small",)
ARCHITECTURES: dict[str, Task] = {"BlenderbotSmallForConditionalGeneration": "lm"}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    # Of the library that trained it: the class decides where norms stand.
    keys.unused("do_blenderbot_90_layernorm")
    keys.harmless(layernorm_variant=("xlm",), extra_layer_norm=(False,), unk_token_id=(int,))
    values = {"max_position_embeddings": 512, **keys.values}
    values.pop("do_blenderbot_90_layernorm", None)
    base = pair(keys.replaced(values), norms="after", first=True, offset=0)
    assert isinstance(base.decoder, Stack), "a reader is made of it later"
    return replace(base, decoder=replace(base.decoder, norm_before_positions=True))
