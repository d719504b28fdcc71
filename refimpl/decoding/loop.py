"""The generation loop: the engine computes logits, and a `GeneratedSequence` chooses tokens from them.

A `GeneratedSequence` stores the whole state of one text: its sampler, its stop rules and its random numbers.
Each position of the answer has one random number, seeded by (seed, index). A token depends only on this
number and on the logits. So neither other texts in the batch nor drafts change the text. The functions that
run the loop only connect sequences with an engine. They are `generate` here, `beam.beam_search` and
`speculative.speculate`.
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

    If the model has an encoder, the encoder reads `encoder_ids`, and the prompt is the beginning of the
    decoder's text. `index` is the sequence's number among the sequences that are generated together. If
    `logprobs` is a number N, `token_logprobs` has one entry for each of `tokens`: the token's log-probability
    and the N likeliest tokens. With a `constraint`, only allowed tokens are chosen, and the text ends when no
    further token is allowed.
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
        """Return the random generator. It is created at the first use, so greedy decoding doesn't import
        `numpy.random`.
        """
        return np.random.default_rng([self.seed, self.index])

    def uniform(self, position: int) -> float:
        """Return the random number, uniform in [0, 1), for the answer's token at this position."""
        while len(self._uniforms) <= position:
            self._uniforms.append(float(self._rng.random()))
        return self._uniforms[position]

    def process_logits(self, logits: np.ndarray, draft: Sequence[int] = ()) -> np.ndarray:
        """Apply the sampler's penalties and the constraint to logits [N], and return the result.

        Both depend on the text so far, followed by the tokens of `draft`.
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
        """Choose a token from logits [N], without changing the sequence.

        The logits are the model's output after the text so far and the tokens of `draft`.
        """
        u = 0.0 if self.sampler.greedy else self.uniform(len(self.tokens) + len(draft))
        return sample(self.process_logits(logits, draft), self.sampler, u)

    @property
    def takes_best(self) -> bool:
        """Whether the index of the largest logit is enough to choose a token, so that logits needn't be
        copied.
        """
        plain = self.sampler.greedy and not self.sampler.adjusts_logits
        return plain and self.constraint is None and self.logprobs is None

    def sample(self, logits: np.ndarray) -> int | None:
        """Choose the next token from logits [N], append it to the text and return it; return None for a stop
        token.
        """
        return self.append(self.choose(logits), logits)

    def append(self, token: int, logits: np.ndarray | None) -> int | None:
        """Append a token that was chosen from the model's logits [N], and return it.

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
        """End the text for this reason. For example, the caller ends the text when it finds a stop string."""
        self.finish_reason = reason


def prefill(
    engine: Engine, tokens: Sequence[int], cache: Cache, chunk: int = CHUNK
) -> tuple[np.ndarray, Cache]:
    """Run the engine on tokens [T], chunk by chunk, and append them to a cache of one row.

    Returns the logits [N] after the last token, and the new cache.
    """
    ids = np.asarray(tokens, np.int64)[None]
    logits = np.zeros((1, 1, 0))
    for start in range(0, ids.shape[1], chunk):
        logits, cache = engine.step(ids[:, start : start + chunk], cache)
    return logits[0, 0], cache


def start_cache(engine: Engine, encoder_ids: Sequence[int] | None) -> Cache:
    """Return an empty cache of one row. If the model has an encoder, it reads `encoder_ids` first."""
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
    """Run the engine on the tokens of the prompt that aren't in `cache` yet.

    Returns the logits [N] after the prompt's last token, and the new cache.
    """
    if cache is None:
        cache = start_cache(engine, encoder_ids)
    cached = int(cache.lengths[0])
    if cached >= len(prompt):
        raise LimitError(
            "at least one token of the prompt must not be in the cache, but the cache contains "
            f"{cached} of {len(prompt)} tokens"
        )
    return prefill(engine, prompt[cached:], cache, chunk)


def generate(
    engine: Engine, sequence: GeneratedSequence, cache: Cache | None = None, chunk: int = CHUNK
) -> Generator[int, None, Cache]:
    """Generate one text, and yield it token by token. `cache` may already contain the beginning of the
    prompt.

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
