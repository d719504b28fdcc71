"""Laws of functions that process each token by itself."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law
from .kit.strategies import permutations


@law(
    "activation", "embedding", "gated_mlp", "gaussian_topk", "gelu", "gelu_tanh", "layer_norm", "linear",
    "linear_blocks", "mish", "plain_mlp", "precise_sigmoid", "precise_silu", "quick_gelu", "relu",
    "relu_squared", "rms_norm", "rotate", "sigmoid", "silu", "tanh", "unembedding", "xielu",
)  # fmt: skip
def tokens_do_not_depend_on_each_other(kernel: Subject, draw: Draw) -> None:
    """Each token's result depends only on this token: permuted tokens give permuted results, and a single
    token gives its own result.
    """
    call = draw(kernel.calls())
    y = kernel(call)
    order = draw(permutations(y.shape[1]))
    other = kernel.take(call, "T", order)
    kernel.near(kernel(other), y[:, order], call, other)
    alone = kernel.take(call, "T", order[:1])
    kernel.near(kernel(alone), y[:, order[:1]], call, alone)


@law("rotate", "attend", "layer_norm", "linear", "linear_blocks", "rms_norm", "unembedding")
def rows_do_not_depend_on_each_other(kernel: Subject, draw: Draw) -> None:
    """A row of a batch gives the same result as the row by itself."""
    call = draw(kernel.calls())
    y = kernel(call)
    alone = [kernel(kernel.take(call, "B", [row])) for row in range(len(y))]
    kernel.near(np.concatenate(alone), y, call)
