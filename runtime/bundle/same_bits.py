"""Decide whether a graph promises that a token's results have the same bits, whatever else is computed in the
same call.

With this promise, the bits don't depend on how a prompt is split into chunks, on drafted tokens, on the
other rows of a batch, or on the number of threads. A graph makes the promise if each of its operators
makes it. tfm's kernels make the promise, because they fix the order of their sums
(`runtime/kernels/source/kernels.h`). Three kinds of ONNX's operators make the promise in every
implementation:

- MOVE: operators that move numbers.
- COMPARE: operators that compare numbers and say which number is the largest, or which numbers are zero.
- ROUNDED: operators that compute each result only from the numbers at its own place. IEEE 754 or integer
  arithmetic defines such a result to the bit.

All other operators add several numbers or approximate a function. Their bits may depend on how many
numbers there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...refimpl.config import Config
from .kernel_storage import DOMAIN

MOVE = """
    Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity Pad Range Reshape
    ScatterElements Shape Size Slice Split Squeeze Tile Transpose Unsqueeze Where
"""
COMPARE = "ArgMax NonZero ReduceMax"
ROUNDED = """
    Abs Add And Cast Clip Div Equal Floor Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Neg Not Or
    Relu Sub Xor
"""
KEPT_BY_ONNX = frozenset(f"{MOVE} {COMPARE} {ROUNDED}".split())

Operator = tuple[str, str]  # its set, and its name there


@dataclass(frozen=True)
class SameBits:
    """The promise that a token's bits don't depend on the other tokens and rows of a call. If there is no
    such promise, `reason` says why, and the object is false."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return f"not promised: {self.reason}" if self.reason else "promised"


def promise(operators: Iterable[Operator], config: Config | None = None) -> SameBits:
    """Decide whether a graph with these operators promises the same bits (`SameBits`).

    A graph with merged attention makes no promise. Kernels split a softmax's sum over lanes. The lane of
    an encoder's key depends on how many places precede the key, and this number is the size of the cache.
    Neither does a graph with a recurrence in rounds, which join tokens in another order in another run.
    """
    if config is not None and any(layer.merged for layer in config.layers):
        return SameBits("one softmax over two texts")
    if config is not None and any(layer.attention.in_rounds for layer in config.layers):
        return SameBits("a recurrence in rounds")
    others = {
        name for domain, name in operators if domain != DOMAIN and not (domain == "" and name in KEPT_BY_ONNX)
    }
    return SameBits(f"{', '.join(sorted(others))} of ONNX Runtime" if others else "")
