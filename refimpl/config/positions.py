"""Positions: rotary positions and their scalings, biases of attention scores, and position vectors that are
added to token vectors.

Frequencies depend on the Config's `context`, never on the length of a text. So a token's rotation doesn't
depend on later tokens, and a cached key has the same frequencies as the query that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, TypedDict

from .bounds import LIMITS, check_bounds, need, within
from .mlps import Activation
from .record import Record, bounded


class RotaryScaling(Record):
    """The base class of scalings, which change the frequencies of rotary positions."""

    def check(self, at: str, theta: float, pairs: int) -> None:
        """Raise ConfigError if the scaling doesn't fit rotary positions with this `theta` and number of
        pairs.
        """
        check_bounds(at, self)


class LinearScaling(RotaryScaling):
    """Position interpolation: all positions are divided by `factor`."""

    factor: float


class DynamicNTK(RotaryScaling):
    """Dynamic NTK scaling: theta grows with the ratio of the Config's `context` to the trained context.

    All texts use the theta of a text with `context` tokens. transformers instead computes theta from the
    length of the text so far. So if `context` is above `original_context`, results for shorter texts differ
    from those of transformers.
    """

    factor: float
    original_context: int = bounded("context", "original context of the rotary scaling")


class Yarn(RotaryScaling):
    """YaRN scaling: low frequencies are divided by `factor`, high frequencies are unchanged, and a ramp
    blends the pairs in between.

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
    """LongRoPE scaling: the frequency of each pair is divided by a number from one of two lists.

    The list is `short` if the Config's `context` is at most the trained context `original_context`, otherwise
    `long`. All texts use the same list. transformers instead switches to `long` once a text is longer than
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
    """Llama 3's scaling: low frequencies are divided by `factor`, high frequencies are unchanged, and
    frequencies in between are blended linearly.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int = bounded("context", "original context of the rotary scaling")

    def check(self, at: str, theta: float, pairs: int) -> None:
        super().check(at, theta, pairs)
        low, high = self.low_freq_factor, self.high_freq_factor
        need(low <= high, f"{at}low_freq_factor must be at most high_freq_factor, got {low!r} and {high!r}")


class ProportionalScaling(RotaryScaling):
    """Partial rotation: only the first `turned` pairs of a head are rotated.

    Each has the frequency that it would have if all pairs of the head were rotated, divided by `factor`.
    """

    turned: int
    factor: float = 1.0

    def check(self, at: str, theta: float, pairs: int) -> None:
        within(at + "rotated pairs", self.turned, pairs)


Scaling = LinearScaling | DynamicNTK | Yarn | LongRope | Llama3Scaling | ProportionalScaling


class HeadPosition(Record):
    """The base class of settings that say how positions affect the scores of attention heads."""

    adds: ClassVar[bool] = False  # whether it is a bias of scores

    def check(self, at: str, head_size: int) -> None:
        """Raise ConfigError if heads of `head_size` elements can't have these positions. The message begins
        with `at`.
        """
        check_bounds(at, self)

    def sizes(self) -> Mapping[str, int]:
        """Return a dict from each axis letter in the positions' parameters to the axis's size, without the
        heads H.
        """
        return {}

    def leaves(self) -> tuple[str, ...]:
        """Return the names of the parameters that these positions have in each layer."""
        return ()

    def tables(self, heads: int) -> dict[str, tuple[int, ...]]:
        """Return a dict from the name of each table that all layers share to the table's shape."""
        return {}

    def group_query_limit(self, head_size: int) -> str | None:
        """Return why GroupQueryAttention can't use these positions with heads of this size, or None if it
        can.
        """
        return f"scores with a bias need standard ONNX operators, got {type(self).__name__}"

    def describe(self) -> str:
        """Return the text that `inspect` shows for these positions."""
        raise NotImplementedError


class Rope(HeadPosition):
    """Rotary positions (RoPE) in the first `dims` elements of each head.

    `factors` are learned factors of the frequencies, one for each pair, which multiply what the scaling gives
    (Mistral Large 4).
    """

    theta: float
    dims: int
    interleaved: bool = False
    scaling: Scaling | None = None
    factors: tuple[float, ...] | None = None

    def check(self, at: str, head_size: int) -> None:
        within(at + "rotary dims", self.dims, head_size)
        need(self.dims % 2 == 0, f"{at}rotary dims must be even, got {self.dims}")
        if self.scaling is not None:
            self.scaling.check(at, self.theta, self.dims // 2)
        pairs, factors = self.dims // 2, self.factors
        fit = factors is None or len(factors) == pairs
        need(fit, f"{at}rotary positions need {pairs} factors of frequencies, got {factors!r:.80}")

    def group_query_limit(self, head_size: int) -> str | None:
        if head_size % 16:
            return f"head size with rotary positions must be a multiple of 16, got {head_size}"
        return f"rotary dims must be a multiple of 16, got {self.dims}" if self.dims % 16 else None

    def describe(self) -> str:
        return f"rotary {self.theta:g}"


class QueryFactors(TypedDict):
    """The keyword arguments of `ops.position.query_factors`, which scales queries by their position."""

    beta: float
    original_context: int
    offset: int


class QueryScale(Record):
    """A factor that multiplies a query: 1 + beta · ln(1 + ⌊(position + offset) / original_context⌋).

    The factor keeps the softmax sharp if there are many keys. It is 1 within `original_context` (Ministral
    3). Llama 4 counts positions from 1, so its `offset` is 1.
    """

    beta: float
    original_context: int = bounded("context", "original context of the scale of queries")
    offset: int = bounded("context", "offset of the scale of queries", least=0, default=0)

    @property
    def settings(self) -> QueryFactors:
        """The keyword arguments of `ops.position.query_factors`."""
        return {"beta": self.beta, "original_context": self.original_context, "offset": self.offset}

    def numbers(self) -> Iterator[float]:
        yield from (float(self.original_context), float(self.offset))


class Alibi(HeadPosition):
    """ALiBi: a bias that lowers attention scores in proportion to distance, with a slope for each head.

    The slopes are computed from the number of heads and `max_bias`. `scale` multiplies the slopes: Falcon
    divides the sum of score and bias by sqrt(head_size).
    """

    max_bias: float = 8.0
    scale: float = 1.0

    adds = True

    def describe(self) -> str:
        return "ALiBi"


class RelativeBias(HeadPosition):
    """A learned bias for each head and each bucket of distances, which is added to attention scores.

    With `shared`, all layers of a stack share one table (T5). Otherwise each layer has a table of its own
    (UMT5).
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
    """The base class of position vectors that are added to the token vectors before the first layer."""

    def check(self, at: str, context: int, width: int) -> None:
        """Raise ConfigError if a stack of this context and width can't have these positions. The message
        begins with `at`.
        """
        raise NotImplementedError

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return a dict from the name of each learned table of the positions to its shape."""
        return {}

    def describe(self) -> str:
        """Return the text that `inspect` shows for these position vectors."""
        raise NotImplementedError


class Learned(AddedPosition):
    """Learned position vectors: one for each of `size` positions, added to the token vectors.

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
    """Sines and cosines of the position, added to the token vectors.

    A vector has all sines and then all cosines, or with `interleaved` sines and cosines alternate. The first
    token's position is `offset`.
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
    """Positions from a convolution over `length` vectors of a recording, followed by an activation.

    The convolution has `groups` groups of channels (`ops.wave_stem.conv_positions`). Its result depends on
    the vectors around a vector, so adding the result tells positions apart.
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
