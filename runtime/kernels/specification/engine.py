"""Run the specification's engine with the kernels' arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....refimpl.config import Config
from ....refimpl.engine.cache_kinds import Halved, cache_kinds
from ....refimpl.engine.numpy_engine import ArrayEngine, T
from ....refimpl.ops.dispatch import use
from ....refimpl.ops.encoder import encode, encoder_kv, predict
from .ops import HALVED, of_steps, of_texts

WHOLE = (encode, encoder_kv, predict)  # what reads whole texts


class KernelReference(ArrayEngine):
    """An engine in NumPy that computes the same bits as a graph over tfm's kernels, if the graph promises the
    same bits (`runtime.bundle.same_bits`).

    `halved` says which keys and values are float16.
    """

    def __init__(self, config: Config, params: Mapping[str, Any], *, halved: Halved) -> None:
        super().__init__(config, params)
        self.kinds = cache_kinds(config, half=bool(halved))
        self.texts = {**of_texts(config), **(HALVED if halved == "all" else {})}
        self.steps = of_steps(config)

    def run(self, function: Callable[..., T], *arguments: Any, config: Config) -> T:
        with use(self.texts if function in WHOLE else self.steps):
            return function(*arguments, config=config)
