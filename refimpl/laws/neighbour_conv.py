"""Laws of convolutions over neighbours."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("neighbour_conv")
def each_token_sums_its_neighbours(neighbour_conv: Subject, draw: Draw) -> None:
    """In rows without padding, `neighbour_conv` returns for each token a sum over its neighbours, with one
    product for each matrix.
    """
    call = draw(neighbour_conv.calls(weight=True))
    x, reach = call["x"].astype(np.float64), call["neighbours"]
    call = call.but(lengths=np.full_like(call["lengths"], x.shape[1]))
    matrices = np.split(call["weight"].astype(np.float64), 2 * reach + 1)
    y = np.zeros_like(x) + (0 if call["bias"] is None else call["bias"])
    for t in range(x.shape[1]):
        for j, matrix in enumerate(matrices):
            if 0 <= (at := t - reach + j) < x.shape[1]:
                y[:, t] += x[:, at] @ matrix
    neighbour_conv.near(neighbour_conv(call), y, call)
