"""The options of sampling, checked once; `penalties`, `filters` and `sampling` carry them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import LimitError

FLOAT_OPTIONS = (
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
TOKEN_OPTIONS = ("suppress_tokens", "begin_suppress_tokens", "forced_tokens", "forced_last")
LARGEST_FLOAT = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Sampler:
    """How to choose a token from logits; the default is greedy. `None` or an empty tuple skips a step.

    temperature > 0 divides the logits (None: greedy). Filters: top_k ≥ 1 keeps the k best tokens;
    0 < top_p ≤ 1 keeps the smallest set of at least that probability; 0 < min_p ≤ 1 keeps the tokens with at
    least that share of the best token's probability; 0 < typical_p ≤ 1 keeps the most typical tokens that
    have at least that probability together.

    repetition_penalty > 0 acts on the tokens of prompt and answer, presence_penalty and frequency_penalty on
    those of the answer. no_repeat_ngram = n ≥ 1 lets no n-gram occur twice, and encoder_no_repeat_ngram = n
    lets none occur that the encoder has read (`after_reading`). suppress_tokens never occur;
    begin_suppress_tokens don't occur first (after forced tokens); bad_words are token sequences that never
    occur. logit_bias holds pairs (id, amount). forced_tokens start the answer; one of forced_last is the last
    token that there is room for. No stop token occurs before min_new_tokens.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    typical_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    no_repeat_ngram: int | None = None
    encoder_no_repeat_ngram: int | None = None
    min_new_tokens: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    forced_tokens: tuple[int, ...] = ()
    forced_last: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        # JSON has lists where this class has tuples.
        for name in (*TOKEN_OPTIONS, "bad_words", "logit_bias"):
            items = (tuple(item) if isinstance(item, list) else item for item in getattr(self, name))
            object.__setattr__(self, name, tuple(items))
        for name, (in_range, words) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not in_range(value):
                raise LimitError(f"{name} must be {words}, got {value!r:.80}")
        # NumPy takes no integer of 300 digits, but does take it as a float.
        for name in FLOAT_OPTIONS:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))

    @property
    def greedy(self) -> bool:
        return self.temperature is None

    @property
    def adjusts_logits(self) -> bool:
        """Whether a step depends on the tokens so far, so that they must be passed along."""
        token_options = (getattr(self, name) for name in TOKEN_OPTIONS)
        return self.repetition_penalty is not None or any(
            (
                self.presence_penalty, self.frequency_penalty, self.no_repeat_ngram, self.min_new_tokens,
                self.bad_words, self.logit_bias, *token_options,
            )
        )  # fmt: skip

    def after_reading(self, encoder_ids: Sequence[int] | None) -> Sampler:
        """The options for a text of a model that has read `encoder_ids`, whose n-grams are then bad words."""
        n = self.encoder_no_repeat_ngram
        if n is None or encoder_ids is None:
            return self
        ids = [int(token) for token in encoder_ids]
        read = dict.fromkeys(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
        return replace(self, encoder_no_repeat_ngram=None, bad_words=(*self.bad_words, *read))


def _positive(value: Any) -> bool:
    return bool(0 < value <= LARGEST_FLOAT)


def _finite(value: Any) -> bool:
    return bool(abs(value) <= LARGEST_FLOAT)


def _probability(value: Any) -> bool:
    return bool(0 < value <= 1)


def _natural(value: Any) -> bool:
    """Whether it is an integer of at least 0."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)


def _positive_integer(value: Any) -> bool:
    return _natural(value) and bool(value >= 1)


def _tokens(value: Any) -> bool:
    return all(_natural(token) for token in value)


def _words(value: Any) -> bool:
    return all(word and _tokens(word) for word in value)


def _biases(value: Any) -> bool:
    return all(_natural(token) and _finite(amount) for token, amount in value)


POSITIVE = (_positive, "a number above 0")
SHARE = (_probability, "above 0, at most 1")
FINITE = (_finite, "a finite number")
COUNT = (_positive_integer, "a whole number from 1")
# For each option whether a value is in its range, and the range in words.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": POSITIVE,
    "repetition_penalty": POSITIVE,
    "top_p": SHARE,
    "min_p": SHARE,
    "typical_p": SHARE,
    "presence_penalty": FINITE,
    "frequency_penalty": FINITE,
    "top_k": COUNT,
    "no_repeat_ngram": COUNT,
    "encoder_no_repeat_ngram": COUNT,
    "min_new_tokens": (_natural, "a whole number from 0"),
    **dict.fromkeys(TOKEN_OPTIONS, (_tokens, "ids of tokens, whole numbers from 0")),
    "bad_words": (_words, "sequences of tokens' ids, none of them empty"),
    "logit_bias": (_biases, "pairs of a token's id and a finite number"),
}
