"""Run the specification's engine with the kernels' arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....refimpl.config import Config
from ....refimpl.engine.cache_kinds import cache_kinds
from ....refimpl.engine.numpy_engine import ArrayEngine, T
from ....refimpl.ops.dispatch import use
from ....refimpl.ops.encoder import encode, encoder_kv, predict
from .ops import of_steps, of_texts

WHOLE = (encode, encoder_kv, predict)  # what reads whole texts


class KernelReference(ArrayEngine):
    """An engine in NumPy that computes the same bits as a graph over tfm's kernels, if the graph promises the
    same bits (`runtime.bundle.same_bits`).

    With `half_cache`, keys and values are float16.
    """

    def __init__(self, config: Config, params: Mapping[str, Any], *, half_cache: bool) -> None:
        super().__init__(config, params)
        self.kinds = cache_kinds(config, half=half_cache)
        self.texts, self.steps = of_texts(config), of_steps(config)

    def run(self, function: Callable[..., T], *arguments: Any, config: Config) -> T:
        with use(self.texts if function in WHOLE else self.steps):
            return function(*arguments, config=config)
