"""M2M100 and NLLB-200 (Fan et al. 2020; NLLB Team et al. 2022): BART's form for a hundred languages and more.

Norms come before the sublayers. Positions are sinusoidal and begin after the id of padding. Padding comes
after a text, never within it; transformers gives padding no position.
"""

from dataclasses import replace

from ...config import EncoderDecoder, Sinusoidal
from ..config_readers.keys import Keys
from . import Task
from .bart import WEIGHTS as WEIGHTS
from .bart import pair

MODEL_TYPES = ("m2m_100",)
ARCHITECTURES: dict[str, Task] = {"M2M100ForConditionalGeneration": "lm"}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    padding, pairs = keys.get("pad_token_id", int, 1), keys.size("d_model") // 2
    if not 0 <= padding < keys.size("vocab_size"):
        raise keys.fail(
            "pad_token_id", "an id of the vocabulary, since position ids count from the next number"
        )
    if pairs < 2:
        raise keys.fail("d_model", "at least 4, since a position's last pair has another frequency")
    # The last pair turns by 1 / 10,000, not the one after it.
    waves = Sinusoidal(10_000.0 ** (pairs / (pairs - 1)), offset=padding + 1)
    defaults = {"activation_function": "relu", "scale_embedding": True}
    config = pair(keys.with_defaults(defaults), norms="pre", first=False, waves=waves)
    return replace(config, head=replace(config.head, bias=False))
