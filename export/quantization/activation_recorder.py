"""Record the inputs and outputs of all products of a model, and its decoder's keys and values, over a text.

All windows of the text go through the model side by side. So a parameter is loaded once, and memory contains
only one layer's weights and the vectors of the text. A decoder with cross-attention reads the same window as
its encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...refimpl.config import Config
from ...refimpl.engine.passes import OnLayer, Pass, SideBySide, Text, given, noise
from ...refimpl.ops.block import MixerCache
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.dispatch import use
from ...refimpl.ops.embedding import embedding
from ...refimpl.ops.linear import linear
from ...refimpl.ops.mamba2 import HybridCache
from ..dispatch import body, exporting
from ..torch_engine import tensors, to_torch

__all__ = ["Load", "OnCache", "OnInput", "OnLayer", "OnOutput", "one_thread", "record"]

Load = Callable[[str], np.ndarray]
# Called with the leaves that multiply an input, and the input as [M, D].
OnInput = Callable[[tuple[str, ...], np.ndarray], None]
# Called with a leaf and the output of its product as [M, F], before a bias is added.
OnOutput = Callable[[str, np.ndarray], None]
# Called with the index of a decoder's layer, its rotated keys and its values, [G, T, K] each.
OnCache = Callable[[int, np.ndarray, np.ndarray], None]


@contextmanager
def one_thread() -> Iterator[None]:
    """During a `with` block, compute with one thread. Sums depend on the number of threads, and a bundle's
    bytes must not depend on this number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
@one_thread()
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
    """Run the model over the windows of a text, and report what its products compute.

    Calls `on_input` with the input of every product, `on_output` with the output of every product, and
    `on_cache` with the keys and values of every decoder layer. Calls `on_layer` after each layer."""
    together = SideBySide(config, lambda function, numbers: [function(i) for i in numbers])
    called: dict[int, str] = {}  # id of a leaf -> its name, while an op runs

    def loaded(name: str) -> Any:
        leaf = together.once(name, lambda: tensors(load(name)))
        called[id(leaf)] = name
        return leaf

    @contextmanager
    def recording() -> Iterator[None]:
        read: list[tuple[torch.Tensor, list[str]]] = []

        def recorded(x: torch.Tensor, weight: Any, bias: Any = None) -> Any:
            if not read or read[-1][0] is not x:
                read.append((x, []))
            read[-1][1].append(called[id(weight)])
            y = output(called[id(weight)], body(linear)(x, weight))
            return y if bias is None else y + bias

        def rows(tokens: torch.Tensor, table: Any) -> torch.Tensor:
            return body(embedding)(tokens, loaded(table) if isinstance(table, str) else table)

        def product(x: torch.Tensor, table: str) -> torch.Tensor:
            read.append((x, [table]))
            return output(table, x @ loaded(table).mT)

        def logits(x: torch.Tensor, table: str, bias: Any, **settings: Any) -> torch.Tensor:
            """Compute the logits only if outputs are recorded, because nothing else reads the logits."""
            if on_output is not None:
                return product(x, table)
            read.append((x, [table]))
            return x

        def output(name: str, y: torch.Tensor) -> torch.Tensor:
            if on_output is not None:
                with use({}):  # it computes with arrays
                    on_output(name, y.flatten(0, 1).numpy())
            return y

        with exporting({"linear": recorded, "embedding": rows, "unembedding": product, "lm_logits": logits}):
            yield
        for x, users in read:
            on_input(tuple(users), x.flatten(0, 1).numpy())
        called.clear()

    def keys_and_values(number: int, layer: int, cache: MixerCache) -> None:
        if isinstance(cache, KVCache | HybridCache):
            on_cache(layer, cache.keys[0].numpy(), cache.values[0].numpy())

    def one_pass(window: Sequence[int]) -> Pass:
        tokens, lengths = np.array([window]), np.array([len(window)])
        text = Text(tokens, lengths)
        if config.stem is not None:  # it hears noise
            sound = noise(config, np.random.default_rng(len(window)), 1, len(window))
            text = Text(tokens, lengths, sound, np.full(1, config.positions(sound.shape[1])))
        taken = to_torch(given(text, np.dtype(np.float32), config=config))
        # Which `rows` loads, and `product`.
        tables = ("embedding.table", "encoder_embedding.table", "head.table")
        return Pass(taken, lambda name: name if name in tables else loaded(name), recording)

    on_layer(0, sum(len(stack.layers) for stack in config.stacks.values()))
    together.run([one_pass(window) for window in windows], on_layer, keys_and_values)
