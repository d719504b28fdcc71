"""The one nn.Module: it owns the parameter tree; its forward is `ops.model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn

from ..refimpl.config import Config
from .ops.model import model


class Leaves(nn.Module):
    """A tree of tensors as nested modules, so that buffers carry the tree's dotted names.

    A level is a dict, a list, or a dataclass with tensors among its fields (a quantized leaf);
    `tree` gives it back as it was.
    """

    def __init__(self, tree: Any) -> None:
        super().__init__()
        self._made_of = tree
        for name, value in _items(tree):
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            elif isinstance(value, Mapping | list) or is_dataclass(value):
                self.add_module(name, Leaves(value))

    def tree(self) -> Any:
        made = {}
        for name, value in _items(self._made_of):
            held = getattr(self, name, value) if not isinstance(value, str | int | None) else value
            made[name] = held.tree() if isinstance(held, Leaves) else held
        if is_dataclass(self._made_of):
            return replace(self._made_of, **made)  # pyright: ignore[reportArgumentType]
        return list(made.values()) if isinstance(self._made_of, list) else made


def _items(tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, list):
        return [(str(i), v) for i, v in enumerate(tree)]
    return [(f.name, getattr(tree, f.name)) for f in fields(tree)]


class Decoder(nn.Module):
    """A decoder-only model over a Config and its parameter tree (of tensors).

    forward(tokens [B, T], past [B], at [B, P], cache, tables) gives (logits [B, P, N], new cache);
    logits of a float16 model leave in float32. `cache` is a list of (keys, values) [B, G, L, K] a
    layer, `tables` one of (cos, sin) [L, J] in the order of `config.ropes`.
    """

    def __init__(self, config: Config, tree: Any) -> None:
        super().__init__()
        self.config = config
        self.leaves = Leaves(tree)

    def forward(
        self,
        tokens: torch.Tensor,
        past: torch.Tensor,
        at: torch.Tensor,
        cache: list[tuple[torch.Tensor, torch.Tensor]],
        tables: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        ropes = dict(zip(self.config.ropes, tables, strict=True))
        logits, new = model(tokens, past, at, ropes, cache, self.leaves.tree(), config=self.config)
        return logits.float() if logits.dtype == torch.float16 else logits, new
