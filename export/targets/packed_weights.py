"""Define the types of weight parameters in a graph. A target's functions distinguish parameters by these
types.

`runtime.bundle.weight_storage` writes the tensors. The name of a parameter's field is the last part of its
tensor's name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class NBits:
    """A matrix packed for MatMulNBits, [F, C, blob], or a table packed for GatherBlockQuantized, [N, C·blob].

    - `scale` is [F, C], `zero` is packed [F, …], and `minimum` is [C, F]. For a table, `minimum` is [N, C].
    - `rounds_input`: a product with the matrix quantizes its input in 8-bit blocks.
    - `length`: the size of the axis that is cut into blocks.
    """

    packed: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    minimum: torch.Tensor | None
    bits: int
    block: int
    rounds_input: bool
    length: int


@dataclass(frozen=True, eq=False)
class RowQuantized:
    """A matrix of signed 8-bit codes [D, F] with one scale [F] for each column. A table is stored transposed,
    as codes [D, N] and scales [N].

    A product with the matrix quantizes its input with one scale for each row. If there are factors [D], the
    input's channels are multiplied by them first.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    input_factor: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Static:
    """A matrix of signed 8-bit codes [D, F] with one scale [F] for each column, or a table of codes [N, D]
    with one scale [N] for each row.

    A product with the matrix quantizes its input too, with the stored scale and zero point. If `output_scale`
    and `output_zero` are given, the product also quantizes its output. Codes have the type of their zero
    point.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    input_scale: torch.Tensor
    input_zero: torch.Tensor
    output_scale: torch.Tensor | None
    output_zero: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Blocked:
    """A matrix of codes [D, F], or a table [N, D], that DequantizeLinear turns into floats. Products are
    computed in floats.

    Codes are signed if `zero` is None, and unsigned otherwise.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    minimum: torch.Tensor | None
    bits: int
    block: int
