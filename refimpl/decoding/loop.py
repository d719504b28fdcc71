"""The generation loop: the engine computes logits, and a `GeneratedSequence` chooses tokens from them.

A `GeneratedSequence` holds all state of one text: its sampler, its stop rules and its random numbers. There
is one random number for each position of the answer, seeded by (seed, index). So other texts in the same
batch don't change this number. The token at a position depends only on this number and the logits, whether or
not a draft proposed a token. The functions that run the loop only connect sequences with an engine. They are
`generate` here, `beam.beam_search` and `speculative.speculate`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..engine.protocol import BestTokenEngine, Cache, Engine
from ..errors import LimitError
from .constraint import Constraint, constrain
from .logprobs import TokenLogprob, token_logprob
from .sampler import Sampler
from .sampling import process_logits, sample
from .stop import FinishReason, finish_reason, limit_new_tokens

# A prompt goes through the model in chunks of this many tokens, so that the memory of its activations
# doesn't grow with its length.
CHUNK = 512


@dataclass
class GeneratedSequence:
    """One text while it is generated. It chooses tokens from logits until `finish_reason` is set.

    `encoder_ids` is the text that a model with an encoder reads; the prompt is then the start of the
    decoder's text. `index` is the sequence's number among those generated together. With `logprobs` N,
    `token_logprobs` has an entry for each of `tokens`: the token's log-probability, and those of the N
    likeliest tokens. With a `constraint`, only tokens that it allows are chosen, and the text ends when no
    token can follow.
    """

    prompt: Sequence[int]
    sampler: Sampler = field(default_factory=Sampler)
    stop_ids: frozenset[int] = frozenset()
    max_new_tokens: int = 256
    seed: int = 0
    index: int = 0
    tokens: list[int] = field(default_factory=list)
    encoder_ids: Sequence[int] | None = None
    logprobs: int | None = None
    constraint: Constraint | None = None
    token_logprobs: list[TokenLogprob] = field(default_factory=list, init=False)
    finish_reason: FinishReason | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._uniforms: list[float] = []
        self._prompt = np.array(self.prompt, np.int64)
        self.sampler = self.sampler.after_reading(self.encoder_ids)
        if self.max_new_tokens < 1:
            self.finish("length")

    @cached_property
    def _rng(self) -> np.random.Generator:
        """Made when a number is drawn: greedy texts needn't load the part of NumPy that has it."""
        return np.random.default_rng([self.seed, self.index])

    def uniform(self, position: int) -> float:
        """Return the random number for the answer's token at this position, uniform in [0, 1)."""
        while len(self._uniforms) <= position:
            self._uniforms.append(float(self._rng.random()))
        return self._uniforms[position]

    def process_logits(self, logits: np.ndarray, draft: Sequence[int] = ()) -> np.ndarray:
        """Return the logits [N] with the sampler's penalties and the constraint applied.

        The penalties and the constraint take into account the text so far and the tokens of `draft`.
        """
        tokens = self._prompt[:0]
        if self.sampler.adjusts_logits:
            tokens = np.concatenate([self._prompt, np.array([*self.tokens, *draft], np.int64)])
        new_tokens = len(self.tokens) + len(draft)
        last = new_tokens + 1 >= self.max_new_tokens
        logits = process_logits(logits, self.sampler, tokens, new_tokens, self.stop_ids, last)
        if self.constraint is None:
            return logits
        return constrain(logits, self.constraint.allowed([*self.tokens, *draft]))

    def choose(self, logits: np.ndarray, draft: Sequence[int] = ()) -> int:
        """Return the token chosen from the logits [N] that follow the text so far and the tokens of
        `draft`.
        """
        u = 0.0 if self.sampler.greedy else self.uniform(len(self.tokens) + len(draft))
        return sample(self.process_logits(logits, draft), self.sampler, u)

    @property
    def takes_best(self) -> bool:
        """Whether the sequence needs only the index of the largest logit."""
        plain = self.sampler.greedy and not self.sampler.adjusts_logits
        return plain and self.constraint is None and self.logprobs is None

    def sample(self, logits: np.ndarray) -> int | None:
        """Choose the next token from logits [N], append and return it; return None for a stop token."""
        return self.append(self.choose(logits), logits)

    def append(self, token: int, logits: np.ndarray | None) -> int | None:
        """Append the token, which was chosen from the model's logits [N], and return it.

        A stop token isn't appended: it ends the text, and the method returns None. Logits may be None if the
        sequence `takes_best`.
        """
        self.finish_reason = finish_reason(token, len(self.tokens) + 1, self.stop_ids, self.max_new_tokens)
        if self.finish_reason == "stop":
            return None
        self.tokens.append(token)
        if self.logprobs is not None:
            assert logits is not None
            self.token_logprobs.append(token_logprob(logits, token, self.logprobs))
        if self.constraint is not None and self.constraint.is_complete(self.tokens):
            self.finish("stop")
        return token

    def finish(self, reason: FinishReason = "stop") -> None:
        """End the text. The reader of the tokens calls this when a stop string occurs."""
        self.finish_reason = reason


def prefill(
    engine: Engine, tokens: Sequence[int], cache: Cache, chunk: int = CHUNK
) -> tuple[np.ndarray, Cache]:
    """Feed tokens [T] to a cache of one row, chunk by chunk. Returns (logits [N] of the last token,
    cache).
    """
    ids = np.asarray(tokens, np.int64)[None]
    logits = np.zeros((1, 1, 0))
    for start in range(0, ids.shape[1], chunk):
        logits, cache = engine.step(ids[:, start : start + chunk], cache)
    return logits[0, 0], cache


def start_cache(engine: Engine, encoder_ids: Sequence[int] | None) -> Cache:
    """Return an empty cache of one row; if the model has an encoder, the encoder reads `encoder_ids`."""
    if encoder_ids is None:
        return engine.start(1)
    kind = np.int64 if engine.config.sound_shape is None else np.float32
    return engine.start(1, np.asarray(encoder_ids, kind)[None])


def read_prompt(
    engine: Engine,
    prompt: Sequence[int],
    cache: Cache | None,
    chunk: int = CHUNK,
    encoder_ids: Sequence[int] | None = None,
) -> tuple[np.ndarray, Cache]:
    """Feed the part of the prompt that `cache` lacks. Returns (logits [N] of the prompt's last
    token, cache).
    """
    if cache is None:
        cache = start_cache(engine, encoder_ids)
    cached = int(cache.lengths[0])
    if cached >= len(prompt):
        raise LimitError(
            f"at least one token of the prompt must not be in the cache, but it holds {cached} of "
            f"{len(prompt)}"
        )
    return prefill(engine, prompt[cached:], cache, chunk)


def generate(
    engine: Engine, sequence: GeneratedSequence, cache: Cache | None = None, chunk: int = CHUNK
) -> Generator[int, None, Cache]:
    """Generate one text, and yield it token by token. `cache` may already hold a prefix of the prompt.

    The caller may end the text early with `sequence.finish()`. The generator's return value is the cache.
    """
    sequence.max_new_tokens = limit_new_tokens(engine.config, len(sequence.prompt), sequence.max_new_tokens)
    logits, cache = read_prompt(engine, sequence.prompt, cache, chunk, sequence.encoder_ids)
    best = engine.best if isinstance(engine, BestTokenEngine) and engine.gives_best else None
    chosen: deque[int] = deque()  # what the engine chose, of which the sequence doesn't have all yet
    while sequence.finish_reason is None:
        token = sequence.append(chosen.popleft(), None) if chosen else sequence.sample(logits)
        if token is not None:
            yield token
        if sequence.finish_reason is None and not chosen:
            tokens = np.array([[token]], np.int64)
            if best is not None and sequence.takes_best:
                row, cache = best(tokens, cache, sequence.max_new_tokens - len(sequence.tokens))
                chosen.extend(row[0].tolist())
            else:
                step, cache = engine.step(tokens, cache)
                logits = step[0, 0]
    return cache.truncate(cache.lengths - len(chosen)) if chosen else cache
