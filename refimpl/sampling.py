"""From logits to a token: logits -> logits steps, then one draw with a given uniform number.

No function here draws a random number, so every sampler can be tested as a function. The order of
the steps is fixed: repetition penalty, temperature, top-k, top-p, min-p. The penalty comes first
because it is about evidence in the text, not about the shape of the distribution; temperature
comes before the cuts, so that top-p and min-p act on the distribution that is drawn from. It is
the order of transformers' warpers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import LimitError, NumericError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


@dataclass(frozen=True)
class Sampler:
    """What to do with logits; the default is greedy. `None` means that a step isn't taken.

    temperature > 0 divides the logits (None: greedy); top_k ≥ 1 keeps the k best; 0 < top_p ≤ 1
    keeps the smallest set with at least that probability; 0 < min_p ≤ 1 keeps what has at least
    that share of the best's probability; repetition_penalty > 0 acts on tokens already there.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        for name, good in (
            ("temperature", lambda v: 0 < v < np.inf),
            ("top_k", lambda v: v >= 1 and v == int(v)),
            ("top_p", lambda v: 0 < v <= 1),
            ("min_p", lambda v: 0 < v <= 1),
            ("repetition_penalty", lambda v: 0 < v < np.inf),
        ):
            value = getattr(self, name)
            if value is not None and not good(value):
                raise LimitError(f"{name} is out of its range, got {value!r}")

    @property
    def greedy(self) -> bool:
        return self.temperature is None


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


def candidates(logits: Float[Array, " N"], sampler: Sampler, enough: float = 1.0) -> tuple[Array, Array]:
    """Ids that survive the cuts, best first, and their probabilities, which sum to one.

    Ties are broken towards the lower id. Conventions: top-p keeps the token that crosses the
    bound; every cut keeps at least the best token. The result is that of sorting all N logits; a
    partition finds the few best first, and only if these don't carry the bound does it grow. Where
    nothing cuts, candidates beyond the probability `enough` may be left out, and the sum is less.
    """
    temperature = sampler.temperature or 1.0
    top = float(logits.max()) / temperature

    def weigh(some: Array) -> Array:
        return np.exp(some.astype(np.float64) / temperature - top)

    if sampler.top_k is not None and sampler.top_k < len(logits):
        best = _best(logits, sampler.top_k)
        weights = weigh(logits[best])
        p = weights / weights.sum()
    else:
        every = weigh(logits)
        total = every.sum()
        most = len(logits) if sampler.min_p is None else int(np.count_nonzero(every >= sampler.min_p))
        bound = enough if sampler.top_p is None and sampler.min_p is None else sampler.top_p or 1.0
        few = min(256, most)
        while True:
            best = _best(logits, few)
            p = every[best] / total
            if few == most or np.cumsum(p)[-1] > bound:
                break
            few = min(few * 8, most)
    if sampler.top_p is not None:
        keep = int(np.searchsorted(np.cumsum(p), sampler.top_p - 1e-12)) + 1
        best, p = best[:keep], p[:keep]
    if sampler.min_p is not None:
        keep = max(int(np.count_nonzero(p >= sampler.min_p * p[0])), 1)
        best, p = best[:keep], p[:keep]
    cut = sampler.top_k is not None or sampler.top_p is not None or sampler.min_p is not None
    return best, p / p.sum() if cut else p


def _best(logits: Array, count: int) -> Array:
    """The ids of the `count` largest logits, largest first, ties to the lower id."""
    if count < len(logits):
        bound = np.partition(logits, len(logits) - count)[len(logits) - count]
        ids = np.flatnonzero(logits >= bound)
    else:
        ids = np.arange(len(logits))
    return ids[np.argsort(-logits[ids], kind="stable")][:count]


def sample(logits: Float[Array, " N"], sampler: Sampler, u: float, seen: Int[Array, " M"]) -> int:
    """The token that the uniform number u in [0, 1) falls on; greedy takes the largest logit.

    The candidates' probabilities, best first, are laid end to end, and the token whose stretch
    holds u is taken. Raises NumericError if a logit isn't finite: NaN would be sampled as a token.
    """
    if not np.isfinite(logits).all():
        raise NumericError("logits must be finite, got NaN or infinity: the weights or a kernel are broken")
    if sampler.repetition_penalty is not None:
        logits = repetition_penalty(logits, seen, sampler.repetition_penalty)
    if sampler.greedy:
        return int(np.argmax(logits))
    ids, p = candidates(logits, sampler, enough=u)
    return int(ids[min(int(np.searchsorted(np.cumsum(p), u, side="right")), len(ids) - 1)])
