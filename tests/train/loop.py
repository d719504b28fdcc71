"""The training loop: the mirror's own graphs, their leaves moved down the gradient.

What is trained is `export.graph.module.GraphModule`, which an export traces. A decoder reads a whole text
with an empty cache in one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from tfm.export.dispatch import exporting
from tfm.export.graph.module import GraphModule
from tfm.export.torch_engine import tensors
from tfm.refimpl.config import Config, QuestionAnswering
from tfm.refimpl.engine.cache_kinds import cache_kinds
from tfm.refimpl.ops.position_tables import position_tables
from tfm.refimpl.params.random_weights import random_weights
from tfm.refimpl.params.tree import flatten, map_leaves, unflatten
from tfm.runtime.bundle.graph_io import graphs
from tfm.runtime.progress import Progress, silent
from torch.nn import functional

IGNORED = -100
WARM = 0.1  # of the steps, in which the rate rises; it falls in the others


class Row(NamedTuple):
    """A text to learn from: its tokens, the class wanted of each, one of the whole, or the places of an
    answer's first and last token; what an encoder reads beside them; and the token types of a pair."""

    tokens: list[int]
    wanted: list[int]
    source: list[int] | None = None
    types: list[int] | None = None


def padded(rows: list[list[int]], filler: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(the rows as one array, filled up on the right; their lengths)."""
    lengths = torch.tensor([len(row) for row in rows])
    array = torch.full((len(rows), int(lengths.max())), filler)
    for target_row, row in zip(array, rows, strict=True):
        target_row[: len(row)] = torch.tensor(row)
    return array, lengths


def head_logits(parts: list[GraphModule], rows: list[Row]) -> torch.Tensor:
    """Logits of the head for each token of the rows, or for each row."""
    tokens, lengths = padded([row.tokens for row in rows])
    inputs: dict[str, Any] = {}
    if len(parts) == 2:
        source, source_lengths = padded([row.source or [] for row in rows])
        encoded = _run(parts[0], {"tokens": source, "lengths": source_lengths})
        inputs = dict(zip((port.name for port in parts[0].graph.outputs), encoded, strict=True))
        inputs["encoder_lengths"] = source_lengths
    inputs |= {"tokens": tokens, "lengths": lengths, "past": torch.zeros_like(lengths)}
    inputs["token_types"], _ = padded([row.types or [] for row in rows])
    inputs["at"] = torch.arange(tokens.shape[1]).expand_as(tokens)
    for i, kind in enumerate(cache_kinds(parts[-1].config)):
        for array, shape in zip(kind.arrays, kind.shapes(len(rows), tokens.shape[1]), strict=True):
            inputs[f"{array.name}.{i}"] = torch.zeros(shape)
    return _run(parts[-1], inputs)[0]


def _run(part: GraphModule, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    tables = {}
    at = np.arange(inputs["tokens"].shape[1])
    for i, rotary in enumerate(position_tables(at, config=part.config).values()):
        cos, sin = (torch.from_numpy(table).float() for table in rotary)
        tables |= {f"cos.{i}": cos, f"sin.{i}": sin}
    with exporting({"lstm": _lstm}):
        return part(*[(inputs | tables)[port.name] for port in part.graph.inputs])


def _lstm(
    x: torch.Tensor, weights: Mapping[str, torch.Tensor], h0: torch.Tensor, c0: torch.Tensor, _: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """torch's kernel: the mirror's scan has a gradient only where torch compiles it. What it makes of padding
    is never used."""
    bias = weights.get("bias")
    biases = [] if bias is None else [bias, torch.zeros_like(bias)]
    matrices = [weights["wx"].T.contiguous(), weights["wh"].T.contiguous()]
    start = h0[None], c0[None]
    y, h, c = torch.lstm(x, start, [*matrices, *biases], bool(biases), 1, 0.0, False, False, True)
    return y, h[0], c[0]


def among_tokens(logits: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    """Logits [rows, tokens, 2] as two choices [rows, 2, tokens] among a row's tokens, not its padding."""
    lengths = torch.tensor([len(row.tokens) for row in rows])
    beyond = torch.arange(logits.shape[1]) >= lengths[:, None]
    return logits.masked_fill(beyond[..., None], -torch.inf).mT


def train(
    config: Config,
    batches: Iterator[list[Row]],
    steps: int,
    *,
    seed: int,
    rate: float = 3e-3,
    alike: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Params after so many steps of AdamW on the batches, from random ones; the same for the same seed.

    With `alike` the first layer's keys begin as its queries: so a token looks at its like from the start,
    which it takes thousands of steps to learn.

    One thread, so that sums don't depend on how many the machine has.
    """
    torch.set_num_threads(1)
    drawn = random_weights(config, np.random.default_rng(seed))
    if alike:
        leaves = dict(flatten(drawn))
        queries = {
            f"{name[:-1]}k": leaf.copy() for name, leaf in leaves.items() if name.endswith("layers.0.attn.wq")
        }
        drawn = unflatten(leaves | queries)
    tree = map_leaves(lambda _, leaf: tensors(leaf).requires_grad_(), drawn)
    parts = [GraphModule(config, graph, tree) for graph in graphs(config)]
    best = torch.optim.AdamW([leaf for _, leaf in flatten(tree)], rate, (0.9, 0.98), weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(best, rate, steps, pct_start=WARM)
    for step in range(steps):
        rows = next(batches)
        targets, _ = padded([row.wanted for row in rows], IGNORED)
        logits = head_logits(parts, rows)
        if isinstance(config.head, QuestionAnswering):
            logits = among_tokens(logits, rows)
        loss = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED)
        best.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([leaf for _, leaf in flatten(tree)], 1.0)
        best.step()
        plan.step()
        progress("training", step + 1, steps)
    return map_leaves(lambda _, leaf: leaf.detach().numpy(), tree)
