"""The types of weight parameters in a graph, by which a target's replacements distinguish them.

`runtime.bundle.weight_storage` writes the tensors. The name of a parameter's field is the last part of its
tensor's name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class NBits:
    """A matrix packed for MatMulNBits and GatherBlockQuantized: [F, C, blob]; a table is [N, C·blob].

    scale is [F, C], zero is packed [F, …], and minimum is [C, F]. The minimum of a table is [N, C].
    `rounds_input` says that a product quantizes its input in 8-bit blocks. `length` is the size of the
    blocked axis.
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
    """Signed 8-bit codes [D, F] with one scale [F] for each column. A table is stored transposed, as [D, N]
    and [N].

    Activations get one scale for each row. If there are factors [D], the channels are multiplied by them
    first.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    input_factor: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Static:
    """Signed 8-bit codes [D, F] with one scale [F] for each column, or [N, D] and [N] for the rows of a
    table.

    The input of their product is quantized too, with the stored scale and zero point. So is the output, if a
    scale and a zero point are stored for it. A zero point has the type of its codes.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    input_scale: torch.Tensor
    input_zero: torch.Tensor
    output_scale: torch.Tensor | None
    output_zero: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Blocked:
    """Codes [D, F] for DequantizeLinear, or [N, D] for a table. Products are computed in floats.

    Codes are signed if `zero` is None, unsigned otherwise.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    minimum: torch.Tensor | None
    bits: int
    block: int
