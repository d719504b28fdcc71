"""THE generation loop: engines compute logits, rows decide what becomes of them.

A `GeneratedSequence` owns all that makes one text: its sampler, its stop rules, its own random numbers, seeded
by (seed, row), so that a text doesn't depend on its neighbours. Drivers are thin: `single` here,
`beam.search` and `speculative.speculate` in files of their own.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..engine.protocol import Engine
from ..errors import LimitError
from .sampling import Sampler, prepare, sample

FinishReason = Literal["stop", "length"]

# A prompt goes through the model in pieces of this many tokens: activations stay small, and a
# long prompt costs no more memory than a short one.
CHUNK = 512


@dataclass
class GeneratedSequence:
    """One text being generated: feed it logits, it gives tokens until `finished` says why not.

    `source` is the text that a model with an encoder reads; the prompt is then what its decoder begins
    with.
    """

    prompt: Sequence[int]
    sampler: Sampler = field(default_factory=Sampler)
    stop_ids: frozenset[int] = frozenset()
    max_new_tokens: int = 256
    seed: int = 0
    row: int = 0
    tokens: list[int] = field(default_factory=list)
    finished: FinishReason | None = None
    source: Sequence[int] | None = None

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng([self.seed, self.row])
        self._prompt = np.array(self.prompt, np.int64)
        if self.max_new_tokens < 1:
            self.finished = "length"

    def uniform(self) -> float:
        """The row's next random number, uniform in [0, 1)."""
        return float(self._rng.random())

    def prepare(self, logits: np.ndarray, ahead: Sequence[int] = ()) -> np.ndarray:
        """Logits [N] as the sampler wants them after the text so far and the tokens `ahead`."""
        text = self._prompt[:0]
        if self.sampler.adjusts:
            text = np.concatenate([self._prompt, np.array([*self.tokens, *ahead], np.int64)])
        new = len(self.tokens) + len(ahead)
        return prepare(logits, self.sampler, text, new, self.stop_ids, new + 1 >= self.max_new_tokens)

    def accept(self, logits: np.ndarray) -> int | None:
        """The next token from logits [N], or None when it is a stop token, which isn't kept."""
        u = 0.0 if self.sampler.greedy else self.uniform()
        return self.keep(sample(self.prepare(logits), self.sampler, u))

    def keep(self, token: int) -> int | None:
        """The token as the answer's next; None when it is a stop token, which ends the text."""
        if token in self.stop_ids:
            self.finished = "stop"
            return None
        self.tokens.append(token)
        if len(self.tokens) >= self.max_new_tokens:
            self.finished = "length"
        return token


def room(context: int, prompt: int, max_new_tokens: int) -> int:
    """How many tokens may be generated; LimitError with both numbers when the prompt doesn't fit."""
    if prompt < 1:
        raise LimitError("the prompt must hold at least one token, got none")
    if prompt >= context:
        raise LimitError(f"the prompt has {prompt} tokens, the model's context is {context}: shorten it")
    return min(max_new_tokens, context - prompt)


def prefill(engine: Engine, tokens: Sequence[int], cache: Any, chunk: int = CHUNK):
    """Feed a prompt [T] to a cache of one row, piece by piece: (logits [N] of its last token, cache)."""
    ids = np.asarray(tokens, np.int64)[None]
    logits = np.zeros((1, 1, 0))
    for start in range(0, ids.shape[1], chunk):
        logits, cache = engine.step(ids[:, start : start + chunk], cache)
    return logits[0, 0], cache


def start(engine: Engine, source: Sequence[int] | None) -> Any:
    """A cache of one row, which holds what the model's encoder makes of `source`, if it has one."""
    if source is None:
        return engine.start(1)
    return engine.start(1, np.asarray(source, np.int64).reshape(1, -1))


def begin(engine: Engine, prompt: Sequence[int], cache: Any, chunk: int, source: Sequence[int] | None = None):
    """Read a prompt whose beginning `cache` may hold: (logits [N] of its last token, cache)."""
    cache = start(engine, source) if cache is None else cache
    held = int(cache.lengths[0])
    if held >= len(prompt):
        raise LimitError(
            f"the cache must leave a token of the prompt to read, it holds {held} of {len(prompt)}"
        )
    return prefill(engine, prompt[held:], cache, chunk)


def single(
    engine: Engine, row: GeneratedSequence, cache: Any = None, chunk: int = CHUNK
) -> Generator[int, None, Any]:
    """Generate one row, token by token. `cache` may hold a prefix of the prompt already.

    Who reads the tokens may end it by setting `row.finished` (a stop string). Afterwards
    `row.finished` says why it ended, and the generator's value is the cache.
    """
    row.max_new_tokens = room(engine.config.context, len(row.prompt), row.max_new_tokens)
    logits, cache = begin(engine, row.prompt, cache, chunk, row.source)
    while row.finished is None:
        token = row.accept(logits)
        if token is not None:
            yield token
        if row.finished is None:
            step, cache = engine.step(np.array([[token]], np.int64), cache)
            logits = step[0, 0]
    return cache
