"""Adaptive softmax: a large vocabulary as a short list of frequent words and clusters of rare ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.ops.adaptive_softmax import Tail
from ...refimpl.ops.linear import linear
from ...refimpl.ops.quant import Blocks
from ..torch_bodies import torch_body


@torch_body
def log_softmax(logits: Tensor) -> Tensor:
    """LogSoftmax."""
    return functional.log_softmax(logits, -1)


def _inside(x: Tensor, tail: Tail) -> Tensor:
    """log p of a cluster's words, given the cluster."""
    return log_softmax(linear(linear(x, tail["down"]), tail["up"]))


@torch_body
def adaptive_log_probs(
    x: Tensor, head: Tensor | Blocks, tails: list[Tail], bias: Tensor | None = None
) -> Tensor:
    """The log-probabilities of all clusters, joined."""
    first = log_softmax(linear(x, head, bias))
    short = first.shape[-1] - len(tails)
    rare = [first[..., short + c].unsqueeze(-1) + _inside(x, tail) for c, tail in enumerate(tails)]
    return torch.cat((first[..., :short], *rare), -1)


@torch_body
def adaptive_target_log_probs(
    x: Tensor, targets: Tensor, head: Tensor | Blocks, tails: list[Tail], bias: Tensor | None = None
) -> Tensor:
    """The tokens of each cluster are gathered, whatever their number."""
    first = log_softmax(linear(x, head, bias)).flatten(0, 1)
    rows, words = x.flatten(0, 1), targets.flatten()
    low = short = first.shape[-1] - len(tails)
    log_probs = first.gather(1, words.where(words < short, 0).unsqueeze(1)).squeeze(1)
    for c, tail in enumerate(tails):
        high = low + tail["up"].shape[1]
        here = ((words >= low) & (words < high)).nonzero().squeeze(1)
        inside = _inside(rows.index_select(0, here).unsqueeze(0), tail).squeeze(0)
        word = inside.gather(1, words.index_select(0, here).unsqueeze(1) - low).squeeze(1)
        log_probs = log_probs.index_put((here,), first[:, short + c].index_select(0, here) + word)
        low = high
    return log_probs.unflatten(0, targets.shape)


@torch_body
def adaptive_predict(
    x: Tensor, head: Tensor | Blocks, tails: list[Tail], bias: Tensor | None = None
) -> Tensor:
    """The tokens that enter a cluster are gathered, whatever their number, also none.

    Axes count from the front: along axis −1 ONNX Runtime reduces an empty tensor to a wrong shape.
    """
    first, rows = log_softmax(linear(x, head, bias)).flatten(0, 1), x.flatten(0, 1)
    low = short = first.shape[-1] - len(tails)
    most, best = first[:, :short].amax(1), first[:, :short].argmax(1)
    for c, tail in enumerate(tails):
        entered = (first[:, short + c] > most).nonzero().squeeze(1)
        inside = _inside(rows.index_select(0, entered).unsqueeze(0), tail).squeeze(0)
        likely = first[:, short + c].index_select(0, entered) + inside.amax(1)
        previous = most.index_select(0, entered)
        new = torch.where(likely > previous, low + inside.argmax(1), best.index_select(0, entered))
        best = best.index_put((entered,), new)
        most = most.index_put((entered,), torch.maximum(likely, previous))
        low += tail["up"].shape[1]
    return best.unflatten(0, x.shape[:2])
