"""Loop over an axis with a length that is known only when the graph runs. In a graph, the loop is ONNX's
Scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch._higher_order_ops.scan import scan_op

Step = Callable[..., list[torch.Tensor]]


def scan(
    step: Step,
    carry: Sequence[torch.Tensor],
    along: Sequence[torch.Tensor],
    shared: Sequence[torch.Tensor] = (),
) -> tuple[torch.Tensor, ...]:
    """Call step(*carry, *slices, *shared) -> [*carry, *outputs] for each slice along the first axis.

    Returns the last carry, and the outputs stacked along a new first axis. Every step reads `shared`. Some of
    the step's results must not be views of its arguments.

    The function calls `scan_op`, torch's internal operator. Outside of an export, torch's public function
    `scan` would compile the step again for every new shape.
    """
    return tuple(scan_op(step, list(carry), list(along), tuple(shared)))


def tiles(length: int, tile: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Split an axis into tiles. Return the indices of each tile [n, tile], and which of these indices exist.

    An index past the end is replaced by the last index of the axis, so that it can be read. The last tile
    consists only of such padding, so n is at least 2. An exporter that saw only one tile would treat n as a
    constant.
    """
    places = torch.arange(length // tile + 2, device=device)[:, None] * tile
    places = places + torch.arange(tile, device=device)
    end = last_index(length, device)
    return torch.minimum(places, end), places <= end


def last_index(length: int, device: torch.device) -> torch.Tensor:
    """Return the last index of an axis as a tensor [1]. A plain number computed from the shape would have to
    be copied to a GPU.
    """
    return torch.arange(length, device=device)[-1:]
