"""The `Sampler`: options for choosing tokens, checked once when it is created.

The modules `penalties`, `filters` and `sampling` apply the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from . import options
from .options import TOKENS, SamplerOptions

OPTIONS = options.options(SamplerOptions)
TOKEN_OPTIONS = tuple(name for name, option in OPTIONS.items() if option.values is TOKENS)


@dataclass(frozen=True)
class Sampler(options.record("SamplerFields", SamplerOptions)):
    """The options for choosing a token from logits (`SamplerOptions`).

    By default the token with the largest logit is chosen (greedy decoding). An option that is None or an
    empty tuple has no effect. A temperature of None means greedy decoding, and a temperature of 0 isn't
    allowed.
    """

    def __post_init__(self) -> None:
        # JSON has lists where this class has tuples.
        for name in (name for name, option in OPTIONS.items() if option.default == ()):
            items = (tuple(item) if isinstance(item, list) else item for item in getattr(self, name))
            object.__setattr__(self, name, tuple(items))
        options.require(SamplerOptions, vars(self))
        # NumPy takes no integer of 300 digits, but does take it as a float.
        for name in (name for name, option in OPTIONS.items() if float in get_args(option.type)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))

    @property
    def greedy(self) -> bool:
        return self.temperature is None

    @property
    def adjusts_logits(self) -> bool:
        """Whether any option depends on the tokens so far, so that the caller must pass these tokens."""
        token_options = (getattr(self, name) for name in TOKEN_OPTIONS)
        return self.repetition_penalty is not None or any(
            (
                self.presence_penalty, self.frequency_penalty, self.no_repeat_ngram, self.min_new_tokens,
                self.bad_words, self.logit_bias, *token_options,
            )
        )  # fmt: skip

    def after_reading(self, encoder_ids: Sequence[int] | None) -> Sampler:
        """Return the sampler for a text that is generated after a model's encoder has read `encoder_ids`.

        If an option bans n-grams of the encoder's text, the new sampler has these n-grams as bad words.
        """
        n = self.encoder_no_repeat_ngram
        if n is None or encoder_ids is None:
            return self
        ids = [int(token) for token in encoder_ids]
        read = dict.fromkeys(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
        return replace(self, encoder_no_repeat_ngram=None, bad_words=(*self.bad_words, *read))
