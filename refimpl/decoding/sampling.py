"""From logits to a token: what is wanted of it, then one draw with a given uniform number.

No function here draws a random number, so every sampler can be tested as a function. The order of
the steps is fixed: `prepare` first, because it is about the text, not about the shape of the
distribution, then the cuts of `cuts.candidates`, then the draw.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LimitError, NumericError
from .filters import candidates
from .penalties import adjust, check_left

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


NUMBERS = (
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
TOKENS = ("suppress_tokens", "begin_suppress_tokens", "forced_tokens", "forced_last")


MOST = float(np.finfo(np.float64).max)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


@dataclass(frozen=True)
class Sampler:
    """What to do with logits; the default is greedy. `None` or nothing means: a step isn't taken.

    temperature > 0 divides the logits (None: greedy); top_k ≥ 1 keeps the k best; 0 < top_p ≤ 1
    keeps the smallest set with at least that probability; 0 < min_p ≤ 1 keeps what has at least
    that share of the best's probability; 0 < typical_p ≤ 1 keeps the most typical tokens that have
    at least that probability. repetition_penalty > 0 acts on tokens already there, presence_penalty
    and frequency_penalty on tokens already made; no_repeat_ngram = n ≥ 1 lets no n tokens occur
    twice; suppress_tokens never occur, nor begin_suppress_tokens as the first that isn't forced, nor
    bad_words, each some tokens in their order; logit_bias holds (id, amount); forced_tokens are the
    first tokens made, one of forced_last is the last that there is room for; no stop token ends the text
    before it has min_new_tokens.
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
    min_new_tokens: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    forced_tokens: tuple[int, ...] = ()
    forced_last: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name in (*TOKENS, "bad_words", "logit_bias"):  # lists, as JSON has them, become tuples
            items = (tuple(i) if isinstance(i, list) else i for i in getattr(self, name))
            object.__setattr__(self, name, tuple(items))
        for good, names in (
            (lambda v: 0 < v <= MOST, ("temperature", "repetition_penalty")),
            (lambda v: 0 < v <= 1, ("top_p", "min_p", "typical_p")),
            (lambda v: abs(v) <= MOST, ("presence_penalty", "frequency_penalty")),
            (lambda v: _whole(v, 1), ("top_k", "no_repeat_ngram")),
            (lambda v: _whole(v, 0), ("min_new_tokens",)),
            (lambda v: all(_whole(i, 0) for i in v), TOKENS),
            (lambda v: all(w and all(_whole(i, 0) for i in w) for w in v), ("bad_words",)),
            (lambda v: all(_whole(i, 0) and abs(b) <= MOST for i, b in v), ("logit_bias",)),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and not good(value):
                    raise LimitError(f"{name} is out of its range, got {value!r:.80}")
        for name in NUMBERS:  # a whole number of 300 digits is a number, but no array's
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))

    @property
    def greedy(self) -> bool:
        return self.temperature is None

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before the draw: then the text so far must be known."""
        return any(
            (
                self.repetition_penalty is not None, self.presence_penalty, self.frequency_penalty,
                self.no_repeat_ngram, self.min_new_tokens,
                self.bad_words, self.logit_bias, *(getattr(self, name) for name in TOKENS),
            )
        )  # fmt: skip


def probabilities(logits: Float[Array, " N"], sampler: Sampler) -> Float[Array, " N"]:
    """What `sample` draws each token with, float64; greedy gives all to the largest logit."""
    made = np.zeros(len(logits))
    if sampler.greedy:
        made[np.argmax(logits)] = 1.0
    elif sampler.top_k is sampler.top_p is sampler.min_p is sampler.typical_p is None:
        made = np.exp((logits.astype(np.float64) - logits.max()) / sampler.temperature)
        made /= made.sum()
    else:
        ids, p = candidates(logits, sampler)
        made[ids] = p
    return made


def falls_on(p: Float[Array, " M"], u: float) -> int:
    """The place whose stretch holds u, the probabilities laid end to end from 0.

    Conventions: a stretch begins at its left end, so one of no length holds nothing; where rounding
    lets the stretches end before 1, the last one goes on.
    """
    at = int(np.searchsorted(np.cumsum(p), u, side="right"))
    return at if at < len(p) else int(np.flatnonzero(p)[-1])


def check_logits(logits: Array) -> None:
    """NumericError if a logit isn't finite: NaN would be sampled as a token."""
    if not np.isfinite(logits).all():
        raise NumericError("logits must be finite, got NaN or infinity: the weights or a kernel are broken")


def prepare(
    logits: Float[Array, " N"],
    sampler: Sampler,
    text: Int[Array, " M"],
    new: int = 0,
    stop_ids: Collection[int] = (),
    last: bool = False,
) -> Float[Array, " N"]:
    """Logits that are finite, adjusted as the sampler asks; `penalties.adjust` says what the rest is."""
    check_logits(logits)
    if sampler.adjusts:
        logits = adjust(logits, sampler, text, new, stop_ids, last)
        check_left(logits.max())
    return logits


def sample(logits: Float[Array, " N"], sampler: Sampler, u: float) -> int:
    """The token that the uniform number u in [0, 1) falls on; greedy takes the largest logit."""
    if sampler.greedy:
        return int(np.argmax(logits))
    ids, p = candidates(logits, sampler, enough=u)
    return int(ids[falls_on(p, u)])
