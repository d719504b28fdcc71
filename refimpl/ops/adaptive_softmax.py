"""Adaptive softmax: a large vocabulary is split into a short list of frequent words and clusters of rare
words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from .arrays import concatenate
from .dispatch import op
from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class Tail(TypedDict):
    """The weights of one cluster of rare words. The logits of these words are x · down · up, where x ·
    down has only K numbers per token.
    """

    down: Float[Array, "D K"] | Blocks
    up: Float[Array, "K V"] | Blocks


@op
def log_softmax(logits: Float[Array, "B T N"]) -> Float[Array, "B T N"]:
    """Return logits − log Σ_n exp(logits_n) for each row. To prevent overflow, the row's maximum is
    subtracted before exp.
    """
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


@op
def adaptive_log_probs(
    x: Float[Array, "B T D"],
    head: Float[Array, "D F"] | Blocks,
    tails: list[Tail],
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "B T N"]:
    """Return the log-probability of every word for each token (Grave et al. 2017, section 4).

    A word w of the short list has log softmax(x · head)_w. A word w in cluster c has log p(c) + log
    softmax(x · down_c · up_c)_w, where p(c) is the probability of the cluster in the head's softmax.

    Conventions: ids are sorted by frequency. The short list comes first, and then cluster after cluster.
    The last columns of the head are the clusters, in order. Only the head may have a bias, as in torch.
    """
    first = log_softmax(linear(x, head, bias))
    short = first.shape[-1] - len(tails)
    parts = [first[..., :short]]
    for c, tail in enumerate(tails):
        inside = log_softmax(linear(linear(x, tail["down"]), tail["up"]))
        parts.append(first[..., short + c, None] + inside)
    return concatenate(parts, -1)


@op
def adaptive_target_log_probs(
    x: Float[Array, "B T D"],
    targets: Index[Array, "B T", "< N"],
    head: Float[Array, "D F"] | Blocks,
    tails: list[Tail],
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "B T"]:
    """Return the log-probability of one target word per token.

    The result equals `adaptive_log_probs` at the targets, but only the clusters of the targets are
    computed. So only tokens with a rare target cost the work for rare words. The loss of a text is minus
    the mean of these log-probabilities.
    """
    first = log_softmax(linear(x, head, bias))
    low = first.shape[-1] - len(tails)
    words = np.where(targets < low, targets, 0)
    log_p = np.take_along_axis(first, words[..., None], axis=-1)[..., 0]
    for c, tail in enumerate(tails):
        high = low + tail["up"].shape[1]
        here = (low <= targets) & (targets < high)
        inside = log_softmax(linear(linear(x[here][None], tail["down"]), tail["up"]))[0]
        word = np.take_along_axis(inside, targets[here][:, None] - low, axis=-1)[:, 0]
        log_p[here] = first[here, first.shape[-1] - len(tails) + c] + word
        low = high
    return log_p


@op
def adaptive_predict(
    x: Float[Array, "B T D"],
    head: Float[Array, "D F"] | Blocks,
    tails: list[Tail],
    bias: Float[Array, " F"] | None = None,
) -> Index[Array, "B T", "< N"]:
    """Return the likeliest word for each token: the arg max of `adaptive_log_probs`, without computing all
    log-probabilities.

    A word is never likelier than its cluster. So a cluster is computed only for the tokens at which the
    cluster is likelier than the best word found so far. At first, that word is the best one of the short
    list. Conventions: ties go to the lowest id.
    """
    first = log_softmax(linear(x, head, bias))
    low = short = first.shape[-1] - len(tails)
    best = np.argmax(first[..., :short], axis=-1)
    most = np.max(first[..., :short], axis=-1)
    for c, tail in enumerate(tails):
        entered = first[..., short + c] > most
        inside = log_softmax(linear(linear(x[entered][None], tail["down"]), tail["up"]))[0]
        likely = first[entered, short + c] + np.max(inside, axis=-1)
        better = likely > most[entered]
        best[entered] = np.where(better, low + np.argmax(inside, axis=-1), best[entered])
        most[entered] = np.where(better, likely, most[entered])
        low += tail["up"].shape[1]
    return best
