"""Penalties, bans and forced tokens: changes to the logits that depend on the text so far.

Each function takes logits [N] and returns new ones; −∞ bans a token. `adjust_logits` calls them in a fixed
order:

1. logit bias: it corrects the model, so all later steps use the corrected logits;
2. repetition penalty: it depends on a logit's sign, so it comes before anything that shifts logits;
3. presence and frequency penalties: shifts, in any order;
4. bans (n-grams, bad words, early stop tokens, suppressed tokens), in any order, since no later step but the
   forcing of tokens lifts a ban;
5. forced tokens: a forced token is chosen even if it is banned. If the first token is also the last, the rule
   for the last token wins, so that the text ends.

transformers has the same order. But in transformers, no token is left if a token is both forced and
suppressed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import LimitError
from .sampler import Sampler

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

# Penalized logits end here: beam search adds thousands of them, and the sum must be finite too.
LARGEST = 1e300


def add_bias(
    logits: Float[Array, " N"], ids: Int[Array, " M"], amounts: Float[Array, " M"]
) -> Float[Array, " N"]:
    """Return the logits with each of `amounts` added to the logit of its id.

    If an id occurs twice, both amounts are added.
    """
    biased = logits.copy()
    np.add.at(biased, check_token_ids(ids, len(logits)), within(amounts, logits.dtype))
    biased[ids] = within(biased[ids], logits.dtype)
    return biased


def repetition_penalty(
    logits: Float[Array, " N"], tokens: Int[Array, " M"], penalty: float
) -> Float[Array, " N"]:
    """Make tokens of the text less likely: divide their logits by the penalty if positive, otherwise
    multiply.

    The source is Keskar et al. 2019, §4.1, in transformers' form. Negative logits are multiplied, because
    dividing a negative logit would make its token likelier. A token that occurs several times is penalized
    once.
    """
    ids = np.unique(tokens)
    penalized = logits.copy()
    factor = max(within(np.array(penalty), logits.dtype), np.finfo(logits.dtype).tiny)
    chosen = np.where(logits[ids] > 0, logits[ids] / factor, logits[ids] * factor)
    penalized[ids] = within(chosen, logits.dtype)
    return penalized


def occurrence_penalties(
    logits: Float[Array, " N"], new_tokens: Int[Array, " M"], presence: float, frequency: float
) -> Float[Array, " N"]:
    """Return logits[id] − presence · [id occurs] − frequency · (number of occurrences), over the new tokens.

    This is the formula of OpenAI's API. Conventions: as in OpenAI's API and in vLLM, tokens of the prompt
    aren't counted. Negative penalties make tokens likelier.
    """
    ids, counts = np.unique(new_tokens, return_counts=True)
    penalized = logits.copy()
    amounts = within(presence + frequency * counts, logits.dtype)
    penalized[ids] = within(penalized[ids] - amounts, logits.dtype)
    return penalized


def within(values: Float[Array, "*shape"], dtype: np.dtype) -> Float[Array, "*shape"]:
    """Convert values to `dtype`, and clip values beyond the type's range or beyond `LARGEST`.

    So no option makes a logit infinite. A penalty must not give −∞, because −∞ means a ban. An infinite logit
    could also give ∞ − ∞, which is NaN.
    """
    largest = min(float(np.finfo(dtype).max), LARGEST)
    return np.clip(values, -largest, largest).astype(dtype)


def ban_ngrams(logits: Float[Array, " N"], tokens: Int[Array, " M"], n: int) -> Float[Array, " N"]:
    """Ban every token that would complete an n-gram that the text already contains.

    The source is Paulus et al. 2018, §2.5, where n = 3. Conventions: prompt and answer are one text. With n =
    1, every token of the text is banned.
    """
    if len(tokens) < n:
        return logits
    ngrams = np.lib.stride_tricks.sliding_window_view(tokens, n)
    repeated = (ngrams[:, :-1] == tokens[len(tokens) - n + 1 :]).all(axis=1)
    return ban(logits, ngrams[repeated, -1])


def ban(logits: Float[Array, " N"], ids: Int[Array, " M"]) -> Float[Array, " N"]:
    """Set the logits of these tokens to −∞, so that they are never sampled."""
    banned = logits.copy()
    banned[check_token_ids(ids, len(logits))] = -np.inf
    return banned


def ban_words(
    logits: Float[Array, " N"], tokens: Int[Array, " M"], words: Sequence[Sequence[int]]
) -> Float[Array, " N"]:
    """Ban each word's last token if the text ends with the word's other tokens."""
    last_tokens = []
    for word in words:
        if tuple(tokens[len(tokens) - len(word) + 1 :]) == tuple(word[:-1]):
            last_tokens.append(word[-1])
    return ban(logits, np.array(last_tokens, np.int64))


def force(logits: Float[Array, " N"], ids: Int[Array, " M"]) -> Float[Array, " N"]:
    """Ban all tokens except `ids`, and set the logits of `ids` to 0, even if they were banned before."""
    forced = np.full_like(logits, -np.inf)
    forced[check_token_ids(ids, len(logits))] = 0
    return forced


def adjust_logits(
    logits: Float[Array, " N"],
    sampler: Sampler,
    tokens: Int[Array, " M"],
    new_tokens: int = 0,
    stop_ids: Collection[int] = (),
    last: bool = False,
) -> Float[Array, " N"]:
    """Apply all penalties, bans and forced tokens that the sampler asks for, in the order of this module.

    `tokens` is the text so far; its last `new_tokens` tokens were generated. `last` says that only one more
    token may be generated.
    """
    with np.errstate(over="ignore"):
        logits = _shift_logits(logits, sampler, tokens, new_tokens)
    if sampler.no_repeat_ngram is not None:
        logits = ban_ngrams(logits, tokens, sampler.no_repeat_ngram)
    if sampler.bad_words:
        logits = ban_words(logits, tokens, sampler.bad_words)
    if new_tokens < (sampler.min_new_tokens or 0):
        logits = ban(logits, np.array([*stop_ids], np.int64))
    if sampler.suppress_tokens:
        logits = ban(logits, np.array(sampler.suppress_tokens))
    if new_tokens == len(sampler.forced_tokens) and sampler.begin_suppress_tokens:
        logits = ban(logits, np.array(sampler.begin_suppress_tokens))
    if last and sampler.forced_last:
        return force(logits, np.array(sampler.forced_last))
    if new_tokens < len(sampler.forced_tokens):
        return force(logits, np.array([sampler.forced_tokens[new_tokens]]))
    return logits


def _shift_logits(
    logits: Float[Array, " N"], sampler: Sampler, tokens: Int[Array, " M"], new_tokens: int
) -> Float[Array, " N"]:
    """Apply the logit bias and the penalties, which ban no token."""
    if sampler.logit_bias:
        ids, amounts = zip(*sampler.logit_bias, strict=True)
        logits = add_bias(logits, np.array(ids), np.array(amounts, np.float64))
    if sampler.repetition_penalty is not None:
        logits = repetition_penalty(logits, tokens, sampler.repetition_penalty)
    presence = sampler.presence_penalty or 0.0
    frequency = sampler.frequency_penalty or 0.0
    if presence or frequency:
        generated = tokens[len(tokens) - new_tokens :]
        logits = occurrence_penalties(logits, generated, presence, frequency)
    return logits


def check_any_allowed(maximum: float) -> None:
    """Raise LimitError if the largest logit is −∞, which means that all tokens are banned."""
    if maximum == -np.inf:
        raise LimitError(
            "every token is forbidden, so no token can be chosen: raise no_repeat_ngram or suppress fewer "
            "tokens"
        )


def check_token_ids(ids: Int[Array, " M"], vocabulary: int) -> Int[Array, " M"]:
    """Return the ids as they are; raise LimitError for an id outside of the vocabulary."""
    if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
        raise LimitError(f"token ids must be 0 to {vocabulary - 1}, got {ids.min()} to {ids.max()}")
    return ids
