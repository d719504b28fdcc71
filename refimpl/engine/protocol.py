"""The protocol of tfm's three engines, and the checks of its methods' arguments.

    engine.start(batch, encoder_ids=None, encoder_lengths=None) -> cache
    engine.step(tokens[B,T], cache, lengths[B]=T, at[B,P]=last) -> (logits[B,P,N], cache)
    engine.predict(ids[B,T], lengths[B]=T, token_types[B,T]=0) -> what an encoder's head computes
    a model of sound: start(batch, frames[B,2·S,C]) -> cache, or predict(samples[B,M]), all of which are real
    cache: lengths[B], floor[B], capacity, nbytes, truncate(lengths), select(rows), grow(capacity),
           copy(row), put(row, cache, length)

Rows are padded on the right. `lengths` says how many tokens of each row are real, and `at` says at which
positions logits are computed. A cache can be used only once: after `step`, `truncate`, `select`, `grow` or
`put` the old cache is invalid, because ONNX Runtime writes in place. Later steps never change logits that
were returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from ..config import LM, Config, Decoder, EncoderDecoder, has_mtp, longer_context
from ..errors import ConfigError, LimitError, TfmError


class Cache(Protocol):
    """A decoder's cache for a batch: it contains `lengths` tokens of each row, and has room for `capacity`
    tokens.

    What is stored depends on each layer's kind of cache (`engine.cache_kinds`). A row can be truncated to 0
    tokens, or to any length of at least `floor`. Smaller lengths are impossible, because a layer with a
    window may have kept only the latest tokens.
    """

    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def floor(self) -> np.ndarray: ...
    @property
    def capacity(self) -> int: ...
    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        ...

    def truncate(self, lengths: np.ndarray) -> Cache:
        """Return the same cache, with each row shortened to its first `lengths` tokens.

        Raises LimitError if a kind of cache can't be truncated that far.
        """
        ...

    def select(self, rows: np.ndarray) -> Cache:
        """Return a cache of the rows with these numbers, in this order.

        A number may occur several times or not at all, as beam search needs.
        """
        ...

    def grow(self, capacity: int) -> Cache:
        """Return the same rows with room for at least `capacity` tokens."""
        ...

    def copy(self, row: int) -> Cache:
        """Return a copy of one row as a new cache; both caches stay valid."""
        ...

    def put(self, row: int, cache: Cache, length: int) -> Cache:
        """Replace one row by the first `length` tokens of another cache, and return the changed cache.

        The other cache has one row, belongs to the same engine, and stays valid. Raises LimitError if the
        other cache can't be truncated to `length`.
        """
        ...


class Engine(Protocol):
    """An engine that can generate text, such as the NumPy, torch and ONNX Runtime engines."""

    @property
    def config(self) -> Config: ...
    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> Cache: ...
    def step(
        self,
        tokens: np.ndarray,
        cache: Cache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Cache]: ...
    def predict(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, token_types: np.ndarray | None = None
    ) -> np.ndarray: ...


@runtime_checkable
class MTPEngine(Engine, Protocol):
    """An engine that can also run a model's module for multi-token prediction (`ops.mtp`), for one text at a
    time.
    """

    def step_with_hidden(
        self, tokens: np.ndarray, cache: Cache, at: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, Cache]:
        """Run `step`, and return (logits [1, P, N], the hidden states [1, T, D] of all tokens, cache)."""
        ...

    def start_mtp(self) -> Cache:
        """Return an empty cache for the MTP module; raise ConfigError if the model has no such module."""
        ...

    def step_mtp(
        self, tokens: np.ndarray, hidden: np.ndarray, cache: Cache
    ) -> tuple[np.ndarray, np.ndarray, Cache]:
        """Run the MTP module; return (logits [1, 1, N], the module's hidden states [1, T, D], cache).

        The module reads the tokens [1, T] and, in `hidden` [1, T, D], the model's hidden state of the token
        before each of them. The logits are the module's prediction after the last token.
        """
        ...


@runtime_checkable
class AttentiveEngine(Engine, Protocol):
    """An engine that can return cross-attention weights: how much a decoder's heads attend to the encoder's
    text or sound.
    """

    def cross_attention(
        self, tokens: np.ndarray, cache: Cache, chosen: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """Return the cross-attention weights [H, T, S] for the tokens [1, T]. `chosen` lists heads as (layer,
        head).

        The tokens follow the tokens in the cache. The cache has one row, and can't be used again.
        """
        ...


@runtime_checkable
class BestTokenEngine(Protocol):
    """An engine that can decode greedily on its own device, so that logits needn't be copied to the CPU."""

    @property
    def gives_best(self) -> bool:
        """Whether the engine can decode greedily on its device for this model."""
        ...

    def best(self, tokens: np.ndarray, cache: Cache, limit: int = 1) -> tuple[np.ndarray, Cache]:
        """Generate up to `limit` tokens for each row greedily, beginning after the tokens [B, 1].

        If several logits are the largest, the first one is chosen. Returns the generated tokens [B, n], and
        the cache, which contains all of them except the last. `truncate` can remove tokens from the cache
        again. Raises NumericError if a logit isn't finite.
        """
        ...


def used_cache_error() -> TfmError:
    """Return the error for using a cache a second time."""
    return TfmError("this cache was already used: continue with the cache that step returned")


def foreign_cache_error(cache: Cache) -> TfmError:
    """Return the error for passing a cache of another engine."""
    return TfmError(f"the cache must be this engine's own, from start or step, got {type(cache).__name__}")


def too_long(config: Config, context: int | None = None) -> str:
    """Return the error message for a text that is longer than `context`, by default the model's context."""
    kind, limit = longer_context(config), config.context if context is None else context
    longer = f", or open the model with context=N, as its {kind} allows" if kind else ""
    return f"the model's context is {limit} tokens: shorten the text{longer}"


def check_step(
    config: Config,
    tokens: np.ndarray,
    past: np.ndarray,
    lengths: np.ndarray | None,
    at: np.ndarray | None,
    context: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the arguments of `step` and fill in defaults; return (tokens, lengths, at), all int64.

    If `at` is None, it becomes the position of each row's last real token. Raises LimitError for an id
    outside of the vocabulary, a length outside of 0 to T, a position outside of the row, or a row that would
    become longer than `context`, by default the model's context.
    """
    context = config.context if context is None else context
    tokens = np.asarray(tokens, np.int64)
    shape, rows = tokens.shape, past.tolist()
    if len(shape) != 2 or shape[0] != len(rows) or shape[1] < 1:
        raise LimitError(
            f"tokens must have the shape [{len(rows)}, T] with T of at least 1, got the shape {shape}"
        )
    batch, t = shape
    n, ids = config.embedding.vocabulary, tokens.ravel().tolist()
    if min(ids) < 0 or max(ids) >= n:
        raise LimitError(f"token ids must be 0 to {n - 1}, got {min(ids)} to {max(ids)}")
    # A step of one token is short, and most of what it needs was driven out of the processor's caches by the
    # weights: so ids are compared without NumPy, and nothing is computed for what isn't given.
    if lengths is None:
        lengths, last = _whole(batch, t)
        longest = max(rows) + t
    else:
        lengths = np.asarray(lengths, np.int64)
        if lengths.shape != (batch,) or lengths.min() < 0 or lengths.max() > t:
            raise LimitError(f"lengths must be {batch} numbers from 0 to {t}, got {lengths.tolist()}")
        last, longest = np.maximum(lengths - 1, 0)[:, None], int((past + lengths).max())
    if longest > context:
        raise LimitError(f"the text would be {longest} tokens long, but {too_long(config, context)}")
    if at is None:
        return tokens, lengths, last
    at = np.asarray(at, np.int64)
    if at.ndim != 2 or at.shape[0] != batch or (at.size and (at.min() < 0 or at.max() >= t)):
        raise LimitError(f"`at` must be [{batch}, P] positions from 0 to {t - 1}, got {at.tolist()}")
    return tokens, lengths, at


@lru_cache
def _whole(batch: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths [B] and last positions [B, 1] of rows without padding, as read-only arrays."""
    arrays = np.full(batch, t, np.int64), np.full((batch, 1), t - 1, np.int64)
    for array in arrays:
        array.flags.writeable = False
    return arrays


def check_mtp(config: Config) -> Decoder:
    """Return the Config; raise ConfigError if the model has no module for multi-token prediction."""
    if not has_mtp(config):
        raise ConfigError(
            "the model has no module for multi-token prediction (mtp): to read a checkpoint's module, open "
            "or export the checkpoint with mtp=True"
        )
    return config


def check_start(config: Config, batch: int, encoder_ids: np.ndarray | None) -> None:
    """Check the arguments of `start`.

    Raises ConfigError if the model has no decoder, if it has no encoder but a text for one is given, or if it
    has an encoder and no text is given. Raises LimitError if the text doesn't have `batch` rows.
    """
    if not isinstance(config.head, LM):
        raise ConfigError("a model without a decoder has no steps: use predict")
    if (encoder_ids is None) == isinstance(config, EncoderDecoder):
        needs, got = ("needs", "no") if encoder_ids is None else ("must have no", "some")
        raise ConfigError(f"`start` {needs} encoder_ids for this model, got {got} encoder_ids")
    if encoder_ids is not None and len(encoder_ids) != batch:
        raise LimitError(f"encoder_ids must have {batch} rows, got {len(encoder_ids)}")


def check_predict(config: Config) -> None:
    """Raise ConfigError if a model has a decoder and therefore can't run `predict`."""
    if isinstance(config.head, LM):
        raise ConfigError("a model with a decoder predicts step by step: use start and step")


def check_text(
    config: Config, ids: np.ndarray, lengths: np.ndarray | None, token_types: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Check the text of an encoder and fill in defaults; return (ids, lengths, token_types), all int64.

    For a speech model, `ids` contains frames or samples instead.
    """
    if isinstance(config, Decoder):
        raise ConfigError("this model has no encoder, so it can't encode a text")
    if config.sound_shape is not None:
        sound = _check_sound(config, ids, config.sound_shape)
        return sound, np.full(len(sound), config.positions(sound.shape[1])), None
    context = config.text_context if isinstance(config, EncoderDecoder) else None
    ids, lengths, _ = check_step(config, ids, np.zeros(len(ids), np.int64), lengths, None, context)
    if token_types is not None:
        token_types, rows = np.asarray(token_types, np.int64), config.embedding.token_types or 0
        if token_types.shape != ids.shape or token_types.min() < 0 or token_types.max() >= rows:
            shape = list(ids.shape)
            raise LimitError(
                f"token_types must be {shape} numbers from 0 to {rows - 1}, got {token_types.tolist()!r:.80}"
            )
    return ids, lengths, token_types


def _check_sound(config: Config, sound: np.ndarray, row: tuple[int | str, ...]) -> np.ndarray:
    """Return frames or samples as an array. Raises LimitError unless they are finite floats of this shape and
    the encoder has room for them.
    """
    sound = np.asarray(sound)
    shape = (len(sound), *row) if sound.ndim else row
    fits = sound.ndim == len(row) + 1 and all(
        isinstance(size, str) or size == got for size, got in zip(shape, sound.shape, strict=True)
    )
    if sound.dtype.kind != "f" or not fits or not np.isfinite(sound).all():
        raise LimitError(
            f"this model reads sounds as finite frames {[*shape]} (engine.sound), got "
            f"{sound.dtype} {list(sound.shape)}"
        )
    assert config.stem is not None
    least, most = config.stem.least(1), config.stem.least(config.text_context + 1) - 1
    if not least <= sound.shape[1] <= most:
        raise LimitError(f"a sound must have {least} to {most} samples, got {sound.shape[1]}: cut the sound")
    return sound


def check_put(cache: Cache, row: int, one: Cache) -> None:
    """Check the arguments of `put`: raise LimitError unless the row exists and the other cache has exactly
    one row.
    """
    check_rows(len(cache.lengths), np.array([row]))
    if len(one.lengths) != 1:
        raise LimitError(f"a cache that is put into another cache must have one row, got {len(one.lengths)}")


def check_rows(batch: int, rows: np.ndarray) -> np.ndarray:
    """Check the row numbers that are passed to `select`, and return them as int64.

    Raises LimitError if a number isn't a row of the batch.
    """
    rows = np.asarray(rows, np.int64)
    if rows.ndim != 1 or len(rows) < 1 or rows.min() < 0 or rows.max() >= batch:
        raise LimitError(f"rows must be from 0 to {batch - 1}, got {rows.tolist()}")
    return rows
