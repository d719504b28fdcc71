"""Laws of functions that treat each token alone."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law
from .kit.strategies import permutations


@law(
    "activation", "embedding", "gated_mlp", "gelu", "gelu_tanh", "layer_norm", "linear", "linear_blocks",
    "mish", "plain_mlp", "quick_gelu", "relu", "relu_squared", "rms_norm", "rotate", "sigmoid", "silu",
    "tanh", "unembedding",
)  # fmt: skip
def a_token_is_itself_beside_any_neighbour(kernel: Subject, draw: Draw) -> None:
    """Tokens in another order, or one alone, give the same results."""
    call = draw(kernel.calls())
    whole = kernel(call)
    order = draw(permutations(whole.shape[1]))
    other = kernel.take(call, "T", order)
    kernel.near(kernel(other), whole[:, order], call, other)
    alone = kernel.take(call, "T", order[:1])
    kernel.near(kernel(alone), whole[:, order[:1]], call, alone)


@law("rotate", "attend", "layer_norm", "linear", "linear_blocks", "rms_norm", "unembedding")
def a_row_is_itself_beside_any_neighbour(kernel: Subject, draw: Draw) -> None:
    """A row of the batch is the row alone."""
    call = draw(kernel.calls())
    whole = kernel(call)
    alone = [kernel(kernel.take(call, "B", [row])) for row in range(len(whole))]
    kernel.near(np.concatenate(alone), whole, call)
