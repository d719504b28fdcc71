"""The ONNX Runtime engine: the seam of refimpl/engine over exported graphs.

An encoder reads a text in one run (`runtime.ort.encoder_session`); what a decoder reads of it, keys and values a
layer, stays where that run wrote it. Caches, such keys, and rotary tables are bound once, by address,
and stay bound while their buffers live; a step binds only its tokens and the memory of its logits,
which ONNX Runtime itself writes: no copy, and no later step touches what a caller still holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ...refimpl.config import Config
from ...refimpl.engine.protocol import check_predict, check_start, check_step, check_text
from ..bundle import window_sizes
from ..bundle.graph_io import ENCODER, GRAPH, Graph, cache_type, graphs
from .chunked_step import in_pieces
from .device_buffer import Buffer, zeros
from .encoder_kv import Memory
from .encoder_session import PIECE, Encoder, pieces
from .io_binding import Bound
from .kv_cache import Cache, State
from .prepacked_weights import session as prepacked
from .session import choose, in_float, one_line, open_session, options

# Room of a new cache in tokens; it doubles when outgrown, up to the model's context.
FIRST_CAPACITY = 256


def _references(rooms: list[np.ndarray], i: int) -> int:
    return sys.getrefcount(rooms[i])


# Of a room that only its list holds; how many the call itself adds is the interpreter's affair.
UNHELD = _references([np.empty(0)], 0)


class OrtEngine:
    """`start` and `step`, or `predict`, over a bundle: anything with `path`, `config`, `target`, `dtype`
    and `cache`.

    `prepack` keeps packed weights in the user's cache (`runtime.ort.prepacked_weights`). `plain` computes products of
    blocks in float, slowly: what is left is comparable to the last digits (`runtime.verification.verify`). Caches of
    windows or of codes take `piece` tokens in a run; of the context's length, windows drop none.
    """

    def __init__(
        self,
        bundle: Any,
        device: str = "cpu",
        threads: int | None = None,
        notify: Callable[[str], None] = lambda _: None,
        *,
        prepack: bool = False,
        plain: bool = False,
        piece: int | None = None,
    ) -> None:
        self.config: Config = bundle.config
        self.device = on = choose(device, bundle.target, notify)
        self.piece = piece or window_sizes.PIECE
        self.shared, windowed = bundle.cache != "copied", bundle.cache == "windowed"
        self.dtype = np.dtype(bundle.dtype)
        self.model = Path(bundle.path) / GRAPH

        def opened(graph: Graph) -> ort.InferenceSession:
            if prepack and self.device == "cpu":
                return prepacked(Path(bundle.path), threads, graph.file)
            path = Path(bundle.path) / graph.file
            text = in_float(path.read_bytes()) if plain else None
            return open_session(path, on, options(threads), text)

        parts = {graph.file: (opened(graph), graph) for graph in graphs(self.config, windowed)}
        self.session, _ = parts[GRAPH]
        reads = ENCODER if ENCODER in parts else GRAPH
        self.encoder = (
            Encoder(*parts[reads], self.config, self.dtype) if "encoder" in self.config.stacks else None
        )
        layers = range(len(self.config.layers))
        sizes = [window_sizes.of_layer(self.config, i) if windowed else None for i in layers]
        self._windows = tuple(size for size in sizes for _ in "kv")
        self._bound = Bound(*parts[GRAPH], self.config, self.dtype, self.device)
        self._rooms: list[np.ndarray] = []

    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> Cache:
        """An empty cache for `batch` rows; the encoder, where there is one, reads its text [B, S] first."""
        check_start(self.config, batch, encoder_ids)
        state = self._state(batch, min(FIRST_CAPACITY, self.config.context))
        if encoder_ids is not None:
            assert self.encoder is not None
            ids, lengths, _ = check_text(self.config, encoder_ids, encoder_lengths, None)
            made = {
                name: zeros(shape, self.dtype, self.device)
                for name, shape in self.encoder.shapes(ids).items()
            }
            self.encoder.run(ids, lengths, None, made)
            state.memory = Memory(list(made.values()), Buffer(lengths.copy(), "cpu"), np.arange(batch))
        return Cache(np.zeros(batch, np.int64), state)

    def predict(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, types: np.ndarray | None = None
    ) -> np.ndarray:
        """What an encoder's head says of the ids [B, T], float32: see `ops.encoder.predict`."""
        check_predict(self.config)
        assert self.encoder is not None
        ids, lengths, types = check_text(self.config, ids, lengths, types)
        if self.device != "cpu" or ids.size <= PIECE:
            return self._predicted(ids, lengths, types)
        (shape,) = self.encoder.shapes(ids).values()
        made = np.zeros(shape, np.float32)
        for rows in pieces(lengths):
            longest = max(1, lengths[rows].max())
            kinds = None if types is None else types[rows, :longest]
            said = self._predicted(ids[rows, :longest], lengths[rows], kinds)
            if said.ndim == 3:
                made[rows, :longest] = said
            else:
                made[rows] = said
        return made

    def _predicted(self, ids: np.ndarray, lengths: np.ndarray, types: np.ndarray | None) -> np.ndarray:
        """What the head says, all rows in one run."""
        assert self.encoder is not None
        ((name, shape),) = self.encoder.shapes(ids).items()
        said = np.empty(shape, np.float32)
        self.encoder.run(ids, lengths, types, {name: Buffer(said, "cpu")})
        return said

    def step(
        self,
        tokens: np.ndarray,
        cache: Cache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Cache]:
        """Logits [B, P, N], float32, at the wanted positions, and the cache with the tokens in it."""
        past = cache.lengths
        tokens, lengths, at = check_step(self.config, tokens, past, lengths, at)
        state = cache.take()
        need = int(past.max()) + tokens.shape[1]
        if need > state.capacity:
            # Padding may reach past the context, where real tokens never do.
            room = max(need, min(max(need, 2 * state.capacity), self.config.context))
            state = state.moved(np.arange(state.batch), past, room)
        logits = self._logits(len(tokens), at.shape[1])
        with one_line(f"{self.model} can't be run"):
            # Over codes a prompt of 2048 tokens takes 5.8 s in one run and 3.4 s so, over floats 2.0 and 1.8.
            pieces = state.dropped or self.config.rounds_cache
            if pieces and tokens.shape[1] > self.piece:
                run = partial(self._once, state)
                in_pieces(run, self.piece, tokens, past, lengths, at, logits)
            else:
                state = self._once(state, tokens, past, lengths, at, logits)
        return logits, Cache(past + lengths, state)

    def _once(
        self,
        state: State,
        tokens: np.ndarray,
        past: np.ndarray,
        lengths: np.ndarray,
        at: np.ndarray,
        logits: np.ndarray,
    ) -> State:
        """Tokens that the buffers have place for, all rows at a time where the operators take them so."""
        b, t = tokens.shape
        # A row that joins a batch is read while the others wait: there is nothing of theirs to compute.
        joins = b > 1 and np.count_nonzero(lengths) == 1
        if joins or (self.shared and b > 1 and t > 1 and past.any()):
            state.make_room(past, lengths)
            self._row_by_row(state, tokens, past, lengths, at, logits)
            return state
        state.make_room(past, np.full(b, t))
        if state.bound is None:
            state.bound = self._bound.bindings(state)
        self._bound.run(state.bound[0], tokens, past, at, logits, state.held(past))
        return state.swapped()

    def _logits(self, rows: int, wanted: int) -> np.ndarray:
        """Room for logits that nobody holds: fresh pages would cost more than all else that a step
        adds to the session's run. Two rooms do, since a loop drops a step's logits after the next."""
        shape = (rows, wanted, self.config.embedding.vocabulary)
        for i in range(len(self._rooms)):
            # A caller's view is one reference more.
            if self._rooms[i].shape == shape and _references(self._rooms, i) == UNHELD:
                return self._rooms[i][:]
        self._rooms = [*self._rooms[-1:], np.empty(shape, np.float32)]
        return self._rooms[-1][:]

    def _row_by_row(
        self,
        state: State,
        tokens: np.ndarray,
        past: np.ndarray,
        lengths: np.ndarray,
        at: np.ndarray,
        logits: np.ndarray,
    ) -> None:
        """Rows one at a time: several tokens after a past, as GroupQueryAttention takes them, or one row that
        joins."""
        for row, length in enumerate(lengths):
            if not length:
                logits[row] = 0  # a row without tokens has no logits; nothing may be left undefined
                continue
            one = slice(row, row + 1)
            bound = self._bound.bind(state, state.now, state.spare or state.now, row)
            held = {size: count[one] for size, count in state.held(past).items()}
            # Positions in the padding are unspecified: the last real token stands for them.
            near = np.minimum(at[one], length - 1)
            self._bound.run(bound, tokens[one, :length], past[one], near, logits[one], held)
            state.keep(row, int(past[row] + length))

    def _state(self, batch: int, capacity: int) -> State:
        def buffers() -> list[Buffer]:
            made = []
            for layer, size in zip(self.config.layers, self._windows[::2], strict=True):
                a = layer.attention
                shape = (batch, a.kv_heads, window_sizes.places(size, capacity, self.piece), a.head_size)
                dtype = np.dtype(cache_type(a) or self.dtype)
                made += [zeros(shape, dtype, self.device) for _ in "kv"]
            return made

        dropped = {size: np.zeros(batch, np.int64) for size in self._windows if size is not None}
        spare = None if self.shared else buffers()
        return State(buffers(), spare, capacity, self._windows, dropped, self.piece)
