"""Implement mixtures of experts in PyTorch: a router sends each token to a few of many mlps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.config import ONE_GROUP, ExpertGroups, Gate
from ...refimpl.ops.arrays import row_sum
from ...refimpl.ops.attention import softmax
from ...refimpl.ops.moe import ExpertWeights, expert_mlp
from ..torch_bodies import torch_body
from .activation import precise_sigmoid


@torch_body
def route(
    logits: Tensor,
    bias: Tensor | None = None,
    *,
    top: int,
    score: Literal["softmax", "sigmoid"],
    renormalize: bool,
    scale: float | None = None,
    groups: ExpertGroups = ONE_GROUP,
    sum_eps: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose the `top` best experts of each token, and return their indices and weights. If experts are in
    groups, all experts outside the best groups are masked first.
    """
    scores = softmax(logits) if score == "softmax" else precise_sigmoid(logits)
    choice = logits if bias is None else scores + bias
    if groups.count > 1:
        compared = scores if bias is None and groups.by == "top2" else choice
        members = compared.unflatten(1, (groups.count, -1))
        best = members.amax(2)
        if groups.by == "top2" and members.shape[2] > 1:
            inside = torch.arange(members.shape[2], device=members.device)
            best = best + members.masked_fill(members.argmax(2, keepdim=True) == inside, -torch.inf).amax(2)
        every = torch.arange(groups.count, device=best.device)
        within = (_best(best, groups.top).unsqueeze(2) == every).any(1)
        choice = choice.masked_fill(~within.unsqueeze(2).expand_as(members).flatten(1), -torch.inf)
    index = _best(choice, top)
    weights = scores.gather(1, index)
    if renormalize:
        total = row_sum(weights) + (sum_eps or 0)
        weights = weights / torch.where(total == 0, 1, total)
    return index, weights if scale is None else weights * scale


@torch_body
def sparse_mixer(logits: Tensor, *, top: int, jitter: float) -> tuple[Tensor, Tensor]:
    """Choose `top` experts of each token one after the other, and return their indices and weights. An
    expert's weight is a softmax over the experts that aren't chosen yet and have logits near its own.
    """
    left, index, weights = logits, [], []
    experts = torch.arange(logits.shape[1], device=logits.device)
    for _ in range(top):
        best = left.amax(1, keepdim=True)
        far = best - logits > 2 * jitter * torch.maximum(logits.abs(), best)
        odds = torch.where(far, 0, torch.exp((left - best).clamp(max=0)))
        index.append(left.argmax(1, keepdim=True))
        weights.append(1 / odds.sum(1, keepdim=True))
        left = left.masked_fill(index[-1] == experts, -torch.inf)
    return torch.cat(index, 1), torch.cat(weights, 1)


def _best(values: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest values of each row, the largest first. Of equal values, the
    first index comes first, which argmax ensures and topk doesn't.
    """
    best, experts = [], torch.arange(values.shape[1], device=values.device)
    for _ in range(count):
        best.append(values.argmax(1, keepdim=True))
        values = values.masked_fill(best[-1] == experts, -torch.inf)
    return torch.cat(best, 1)


@torch_body
def within_capacity(index: Tensor, capacity: Tensor) -> Tensor:
    """Return which choices fit into the capacity of their expert. A running count ranks each choice among all
    choices of the same expert.
    """
    queue = index.mT.flatten()
    count = functional.one_hot(queue, capacity.shape[0]).cumsum(0)
    place = count.gather(1, queue.unsqueeze(1)).squeeze(1)
    return (place <= capacity[queue]).unflatten(0, index.mT.shape).mT


@torch_body
def mixture(
    x: Tensor,
    index: Tensor,
    weights: Tensor,
    experts: list[ExpertWeights],
    fits: Tensor | None = None,
    *,
    kind: Gate,
    weighs: Literal["output", "input"] = "output",
) -> Tensor:
    """Compute the weighted sum of the chosen experts, with every expert in the graph. Each expert gathers the
    tokens that are routed to it, which may be none.

    Half-precision results are summed in float32, because ONNX Runtime can't scatter-add float16.
    """
    y = no_sum(x)
    for e, expert in enumerate(experts):
        chosen = index == e if fits is None else (index == e) & fits
        token, out = expert_rows(x, chosen, weights, expert, kind=kind, weighs=weighs)
        y = y.index_add(0, token, out.to(y.dtype))
    return y.to(x.dtype)


def no_sum(x: Tensor) -> Tensor:
    """Return zeros with the shape of x, to which the experts' outputs are added. The zeros are float32 if x
    is float16.
    """
    return torch.zeros_like(x, dtype=torch.float32 if x.dtype == torch.float16 else x.dtype)


def expert_rows(
    x: Tensor,
    chosen: Tensor,
    weights: Tensor,
    expert: ExpertWeights,
    *,
    kind: Gate,
    weighs: Literal["output", "input"],
) -> tuple[Tensor, Tensor]:
    """Return the indices of the tokens that chose an expert, and the expert's output for each of these
    tokens.
    """
    # Rows of what NonZero gives: columns are transposed first, and ONNX Runtime's optimizer takes time that
    # grows with the square of a graph's transposes, one for each expert.
    token, choice = torch.nonzero(chosen).mT.unbind(0)
    rows, share = x.index_select(0, token), weights[token, choice].unsqueeze(1)
    if weighs == "input":
        return token, expert_mlp((share * rows).unsqueeze(0), expert, kind=kind).squeeze(0)
    return token, share * expert_mlp(rows.unsqueeze(0), expert, kind=kind).squeeze(0)
