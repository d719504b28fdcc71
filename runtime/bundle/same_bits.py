"""Decide which graphs promise that a token's results have the same bits, whatever other tokens are computed
in the same call.

The promise holds for any chunk of a prompt, any draft, any batch and any number of threads. A graph makes the
promise if each of its operators makes it. tfm's kernels make the promise, because they fix the order of their
sums (`runtime/kernels/source/kernels.h`). Three kinds of ONNX's operators make the promise in every
implementation:

- those that MOVE numbers;
- those that COMPARE numbers and say which is the largest, or which are zero;
- those whose results are each ROUNDED from the numbers at their own place, as IEEE 754 or integer arithmetic
  defines to the bit.

All other operators add several numbers or approximate a function. Their bits may depend on how many numbers
there are.
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
    """Whether a token's bits are guaranteed not to depend on the other tokens and rows of a call. If they
    aren't, `reason` says why."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return f"not promised: {self.reason}" if self.reason else "promised"


def promise(operators: Iterable[Operator], config: Config | None = None) -> SameBits:
    """Return whether a graph with these operators promises the same bits.

    A graph of merged attention doesn't. Kernels sum a softmax in lanes, and in which lane an encoder's key is
    depends on how many places are before it, which is the size of the cache.
    """
    if config is not None and any(layer.merged for layer in config.layers):
        return SameBits("one softmax over two texts")
    others = {
        name for domain, name in operators if domain != DOMAIN and not (domain == "" and name in KEPT_BY_ONNX)
    }
    return SameBits(f"{', '.join(sorted(others))} of ONNX Runtime" if others else "")
