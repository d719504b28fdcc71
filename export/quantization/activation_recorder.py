"""Inputs and outputs of all products of a model, and keys and values of its decoder, while it reads a text.

The model runs layer by layer. A leaf is loaded once for all windows of the text, so that memory is one
layer's weights and the text's vectors. A decoder with cross-attention reads the same window as its encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...refimpl.config import LM, Config
from ...refimpl.ops.adaptive_softmax import adaptive_log_probs
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.dispatch import use
from ...refimpl.ops.encoder import predict
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mamba2 import HybridCache
from ...refimpl.ops.model import head_dense
from ...refimpl.params.shapes import ENTRY, parameter_shapes
from ...refimpl.params.tree import unflatten
from ..dispatch import body, exporting, on_torch
from ..stack_walk import StackWalk
from ..torch_engine import tensors

__all__ = ["Load", "OnCache", "OnInput", "OnLayer", "OnOutput", "record"]

Load = Callable[[str], np.ndarray]
# Called with the leaves that multiply an input, and the input as [M, D].
OnInput = Callable[[tuple[str, ...], np.ndarray], None]
# Called with a leaf and the output of its product as [M, F], before a bias is added.
OnOutput = Callable[[str, np.ndarray], None]
# Called with the index of a decoder's layer, its rotated keys and its values, [G, T, K] each.
OnCache = Callable[[int, np.ndarray, np.ndarray], None]
# Called with how many layers have been read, and how many there are; first with 0.
OnLayer = Callable[[int, int], None]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them, and a bundle's bytes must not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
@_one_thread()
def record(
    config: Config,
    load: Load,
    *,
    windows: Sequence[Sequence[int]],
    on_input: OnInput = lambda names, x: None,
    on_output: OnOutput | None = None,
    on_cache: OnCache = lambda layer, keys, values: None,
    on_layer: OnLayer = lambda done, total: None,
) -> None:
    """Call `on_input` with the input of every product of the model, `on_output` with its output, and
    `on_cache` with the keys and values of every layer of its decoder."""
    texts = [torch.tensor([window]) for window in windows]
    reading = Reading(config, load, on_input, on_output, on_cache, on_layer, texts)
    states: list[torch.Tensor] = []
    for name in config.stacks:
        states = reading.stack(name, states)
    if isinstance(config.head, LM):
        reading.language(states)
    else:
        reading.head(states)


class Reading:
    """One reading of a text's windows [1, T]."""

    def __init__(
        self,
        config: Config,
        load: Load,
        on_input: OnInput,
        on_output: OnOutput | None,
        on_cache: OnCache,
        on_layer: OnLayer,
        windows: list[torch.Tensor],
    ) -> None:
        self.config = config
        self.windows = windows
        self._load = load
        self._on_input = on_input
        self._on_output = on_output
        self._on_cache = on_cache
        self._on_layer = on_layer
        self._layers_read = 0
        self._layers = sum(len(stack.layers) for stack in config.stacks.values())
        self._names = list(parameter_shapes(config))

    def stack(self, name: str, states: list[torch.Tensor]) -> list[torch.Tensor]:
        """The last vectors of a stack; a decoder or a reader is given an encoder's."""
        self._on_layer(self._layers_read, self._layers)
        walk = StackWalk(self.config, name)
        entry_names = [n for n in self._names if n.split(".")[0] == name and n.split(".")[1] in ENTRY]
        leaves = {n: tensors(self._load(n)) for n in entry_names}
        entry: Any = unflatten({n.removeprefix(f"{name}."): leaf for n, leaf in leaves.items()})
        called = {id(leaf): n for n, leaf in leaves.items()}
        embedding, names = self._tree("embedding.")
        names |= called
        streams, shared = [], []
        for window in self.windows:
            with _recording(names, self._on_input, self._on_output):
                tokens = walk.shifted(window)
                streams.append(walk.enter(tokens, embedding, entry))
                shared.append(walk.shared(tokens, streams[-1], embedding))
        del embedding, names
        with on_torch():
            positions = {x.shape[1]: walk.positions(x.shape[1], entry, x.dtype) for x in streams}
            questions = [walk.question(window) for window in self.windows]
        for i in range(len(walk.stack.layers)):
            weights, names = self._tree(f"{name}.layers.{i}.")
            for j, x in enumerate(streams):
                time, read = x.shape[1], states[j] if states else None
                near = positions[time]._replace(question=questions[j])
                with _recording(names, self._on_input, self._on_output):
                    streams[j], cache = walk.layer(i, x, torch.tensor([time]), near, weights, shared[j], read)
                if isinstance(cache, KVCache | HybridCache):
                    self._on_cache(i, cache.keys[0].numpy(), cache.values[0].numpy())
            self._layers_read += 1
            self._on_layer(self._layers_read, self._layers)
        last = entry | {"norm": self._tree(f"{name}.norm.")[0]}
        with _recording(called, self._on_input, self._on_output):
            return [walk.leave(x, last) for x in streams]

    def language(self, states: list[torch.Tensor]) -> None:
        """A decoder's head; logits are computed where outputs are asked for."""
        head = self.config.head
        assert isinstance(head, LM)
        back = tensors(self._load("head.project")) if self.config.embedding.projection is not None else None
        name = "embedding.table" if head.tied else "head.table"
        gives_logits = self._on_output is not None and head.adaptive is None
        table = tensors(self._load(name)) if gives_logits else None
        for x in states:
            if back is not None:
                with _recording({id(back): "head.project"}, self._on_input, self._on_output):
                    x = linear(x, back)
            if head.dense is not None:
                (dense, called), (norm, _) = self._tree("head.dense."), self._tree("head.norm.")
                with _recording(called, self._on_input, self._on_output):
                    x = head_dense(x, {"dense": dense, "norm": norm}, head.dense)
            if head.adaptive is not None:
                weights, names = self._tree("head.")
                with _recording(names, self._on_input, self._on_output):
                    adaptive_log_probs(x, weights["frequent"], weights["tails"], weights.get("bias"))
                continue
            self._on_input((name,), x.flatten(0, 1).numpy())
            if self._on_output is not None and table is not None:
                self._on_output(name, (x.flatten(0, 1) @ table.mT).numpy())

    def head(self, states: list[torch.Tensor]) -> None:
        """An encoder's head."""
        (table, called), (own, more) = self._tree("embedding.table"), self._tree("head.")
        tree: Any = {"embedding": {"table": table[""]}, "head": own}
        for x in states:
            with _recording(called | more, self._on_input, self._on_output):
                predict(x, torch.tensor([x.shape[1]]), tree, config=self.config)

    def _tree(self, prefix: str) -> tuple[Any, dict[int, str]]:
        names = [n for n in self._names if n.startswith(prefix)]
        leaves = {n.removeprefix(prefix): tensors(self._load(n)) for n in names}
        return unflatten(leaves), {id(leaf): prefix + n for n, leaf in leaves.items()}


@contextmanager
def _recording(called: Mapping[int, str], on_input: OnInput, on_output: OnOutput | None) -> Iterator[None]:
    """Call `on_input` and `on_output` with each input and output of products with these leaves, which are
    known by their ids."""
    read: list[tuple[torch.Tensor, list[str]]] = []

    def recorded(x: torch.Tensor, weight: Any, bias: Any = None) -> Any:
        if not read or read[-1][0] is not x:
            read.append((x, []))
        read[-1][1].append(called[id(weight)])
        y = output(weight, body(linear)(x, weight))
        return y if bias is None else y + bias

    def table(x: torch.Tensor, weight: Any) -> Any:
        read.append((x, [called[id(weight)]]))
        return output(weight, x @ weight.mT)

    def output(weight: Any, y: torch.Tensor) -> torch.Tensor:
        if on_output is not None:
            with use({}):  # it computes with arrays
                on_output(called[id(weight)], y.flatten(0, 1).numpy())
        return y

    with exporting({"linear": recorded, "unembedding": table}):
        yield
    for given, users in read:
        on_input(tuple(users), given.flatten(0, 1).numpy())
