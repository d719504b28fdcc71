"""Positions: rotary ones and their scalings, biases of scores, and vectors added to the tokens'.

Frequencies depend on the Config's `context`, never on the length of a text: so a token is rotated the same
whatever follows it, and a cached key the same as the query that reads it.
"""

from __future__ import annotations

from typing import TypedDict

from .record import Record


class LinearScaling(Record):
    """Positions divided by `factor` (position interpolation)."""

    factor: float


class DynamicNTK(Record):
    """A larger theta, according to the ratio of the Config's `context` and the trained one.

    All texts have the theta of a text of `context` tokens. In transformers theta depends on the length so
    far, so shorter texts differ where `context` is above `original_context`.
    """

    factor: float
    original_context: int


class Yarn(Record):
    """Low frequencies divided by `factor`, high ones kept, a ramp over the pairs between the two.

    `magnitude` multiplies cosines and sines; None means 0.1 ln(factor) + 1.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    magnitude: float | None = None


class LongRope(Record):
    """A divisor for each pair: `short` where the Config's `context` is at most the trained one, else `long`.

    All texts have the same ones. transformers switches once a text is longer than `original_context`.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    magnitude: float = 1.0


class Llama3Scaling(Record):
    """Low frequencies divided by `factor`, high ones kept, a linear blend between the two."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


class ProportionalScaling(Record):
    """The first `turned` pairs alone are rotated, by the frequencies of a whole head divided by `factor`."""

    turned: int
    factor: float = 1.0


Scaling = LinearScaling | DynamicNTK | Yarn | LongRope | Llama3Scaling | ProportionalScaling


class Rope(Record):
    """Rotary positions over the first `dims` elements of a head."""

    theta: float
    dims: int
    interleaved: bool = False
    scaling: Scaling | None = None


class QueryFactors(TypedDict):
    """What says how queries are scaled by their position."""

    beta: float
    original_context: int
    offset: int


class QueryScale(Record):
    """A factor of queries: 1 + beta · ln(1 + ⌊(position + offset) / original_context⌋).

    It keeps softmax sharp among many keys; it is 1 within `original_context` (Ministral 3; Llama 4, which
    counts positions from 1: an `offset` of 1).
    """

    beta: float
    original_context: int
    offset: int = 0

    @property
    def settings(self) -> QueryFactors:
        """The arguments of `ops.position.query_factors`."""
        return {"beta": self.beta, "original_context": self.original_context, "offset": self.offset}


class Alibi(Record):
    """Scores lowered in proportion to the distance, with slopes that follow from the number of heads.

    `scale` multiplies the slopes: Falcon divides the sum of score and bias by sqrt(head_size).
    """

    max_bias: float = 8.0
    scale: float = 1.0


class RelativeBias(Record):
    """A learned number for each head and bucket of distances, added to scores.

    One table is `shared` by all layers of a stack (T5), or each layer has its own (UMT5).
    """

    buckets: int
    max_distance: int
    shared: bool = True


Position = Rope | Alibi | RelativeBias


class Learned(Record):
    """A vector for each of `size` positions, added to the tokens'; the first is row `offset`."""

    size: int
    offset: int = 0


class Sinusoidal(Record):
    """Sines and cosines of the position, added to the tokens' vectors, side by side or in turn.

    The first token's position is `offset`.
    """

    theta: float = 10_000.0
    interleaved: bool = False
    offset: int = 0
