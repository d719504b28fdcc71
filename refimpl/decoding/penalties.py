"""What the text so far and the caller's wishes do to the next logits, before anything is drawn.

Each function takes logits [N] and gives new ones; −∞ bans a token. `adjust` calls them in the order
that is fixed, for these reasons:

1. logit bias: it corrects what the model says, so all that follows sees the corrected logits;
2. repetition penalty: it asks for a logit's sign, so it comes before anything shifts logits by the text;
3. presence and frequency penalties: shifts, which commute with each other;
4. bans (n-grams, bad words, an end that comes too early, suppressed tokens): nothing may lift a banned
   token again, and in which order they come makes no difference;
5. forced tokens: who forces a token wants it even where it is banned. Where the first is the last too, it
   is the last's: a text that must end with its room ends.

It is transformers' order, but that there a token both forced and suppressed leaves nothing to choose.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import LimitError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from .sampling import Sampler


def add_bias(
    logits: Float[Array, " N"], ids: Int[Array, " M"], amounts: Float[Array, " M"]
) -> Float[Array, " N"]:
    """logits[id] + amount; an id that is named twice gets both amounts."""
    made = logits.copy()
    np.add.at(made, check_ids(ids, len(logits)), amounts.astype(logits.dtype))
    return made


def repetition_penalty(
    logits: Float[Array, " N"], seen: Int[Array, " M"], penalty: float
) -> Float[Array, " N"]:
    """Logits of tokens already there: divided by the penalty if positive, multiplied if negative.

    Keskar et al. 2019, §4.1, in the form of transformers, which never rewards by dividing a
    negative logit. A token that occurs often counts once.
    """
    seen = np.unique(seen)
    made = logits.copy()
    made[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    return made


def occurrence_penalties(
    logits: Float[Array, " N"], made: Int[Array, " M"], presence: float, frequency: float
) -> Float[Array, " N"]:
    """logits[id] − presence · [id occurs] − frequency · (how often it occurs), over the tokens made.

    The formula of OpenAI's API. Conventions: the prompt doesn't count, as there and in vLLM: what the
    user said may be taken up once freely. Negative penalties reward.
    """
    ids, counts = np.unique(made, return_counts=True)
    less = logits.copy()
    less[ids] -= (presence + frequency * counts).astype(logits.dtype)
    return less


def ban_ngrams(logits: Float[Array, " N"], text: Int[Array, " M"], n: int) -> Float[Array, " N"]:
    """Bans every token that would complete n tokens that the text holds in that order already.

    Paulus et al. 2018, §2.5 (there n = 3). Conventions: prompt and answer are one text; n = 1 bans
    every token of it.
    """
    if len(text) < n:
        return logits
    grams = np.lib.stride_tricks.sliding_window_view(text, n)
    again = (grams[:, :-1] == text[len(text) - n + 1 :]).all(axis=1)
    return ban(logits, grams[again, -1])


def ban(logits: Float[Array, " N"], ids: Int[Array, " M"]) -> Float[Array, " N"]:
    """−∞ for the named tokens: they are never drawn."""
    made = logits.copy()
    made[check_ids(ids, len(logits))] = -np.inf
    return made


def ban_words(
    logits: Float[Array, " N"], text: Int[Array, " M"], words: Sequence[Sequence[int]]
) -> Float[Array, " N"]:
    """Bans the last token of each word whose other tokens the text ends with."""
    ends = [word[-1] for word in words if tuple(text[len(text) - len(word) + 1 :]) == tuple(word[:-1])]
    return ban(logits, np.array(ends, np.int64))


def force(logits: Float[Array, " N"], tokens: Int[Array, " M"]) -> Float[Array, " N"]:
    """Bans all tokens but these, which get the logit 0, banned before or not."""
    made = np.full_like(logits, -np.inf)
    made[check_ids(tokens, len(logits))] = 0
    return made


def adjust(
    logits: Float[Array, " N"],
    sampler: Sampler,
    text: Int[Array, " M"],
    new: int = 0,
    stop_ids: Collection[int] = (),
    last: bool = False,
) -> Float[Array, " N"]:
    """All steps that the sampler asks for, in order.

    The last `new` tokens of the text were generated; `last` says that there is room for one more only.
    """
    if sampler.logit_bias:
        ids, amounts = zip(*sampler.logit_bias, strict=True)
        logits = add_bias(logits, np.array(ids), np.array(amounts, np.float64))
    if sampler.repetition_penalty is not None:
        logits = repetition_penalty(logits, text, sampler.repetition_penalty)
    presence, frequency = sampler.presence_penalty or 0.0, sampler.frequency_penalty or 0.0
    if presence or frequency:
        logits = occurrence_penalties(logits, text[len(text) - new :], presence, frequency)
    if sampler.no_repeat_ngram is not None:
        logits = ban_ngrams(logits, text, sampler.no_repeat_ngram)
    if sampler.bad_words:
        logits = ban_words(logits, text, sampler.bad_words)
    if new < (sampler.min_new_tokens or 0):
        logits = ban(logits, np.array([*stop_ids], np.int64))
    if sampler.suppress_tokens:
        logits = ban(logits, np.array(sampler.suppress_tokens))
    if new == len(sampler.forced_tokens) and sampler.begin_suppress_tokens:
        logits = ban(logits, np.array(sampler.begin_suppress_tokens))
    if last and sampler.forced_last:
        return force(logits, np.array(sampler.forced_last))
    if new < len(sampler.forced_tokens):
        return force(logits, np.array([sampler.forced_tokens[new]]))
    return logits


def check_left(best: float) -> None:
    """LimitError if even the best logit is a banned token's."""
    if best == -np.inf:
        raise LimitError("every token is banned: allow longer n-grams again or suppress fewer tokens")


def check_ids(ids: Int[Array, " M"], vocabulary: int) -> Int[Array, " M"]:
    """The ids themselves; LimitError for one outside the vocabulary."""
    if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
        raise LimitError(f"token ids must be 0 to {vocabulary - 1}, got {ids.min()} to {ids.max()}")
    return ids
