"""The seam that three engines share, and what they may be asked.

    engine.start(batch, encoder_ids=None, encoder_lengths=None) -> cache
    engine.step(tokens[B,T], cache, lengths[B]=T, at[B,P]=last) -> (logits[B,P,N], cache)
    engine.predict(ids[B,T], lengths[B]=T, types[B,T]=0) -> what an encoder's head says
    cache: lengths[B], floor[B], capacity, truncate(lengths), select(rows)

Rows are padded on the right: `lengths` says how many tokens of a row are real, `at` whose logits
are wanted. A cache is used once: after `step`, `truncate` or `select` the old value is dead,
because ONNX Runtime writes in place.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..config import LM, Config, Decoder, EncoderDecoder
from ..errors import ConfigError, LimitError


class Cache(Protocol):
    """Running state of a batch: `lengths` tokens of each row are in it, `capacity` have room.

    A row can be cut to no tokens, or to `floor` and more: of a layer with a window a cache may hold only the
    latest.
    """

    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def floor(self) -> np.ndarray: ...
    @property
    def capacity(self) -> int: ...
    def truncate(self, lengths: np.ndarray) -> Cache:
        """The same rows, cut back to `lengths` tokens each."""
        ...

    def select(self, rows: np.ndarray) -> Cache:
        """The named rows in the named order; a row may be named twice (beams) or not at all."""
        ...


class Engine(Protocol):
    """What generates: the NumPy, torch and ONNX Runtime engines."""

    @property
    def config(self) -> Config: ...
    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> Any: ...
    def step(
        self,
        tokens: np.ndarray,
        cache: Any,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]: ...
    def predict(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, types: np.ndarray | None = None
    ) -> np.ndarray: ...


def check_step(
    config: Config,
    tokens: np.ndarray,
    past: np.ndarray,
    lengths: np.ndarray | None,
    at: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of `step`, checked and completed: (tokens, lengths, at), all int64.

    Raises LimitError for an id outside the vocabulary, a length outside 0 … T, a position outside
    the row, or a row that would outgrow the context. `at` None means each row's last real token.
    """
    tokens = np.asarray(tokens, np.int64)
    if tokens.ndim != 2 or tokens.shape[0] != len(past) or tokens.shape[1] < 1:
        raise LimitError(f"tokens must be [{len(past)}, T ≥ 1], got shape {tokens.shape}")
    batch, t = tokens.shape
    lengths = np.full(batch, t, np.int64) if lengths is None else np.asarray(lengths, np.int64)
    if lengths.shape != (batch,) or lengths.min() < 0 or lengths.max() > t:
        raise LimitError(f"lengths must be {batch} numbers from 0 to {t}, got {lengths.tolist()}")
    n = config.embedding.vocabulary
    if tokens.min() < 0 or tokens.max() >= n:
        raise LimitError(f"token ids must be 0 to {n - 1}, got {tokens.min()} to {tokens.max()}")
    if (longest := int((past + lengths).max())) > config.context:
        raise LimitError(f"the text would be {longest} tokens long, the model's context is {config.context}")
    at = np.maximum(lengths - 1, 0)[:, None] if at is None else np.asarray(at, np.int64)
    if at.ndim != 2 or at.shape[0] != batch or (at.size and (at.min() < 0 or at.max() >= t)):
        raise LimitError(f"at must be [{batch}, P] positions from 0 to {t - 1}, got {at.tolist()}")
    return tokens, lengths, at


def check_start(config: Config, batch: int, encoder_ids: np.ndarray | None) -> None:
    """Raise ConfigError for a model without a decoder, and for an encoder's text that is there without an
    encoder, or missing with one; LimitError for one of other rows."""
    if not isinstance(config.head, LM):
        raise ConfigError("a model without a decoder has no steps: use predict")
    if (encoder_ids is None) == isinstance(config, EncoderDecoder):
        needs, got = ("needs", "none") if encoder_ids is None else ("takes no", "some")
        raise ConfigError(f"start {needs} encoder_ids for this model, got {got}")
    if encoder_ids is not None and len(encoder_ids) != batch:
        raise LimitError(f"encoder_ids must have {batch} rows, got {len(encoder_ids)}")


def check_predict(config: Config) -> None:
    """Raise ConfigError for a model with a decoder."""
    if isinstance(config.head, LM):
        raise ConfigError("a model with a decoder predicts step by step: use start and step")


def check_text(
    config: Config, ids: np.ndarray, lengths: np.ndarray | None, types: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """An encoder's text, checked and completed: (ids, lengths, types), all int64."""
    if isinstance(config, Decoder):
        raise ConfigError("a model without an encoder can't encode")
    ids, lengths, _ = check_step(config, ids, np.zeros(len(ids), np.int64), lengths, None)
    if types is not None:
        types, rows = np.asarray(types, np.int64), config.embedding.token_types or 0
        if types.shape != ids.shape or types.min() < 0 or types.max() >= rows:
            shape = list(ids.shape)
            raise LimitError(
                f"types must be {shape} numbers from 0 to {rows - 1}, got {types.tolist()!r:.80}"
            )
    return ids, lengths, types


def check_lengths(past: np.ndarray, lengths: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The argument of `truncate` as int64; LimitError unless each row gets 0, or floor … its own length."""
    lengths = np.asarray(lengths, np.int64)
    if lengths.shape != past.shape or (lengths < 0).any() or (lengths > past).any():
        raise LimitError(f"a cache of lengths {past.tolist()} can't be cut to {lengths.tolist()}")
    if len(low := np.flatnonzero((lengths > 0) & (lengths < floor))):
        row = int(low[0])
        raise LimitError(
            f"row {row} can be cut to {floor[row]} tokens or more, or to none, got {lengths[row]}: what a "
            "window saw before was overwritten"
        )
    return lengths


def check_rows(batch: int, rows: np.ndarray) -> np.ndarray:
    """The argument of `select` as int64; LimitError unless each is a row of the batch."""
    rows = np.asarray(rows, np.int64)
    if rows.ndim != 1 or len(rows) < 1 or rows.min() < 0 or rows.max() >= batch:
        raise LimitError(f"rows must be from 0 to {batch - 1}, got {rows.tolist()}")
    return rows
