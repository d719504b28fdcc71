"""The one nn.Module: it owns a parameter tree; its forward is that of one graph of the model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn

from ...refimpl.config import LM, Config
from ...runtime.bundle import window_sizes
from ...runtime.bundle.graph_io import Graph
from .. import dispatch
from ..ops.cache import KVCache
from ..ops.cross_attention import EncoderKV
from ..ops.encoder import encode, encoder_kv, predict
from ..ops.model import model
from ..ops.position import Rotary


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


class Part(nn.Module):
    """One graph of a model over the leaves that it owns (of tensors).

    forward takes the tensors of the graph's inputs in the order of its ports and gives those of its
    outputs; what a float16 model says of its text leaves in float32, caches stay as they are.
    """

    def __init__(self, config: Config, graph: Graph, tree: Any) -> None:
        super().__init__()
        self.config, self.graph = config, graph
        self.leaves = Leaves(tree)

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        given = {port.name: tensor for port, tensor in zip(self.graph.inputs, tensors, strict=True)}
        layers = range(len(self.config.layers))
        rotary = {
            rope: Rotary(given[f"cos.{i}"], given[f"sin.{i}"])
            for i, rope in enumerate(self.config.ropes)
            if f"cos.{i}" in given
        }
        tree, tokens, config = self.leaves.tree(), given["tokens"], self.config
        if self.graph.encodes:
            lengths = given["lengths"]
            states = encode(tokens, lengths, rotary, tree, given.get("types"), config=config)
            if not isinstance(config.head, LM):
                return [_wide(predict(states, lengths, tree, config=config))]
            read = encoder_kv(states, lengths, tree, config=config)
            return [side for layer in read for side in (layer.keys, layer.values)]
        read = None
        if "source" in given:
            source = given["source"]
            read = [EncoderKV(given[f"keys.{i}"], given[f"values.{i}"], source) for i in layers]
        cache = [KVCache(given[f"k.{i}"], given[f"v.{i}"]) for i in layers]
        window_lengths = {
            size: given[f"window_length.{size}"]
            for size in window_sizes.sizes(config)
            if f"window_length.{size}" in given
        }
        extra = nullcontext()
        if window_lengths:
            extra = dispatch.extra_inputs("attention", window_lengths=window_lengths)
        with extra:
            logits, new = model(tokens, given["past"], given["at"], rotary, cache, tree, read, config=config)
        return [_wide(logits), *(side for layer in new for side in (layer.keys, layer.values))]


def _wide(said: torch.Tensor) -> torch.Tensor:
    return said.float() if said.dtype == torch.float16 else said
