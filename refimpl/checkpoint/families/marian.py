"""Marian's translators (Junczys-Dowmunt et al. 2018), of which OPUS-MT published a thousand.

These models have BART's form, with sinusoidal positions and without the norm of the embedding.
"""

from ...config import EncoderDecoder, Sinusoidal
from ..config_readers.keys import Keys
from . import Task
from .bart import WEIGHTS as WEIGHTS
from .bart import pair

MODEL_TYPES = ("marian",)
ARCHITECTURES: dict[str, Task] = {"MarianMTModel": "lm"}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    vocabulary = keys.size("vocab_size")
    if keys.size("decoder_vocab_size", None) not in (None, vocabulary):
        raise keys.fail(
            "decoder_vocab_size",
            f"vocab_size ({vocabulary}), since both languages must share one embedding table",
        )
    if not keys.get("share_encoder_decoder_embeddings", bool, True):
        raise keys.fail(
            "share_encoder_decoder_embeddings", "true, since both languages must share one embedding table"
        )
    return pair(keys, norms="after", first=False, waves=Sinusoidal())
