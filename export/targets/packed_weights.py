"""The types of weight leaves in a graph, by which a target's emits tell them apart.

`runtime.bundle.weight_storage` writes the tensors. The name of a leaf's field is the last part of its
tensor's name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class NBits:
    """A matrix packed for MatMulNBits and GatherBlockQuantized: [F, C, blob], a table [N, C·blob].

    scale [F, C], zero packed [F, …], minimum [C, F], a table's [N, C]. `rounds_input` says that a product
    quantizes its input in 8-bit blocks; `length` is the size of the blocked axis.
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
    """Signed 8-bit codes [D, F] with one scale [F] a column; of a table the transpose, [D, N] and [N].

    Activations get one scale a row, after a factor [D] for each channel if there is one.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    input_factor: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Static:
    """Signed 8-bit codes [D, F] with one scale [F] a column, or [N, D] and [N] for the rows of a table.

    The input of their product is quantized too, with the stored scale and zero point, and so is its output if
    it has these; a zero point's type is that of its codes.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    input_scale: torch.Tensor
    input_zero: torch.Tensor
    output_scale: torch.Tensor | None
    output_zero: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Blocked:
    """Codes [D, F] for DequantizeLinear, or a table's [N, D]; products are in float.

    Codes are signed where `zero` is None, unsigned otherwise.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    minimum: torch.Tensor | None
    bits: int
    block: int
