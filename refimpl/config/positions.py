"""Positions: rotary positions and their scalings, biases of scores, and vectors that are added to the tokens'
vectors.

Frequencies depend on the Config's `context`, never on the length of a text. So the rotation of a token
doesn't depend on the tokens after it, and a cached key has the same frequencies as the query that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, TypedDict

from .bounds import LIMITS, check_bounds, need, within
from .mlps import Activation
from .record import Record, bounded


class RotaryScaling(Record):
    """A change to the frequencies of rotary positions."""

    def check(self, at: str, theta: float, pairs: int) -> None:
        """Raise ConfigError if the scaling doesn't fit the `pairs` frequencies that `theta` gives."""
        check_bounds(at, self)


class LinearScaling(RotaryScaling):
    """Positions divided by `factor` (position interpolation)."""

    factor: float


class DynamicNTK(RotaryScaling):
    """A larger theta, which depends on the ratio of the Config's `context` to the trained context.

    All texts use the theta of a text of `context` tokens. In transformers theta depends on the length of the
    text so far. So if `context` is above `original_context`, results for shorter texts differ from those of
    transformers.
    """

    factor: float
    original_context: int = bounded("context", "original context of the rotary scaling")


class Yarn(RotaryScaling):
    """Low frequencies divided by `factor`, high frequencies unchanged, and a ramp over the pairs in between.

    `magnitude` multiplies cosines and sines; None means 0.1 ln(factor) + 1.
    """

    factor: float
    original_context: int = bounded("context", "original context of the rotary scaling")
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    magnitude: float | None = None

    def check(self, at: str, theta: float, pairs: int) -> None:
        super().check(at, theta, pairs)
        need(theta > 1, f"{at}yarn needs a rotary theta above 1, got {theta!r}")


class LongRope(RotaryScaling):
    """A divisor for the frequency of each pair: `short` if the Config's `context` is at most the trained
    context, otherwise `long`.

    All texts use the same divisors. transformers switches to `long` once a text is longer than
    `original_context`.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int = bounded("context", "original context of the rotary scaling")
    magnitude: float = 1.0

    def check(self, at: str, theta: float, pairs: int) -> None:
        super().check(at, theta, pairs)
        for divisors in (self.short, self.long):
            fit = len(divisors) == pairs
            need(fit, f"{at}the rotary scaling needs {pairs} divisors, got {divisors!r:.80}")


class Llama3Scaling(RotaryScaling):
    """Low frequencies divided by `factor`, high frequencies unchanged, and a linear blend in between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int = bounded("context", "original context of the rotary scaling")

    def check(self, at: str, theta: float, pairs: int) -> None:
        super().check(at, theta, pairs)
        low, high = self.low_freq_factor, self.high_freq_factor
        need(low <= high, f"{at}low_freq_factor must be at most high_freq_factor, got {low!r} and {high!r}")


class ProportionalScaling(RotaryScaling):
    """Only the first `turned` pairs are rotated, by the frequencies of a whole head divided by `factor`."""

    turned: int
    factor: float = 1.0

    def check(self, at: str, theta: float, pairs: int) -> None:
        within(at + "rotated pairs", self.turned, pairs)


Scaling = LinearScaling | DynamicNTK | Yarn | LongRope | Llama3Scaling | ProportionalScaling


class HeadPosition(Record):
    """The setting that says how positions affect the scores of attention heads."""

    adds: ClassVar[bool] = False  # whether it is a bias of scores

    def check(self, at: str, head_size: int) -> None:
        """Raise ConfigError if heads of this size can't have these positions."""
        check_bounds(at, self)

    def sizes(self) -> Mapping[str, int]:
        """Return a dict from each axis letter in the parameters to its size, without H."""
        return {}

    def leaves(self) -> tuple[str, ...]:
        """The parameters that these positions have in each layer."""
        return ()

    def tables(self, heads: int) -> dict[str, tuple[int, ...]]:
        """Return a dict from the name of each table that the layers share to its shape."""
        return {}

    def group_query_limit(self, head_size: int) -> str | None:
        """Return the reason why GroupQueryAttention can't have these positions with heads of this size, or
        None if it can.
        """
        return f"scores with a bias need the standard form, got {type(self).__name__}"

    def describe(self) -> str:
        """The text that `inspect` shows for these positions."""
        raise NotImplementedError


class Rope(HeadPosition):
    """Rotary positions over the first `dims` elements of a head."""

    theta: float
    dims: int
    interleaved: bool = False
    scaling: Scaling | None = None

    def check(self, at: str, head_size: int) -> None:
        within(at + "rotary dims", self.dims, head_size)
        need(self.dims % 2 == 0, f"{at}rotary dims must be even, got {self.dims}")
        if self.scaling is not None:
            self.scaling.check(at, self.theta, self.dims // 2)

    def group_query_limit(self, head_size: int) -> str | None:
        if head_size % 16:
            return f"head size with rotary positions must be a multiple of 16, got {head_size}"
        return f"rotary dims must be a multiple of 16, got {self.dims}" if self.dims % 16 else None

    def describe(self) -> str:
        return f"rotary {self.theta:g}"


class QueryFactors(TypedDict):
    """The arguments that say how queries are scaled by their position."""

    beta: float
    original_context: int
    offset: int


class QueryScale(Record):
    """A factor of queries: 1 + beta · ln(1 + ⌊(position + offset) / original_context⌋).

    The factor keeps the softmax sharp among many keys. It is 1 within `original_context` (Ministral 3). Llama
    4 counts positions from 1, which is an `offset` of 1.
    """

    beta: float
    original_context: int = bounded("context", "original context of the scale of queries")
    offset: int = bounded("context", "offset of the scale of queries", least=0, default=0)

    @property
    def settings(self) -> QueryFactors:
        """The arguments of `ops.position.query_factors`."""
        return {"beta": self.beta, "original_context": self.original_context, "offset": self.offset}

    def numbers(self) -> Iterator[float]:
        yield from (float(self.original_context), float(self.offset))


class Alibi(HeadPosition):
    """A bias that lowers scores in proportion to the distance; its slopes follow from the number of heads.

    `scale` multiplies the slopes: Falcon divides the sum of score and bias by sqrt(head_size).
    """

    max_bias: float = 8.0
    scale: float = 1.0

    adds = True

    def describe(self) -> str:
        return "ALiBi"


class RelativeBias(HeadPosition):
    """A learned number for each head and bucket of distances, added to scores.

    With `shared` all layers of a stack share one table (T5), otherwise each layer has its own (UMT5).
    """

    buckets: int = bounded("context", "buckets of the relative bias", least=4)
    max_distance: int
    shared: bool = True

    adds = True

    def check(self, at: str, head_size: int) -> None:
        super().check(at, head_size)
        name, least = "max_distance of the relative bias", self.buckets // 2 + 1
        within(at + name, self.max_distance, LIMITS["context"], least)

    def sizes(self) -> Mapping[str, int]:
        return {"W": self.buckets}

    def leaves(self) -> tuple[str, ...]:
        return () if self.shared else ("relative_bias",)

    def tables(self, heads: int) -> dict[str, tuple[int, ...]]:
        return {"relative_bias": (self.buckets, heads)} if self.shared else {}

    def integers(self) -> Iterator[int]:
        yield self.buckets // 2  # of each direction

    def describe(self) -> str:
        return f"relative bias of {self.buckets} buckets"


Position = Rope | Alibi | RelativeBias


class AddedPosition(Record):
    """Position vectors that are added to the vectors of a stack's tokens."""

    def check(self, at: str, context: int, width: int) -> None:
        """Raise ConfigError if a stack of this context and width can't have these position vectors.

        `at` names the stack.
        """
        raise NotImplementedError

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        """The shape of the table of position vectors by its name, if they are learned."""
        return {}

    def describe(self) -> str:
        """The text that `inspect` shows for these position vectors."""
        raise NotImplementedError


class Learned(AddedPosition):
    """A learned vector for each of `size` positions, added to the token's.

    Row `offset` of the table is the vector of the first position.
    """

    size: int
    offset: int = 0

    def check(self, at: str, context: int, width: int) -> None:
        within(at + "number of learned positions", self.size, LIMITS["context"], context)
        within(at + "offset of the learned positions", self.offset, LIMITS["context"], 0)

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        return {"positions": (self.offset + self.size, width)}

    def integers(self) -> Iterator[int]:
        yield self.offset + self.size

    def describe(self) -> str:
        return f"{self.size} learned positions"


class Sinusoidal(AddedPosition):
    """Sines and cosines of the position, added to the tokens' vectors: all sines and then all cosines, or
    alternating.

    The first token's position is `offset`.
    """

    theta: float = 10_000.0
    interleaved: bool = False
    offset: int = 0

    def check(self, at: str, context: int, width: int) -> None:
        within(at + "offset of the sinusoidal positions", self.offset, LIMITS["context"], 0)
        need(width % 2 == 0, f"{at}sinusoidal positions need an even width, got {width}")

    def describe(self) -> str:
        return "sinusoidal positions"


class ConvPositions(AddedPosition):
    """Positions from a convolution over `length` vectors of a recording, in `groups` of channels, with an
    activation after it (`ops.wave_stem.conv_positions`). The convolution provides positions, because its
    result depends on the vectors around each vector.
    """

    length: int = bounded("kernel", "length of the positions' convolution")
    groups: int
    activation: Activation

    def check(self, at: str, context: int, width: int) -> None:
        check_bounds(at, self)
        within(f"{at}groups of the positions' convolution", self.groups, width)
        even = f"{at}groups of the positions' convolution must divide the width {width}, got {self.groups}"
        need(width % self.groups == 0, even)

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        kernel = (width, width // self.groups, self.length)
        return {"position_kernel": kernel, "position_bias": (width,)}

    def describe(self) -> str:
        return f"positions by a convolution over {self.length}"
