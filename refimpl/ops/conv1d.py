"""One-dimensional convolutions: each output is a linear function of a few neighbouring vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float


@op
def conv1d(
    x: Float[Array, "B X*T+A G*D"],
    kernel: Float[Array, "G*F D A+1"],
    bias: Float[Array, " G*F"] | None = None,
    *,
    stride: int,
    groups: int,
) -> Float[Array, "B T G*F"]:
    """Compute a convolution in groups: y[t, g, f] = b[g, f] + Σ_j Σ_d kernel[g, f, d, j] · x[t · stride +
    j, g, d]. The number of groups G is `groups`.

    Conventions: the same as torch's Conv1d and ONNX's Conv without padding, but with channels last. The
    kernel has the same layout as in torch and ONNX. Each group of outputs reads only its own group of
    channels. Vectors at the end that don't fill a whole sum are left out.
    """
    channels, size, length = kernel.shape
    around = np.lib.stride_tricks.sliding_window_view(x, length, axis=1)[:, ::stride]
    around = around.reshape(*around.shape[:2], groups, size, length)
    matrices = kernel.reshape(groups, channels // groups, size * length)
    beside = around.reshape(*around.shape[:3], size * length)
    y = np.einsum("btgd,gfd->btgf", beside, matrices, optimize=True)
    y = y.reshape(*y.shape[:2], channels)
    return y if bias is None else y + bias
