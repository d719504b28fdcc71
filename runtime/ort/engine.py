"""Run a bundle on ONNX Runtime: `refimpl.engine.protocol` over the graphs of a bundle.

An encoder reads a text in one run (`runtime.ort.encoder_session`). The keys and values for the decoder
stay in the memory to which this run wrote them. Caches, the encoder's keys and values, and rotary tables
are bound once, by address, and stay bound as long as their buffers exist. In a step of one token per row,
all other inputs and outputs are bound too, and the logits are copied (`runtime.ort.decode_step`). Other
steps write the logits directly to the array that the caller gets. Each step returns new arrays of logits,
so callers may keep and change them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import numpy as np
import onnxruntime as ort

from ...refimpl.config import Config, Decoder
from ...refimpl.engine.cache_kinds import CHUNK, CacheKind, Halved, cache_kinds, recurrent
from ...refimpl.engine.numpy_engine import NumpyEngine
from ...refimpl.engine.passes import Text
from ...refimpl.engine.protocol import (
    Cache,
    check_mtp,
    check_predict,
    check_start,
    check_step,
    check_text,
    foreign_cache_error,
)
from ..bundle import kernel_storage, operator_limits
from ..bundle.bundle import Bundle, is_finite, manifest_hash
from ..bundle.graph_io import ENCODER, GRAPH, MTP, Graph, graphs
from ..bundle.same_bits import Operator, SameBits, promise
from .chunked_step import StepArrays, in_chunks
from .decode_step import AHEAD, MOST_CAPTURES, NOT_CAPTURED, DecodeSteps, capture_options
from .device_buffer import DeviceBuffer, zeros
from .encoder_kv import EncoderKV
from .encoder_session import TOKENS_PER_RUN, EncoderSession, runs
from .graph_changes import set_integer, with_outputs
from .io_binding import DecoderSession
from .kernel_backend import KernelBackend, run_error, too_large_error
from .kv_cache import CacheBuffers, OrtCache, empty
from .prepacked_weights import session as prepacked
from .session import ORT_ERRORS, choose, one_line, open_session, options

# Room of a new cache in tokens; it doubles when outgrown, up to the model's context.
FIRST_CAPACITY = 256


class OrtEngine:
    """The engine that runs a bundle on ONNX Runtime: `start` and `step` for a decoder, `predict` for an
    encoder.

    - `kernels`: tfm's own kernels compute products of blocks (`runtime.ort.kernel_backend`). If None, ONNX
      Runtime's operators compute these products.
    - `prepack`: without kernels, keep packed weights in the user's cache (`runtime.ort.prepacked_weights`).
    - `plain`: compute products of blocks in floating point, slowly, so that results can be compared to the
      last digits (`runtime.verification.verify`).
    - `chunk`: the number of tokens that one run reads if layers have a window or linear attention, or if the
      cache contains codes and there are no kernels. With a chunk as long as the context, layers with a
      window drop no tokens.
    - `shown`: the values [B, T, N] inside the graphs that `inside` returns, as a dict from (the graph's
      file, the value's name) to N.

    The attribute `backend` names the code that computes products. `same_bits` says whether a token's
    results have the same bits whatever other tokens are computed in the same call
    (`runtime.bundle.same_bits`).
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        threads: int | None = None,
        notify: Callable[[str], None] = lambda _: None,
        *,
        prepack: bool = False,
        kernels: KernelBackend | None = None,
        plain: bool = False,
        chunk: int | None = None,
        shown: Mapping[tuple[str, str], int] = MappingProxyType({}),
    ) -> None:
        self.bundle_hash = manifest_hash(bundle.path)
        self._params = bundle.params
        self.config: Config = bundle.config
        self.device = on = choose(device, bundle.target, notify)
        self.chunk = CHUNK if chunk is None else chunk
        self.dtype, self.quant = np.dtype(bundle.dtype), bundle.quant
        self.model = bundle.path / GRAPH
        # A shared cache is written in place, and so is a windowed one; a copied one isn't.
        self.shared = bundle.cache != "copied"
        windowed = bundle.cache == "windowed"
        halved: Halved = "" if kernels is None else bundle.manifest.halved
        self._windowed, self._half = windowed, bool(halved)
        self.kinds = cache_kinds(self.config, windowed=windowed, half=bool(halved))
        self._shown = shown
        codes = kernels is None and any(kind.has_codes for kind in self.kinds)
        self._in_chunks = codes or any(kind.in_chunks for kind in self.kinds)
        operators: set[Operator] = set()
        can_capture = on == "cuda" and self.shared and operator_limits.capture(self.config) is None
        self._captures = iter(range(1, MOST_CAPTURES + 1)) if can_capture else None

        # A window of sound makes large values: a block for them would be a seventh of a Whisper's memory.
        patterns = self.config.sound_shape is None

        def opened(graph: Graph) -> ort.InferenceSession:
            names = [name for file, name in shown if file == graph.file]
            # Only what is opened is checked: over kernels the target's own graph takes as long, for nothing.
            if kernels is not None:
                content, used = bundle.kernel_graph(graph)
                operators.update(used)
                if names:
                    content = with_outputs(content, names)
                file = kernel_storage.GRAPHS[graph.file]
                return kernels.session(file, content, bundle.kernel_tensors, threads, patterns=patterns)
            bundle.check_graph(graph)
            if prepack and self.device == "cpu":
                products = bundle.products
                return prepacked(bundle.path, threads, graph.file, products=products, patterns=patterns)
            path = bundle.path / graph.file
            # Level 4 of MatMulNBits rounds its input to codes, 0 doesn't. ONNX Runtime 1.31's own switch for
            # sessions (mlas.qnbit.force_fp32) reaches blocks of 32 weights in 4 bits alone.
            model = set_integer(path.read_bytes(), "accuracy_level", 0) if plain else None
            if names:
                model = with_outputs(model or path.read_bytes(), names)
            capture = self._captures is not None and graph.file == GRAPH
            opts = options(threads, path, products=bundle.products, patterns=patterns)
            return open_session(path, on, opts, model, capture=capture)

        parts = bundle.graphs if kernels is None else graphs(self.config, windowed, halved)
        modules = [graph for graph in parts if graph.file == MTP]
        self._open_mtp: Callable[[], tuple[ort.InferenceSession, Graph]] | None = None
        if modules:
            self._open_mtp = lambda: (opened(modules[0]), modules[0])
        sessions = {graph.file: (opened(graph), graph) for graph in parts if graph.file != MTP}
        self.backend, self.same_bits = (
            "ONNX Runtime",
            SameBits("ONNX Runtime's operators compute this bundle"),
        )
        if kernels is not None:
            self.backend, self.same_bits = kernels.name, promise(operators, self.config)
        self.session, graph = sessions[GRAPH]
        self._encoder: EncoderSession | None = None
        self._decoder: DecoderSession | None = None
        if "encoder" in self.config.stacks:
            file = ENCODER if ENCODER in sessions else GRAPH
            self._encoder = EncoderSession(*sessions[file], self.config, self.dtype, self.device)
        if "decoder" in self.config.stacks:
            self._decoder = DecoderSession(self.session, graph, self.config, self.dtype, self.device)
            if self._captures is not None:
                self._decoder.options = capture_options(NOT_CAPTURED)

    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> OrtCache:
        """Return an empty cache for `batch` rows. If the model has an encoder, the encoder first reads the
        texts [B, S].
        """
        check_start(self.config, batch, encoder_ids)
        capacity = min(FIRST_CAPACITY, self.config.context)
        buffers = empty(
            self.kinds, batch, capacity, self.dtype, self.device, chunk=self.chunk, copied=not self.shared
        )
        if encoder_ids is not None:
            buffers.encoder_kv = self._read(encoder_ids, encoder_lengths)
        return OrtCache(np.zeros(batch, np.int64), buffers)

    def _read(self, encoder_ids: np.ndarray, encoder_lengths: np.ndarray | None) -> EncoderKV:
        """Encode texts [B, S], and return the keys and values that the decoder reads."""
        assert self._encoder is not None
        ids, lengths, _ = check_text(self.config, encoder_ids, encoder_lengths, None)
        shapes = self._encoder.shapes(ids)
        outputs = {
            port.name: zeros(shapes[port.name], np.dtype(port.dtype or self.dtype), self.device)
            for port in self._encoder.graph.outputs
        }
        self._encoder.run(ids, lengths, None, outputs)
        halves = (port.name for port in self._encoder.graph.outputs if port.dtype == "float16")
        if not all(is_finite(outputs[name].read()) for name in halves):
            raise too_large_error()
        on_device = DeviceBuffer(lengths.copy(), self.device)
        return EncoderKV(list(outputs.values()), on_device, np.arange(len(ids)))

    def predict(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, token_types: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the output of an encoder's head for ids [B, T], in float32. `ops.encoder.predict` defines
        its shape.
        """
        check_predict(self.config)
        assert self._encoder is not None
        ids, lengths, token_types = check_text(self.config, ids, lengths, token_types)
        if self.device != "cpu" or ids.size <= TOKENS_PER_RUN or self.config.sound_shape is not None:
            return self._predicted(ids, lengths, token_types)
        (shape,) = self._encoder.shapes(ids).values()
        predictions = np.zeros(shape, np.float32)
        for rows in runs(lengths):
            longest = max(1, lengths[rows].max())
            row_types = None if token_types is None else token_types[rows, :longest]
            part = self._predicted(ids[rows, :longest], lengths[rows], row_types)
            if part.ndim == 3:
                predictions[rows, :longest] = part
            else:
                predictions[rows] = part
        return predictions

    def _predicted(self, ids: np.ndarray, lengths: np.ndarray, token_types: np.ndarray | None) -> np.ndarray:
        """Compute the head's output for all rows in one run."""
        assert self._encoder is not None
        ((name, shape),) = self._encoder.shapes(ids).items()
        predictions = np.empty(shape, np.float32)
        self._encoder.run(ids, lengths, token_types, {name: DeviceBuffer(predictions, "cpu")})
        return predictions

    def inside(self, text: Text) -> dict[tuple[str, str], np.ndarray]:
        """Run the graphs on whole texts [B, T], and return the values inside the graphs that the argument
        `shown` of the engine names.
        """

        def empty_values(of: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
            shown = ((name, n) for (file, name), n in self._shown.items() if file == of)
            return {name: np.empty((*shape, n), self.dtype) for name, n in shown}

        tokens, values = text.tokens, dict[tuple[str, str], np.ndarray]()
        if self._encoder is not None:
            ids = tokens if text.encoder_ids is None else text.encoder_ids
            lengths = text.lengths if text.encoder_lengths is None else text.encoder_lengths
            file = self._encoder.graph.file
            read = empty_values(file, (len(ids), self.config.positions(ids.shape[1])))
            buffers = {name: DeviceBuffer(array, "cpu") for name, array in read.items()}
            self._encoder.run(ids, lengths, text.token_types, buffers)
            values |= {(file, name): array for name, array in read.items()}
        if self._decoder is None:
            return values
        past, every = np.zeros(len(tokens), np.int64), np.tile(np.arange(tokens.shape[1]), (len(tokens), 1))
        tokens, lengths, at = check_step(self.config, tokens, past, text.lengths, every)
        cache = self.start(len(tokens), text.encoder_ids, text.encoder_lengths)
        cache = self._with_room(cache, tokens.shape[1]).take()
        cache.make_room(past, tokens.shape[1])
        binding, read = self._decoder.bind(cache), empty_values(GRAPH, tokens.shape)
        for name, array in read.items():
            binding.io.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        step = self._arrays(tokens, past, lengths, at)
        with one_line(f"{self.model} can't be run"):
            self._decoder.run(binding, step, cache.window_lengths(past))
        return values | {(GRAPH, name): array for name, array in read.items()}

    def step(
        self,
        tokens: np.ndarray,
        cache: Cache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, OrtCache]:
        """Run the decoder on new tokens. Returns the float32 logits [B, P, N] at the positions `at`, and the
        cache with the new tokens.
        """
        if not isinstance(cache, OrtCache):
            raise foreign_cache_error(cache)
        past, last = cache.lengths, lengths is None and at is None
        tokens, lengths, at = check_step(self.config, tokens, past, lengths, at)
        if tokens.shape[1] == 1 and (last or (lengths.all() and at.shape[1] == 1)):
            steps, cache = self._decode(tokens, cache)
            return steps.logits.read().copy(), cache
        step = self._arrays(tokens, past, lengths, at)
        assert self._decoder is not None
        return step.logits, self._step(self._decoder, step, cache)

    def _arrays(
        self,
        tokens: np.ndarray,
        past: np.ndarray,
        lengths: np.ndarray,
        at: np.ndarray,
        hidden: np.ndarray | None = None,
    ) -> StepArrays:
        """Return a step's arrays, with new memory for its outputs."""
        logits = np.empty((*at.shape, self.config.embedding.vocabulary), np.float32)
        vectors = None
        if self._open_mtp is not None:
            vectors = np.empty((*tokens.shape, self.config.embedding.width), self.dtype)
        return StepArrays(tokens, past, lengths, at, logits, hidden, vectors)

    def _step(self, decoder: DecoderSession, step: StepArrays, cache: OrtCache) -> OrtCache:
        """Run a step and fill its arrays. Returns the cache with the step's tokens."""
        time = step.tokens.shape[1]
        buffers = self._with_room(cache, time).take()
        try:
            if self._in_chunks and time > self.chunk:

                def run(part: StepArrays) -> None:
                    nonlocal buffers
                    buffers = self._run(decoder, buffers, part)

                in_chunks(run, self.chunk, step)
            else:
                buffers = self._run(decoder, buffers, step)
        except ORT_ERRORS as error:
            raise run_error(self.model, error) from None
        return OrtCache(step.past + step.lengths, buffers)

    def step_with_hidden(
        self, tokens: np.ndarray, cache: Cache, at: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, OrtCache]:
        """Run the decoder on new tokens. Returns the logits, the vectors [B, T, D] of all tokens, and the
        cache.

        The model's module for drafts reads these vectors."""
        check_mtp(self.config)
        assert self._decoder is not None
        return self._with_hidden(self._decoder, tokens, cache, at)

    def _with_hidden(
        self,
        decoder: DecoderSession,
        tokens: np.ndarray,
        cache: Cache,
        at: np.ndarray | None,
        hidden: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, OrtCache]:
        if not isinstance(cache, OrtCache):
            raise foreign_cache_error(cache)
        tokens, lengths, at = check_step(self.config, tokens, cache.lengths, None, at)
        step = self._arrays(tokens, cache.lengths, lengths, at, hidden)
        assert step.hidden_out is not None
        cache = self._step(decoder, step, cache)
        return step.logits, step.hidden_out, cache

    def cross_attention(
        self, tokens: np.ndarray, cache: Cache, chosen: Sequence[tuple[int, int]]
    ) -> np.ndarray:
        """Return the weights of cross-attention over the text or sound that this engine's encoder read.

        `chosen` lists (layer, head). A graph doesn't output attention weights, so the specification in
        NumPy computes them with the bundle's weights.
        """
        if not isinstance(cache, OrtCache):
            raise foreign_cache_error(cache)
        specification = NumpyEngine(self.config, self._params())
        return specification.cross_attention(tokens, specification.reading(cache.encoder_kv()), chosen)

    def start_mtp(self) -> OrtCache:
        """Return an empty cache of one row for the model's module for drafts (MTP). Raises ConfigError if the
        model has no such module.
        """
        kinds = self._mtp_kinds(check_mtp(self.config))
        capacity = min(FIRST_CAPACITY, self.config.context)
        copied = not self.shared
        buffers = empty(kinds, 1, capacity, self.dtype, self.device, chunk=self.chunk, copied=copied)
        return OrtCache(np.zeros(1, np.int64), buffers)

    def step_mtp(
        self, tokens: np.ndarray, hidden: np.ndarray, cache: Cache
    ) -> tuple[np.ndarray, np.ndarray, OrtCache]:
        """Run the module for drafts on tokens [1, T] and the vectors `hidden` [1, T, D] of the preceding
        tokens.

        Returns the logits [1, 1, N] after the last token, the module's own vectors [1, T, D], and the
        module's cache with the new tokens.
        """
        return self._with_hidden(self._mtp, tokens, cache, None, np.ascontiguousarray(hidden, self.dtype))

    def _mtp_kinds(self, config: Decoder) -> tuple[CacheKind, ...]:
        return cache_kinds(config.mtp_decoder, windowed=self._windowed, half=self._half)

    @cached_property
    def _mtp(self) -> DecoderSession:
        """The session of the module for drafts, opened when a draft is first asked for."""
        assert self._open_mtp is not None
        session, graph = self._open_mtp()
        decoder = check_mtp(self.config).mtp_decoder
        return DecoderSession(session, graph, decoder, self.dtype, self.device)

    @property
    def gives_best(self) -> bool:
        return self._decoder is not None and self._decoder.gives_best

    def best(self, tokens: np.ndarray, cache: Cache, limit: int = 1) -> tuple[np.ndarray, OrtCache]:
        if not isinstance(cache, OrtCache):
            raise foreign_cache_error(cache)
        tokens, _, _ = check_step(self.config, tokens, cache.lengths, None, None)
        # A recurrence can't give back the steps that a text didn't need.
        count = 1 if recurrent(self.kinds) else min(limit, AHEAD, self.chunk)
        steps, cache = self._decode(tokens, cache, count)
        return steps.best(), cache

    def _decode(self, tokens: np.ndarray, cache: OrtCache, count: int = 1) -> tuple[DecodeSteps, OrtCache]:
        """Run `count` decode steps of one token per row, [B, 1]. Returns the steps and the cache. For a
        copied cache, `count` is 1.
        """
        assert self._decoder is not None
        past = cache.lengths
        cache = self._with_room(cache, count)
        buffers = cache.take()
        buffers.make_room(past, count)
        if buffers.decode_steps is None:
            buffers.decode_steps = self._decoder.decode_steps(buffers, self._captures)
            buffers.exchanged = False
        steps = buffers.decode_steps
        try:
            steps.run(tokens, past, buffers.window_lengths(past), int(buffers.exchanged), count)
        except ORT_ERRORS as error:
            raise run_error(self.model, error) from None
        return steps, OrtCache(past + count, buffers.swapped())

    def _with_room(self, cache: OrtCache, time: int) -> OrtCache:
        """Return the cache, grown if a row has no room for `time` more tokens."""
        need = max(cache.lengths.tolist()) + time  # NumPy's maximum takes longer for so few
        if need <= cache.capacity:
            return cache
        # Padding may reach past the context, where real tokens never do.
        return cache.grow(max(need, min(2 * cache.capacity, self.config.context)))

    def _run(self, decoder: DecoderSession, buffers: CacheBuffers, step: StepArrays) -> CacheBuffers:
        """Run one step with at most as many tokens as the buffers have room for. If possible, all rows run
        together."""
        batch, time = step.tokens.shape
        # A row that joins a batch is read while the others wait: for them there is nothing to compute.
        joins = batch > 1 and np.count_nonzero(step.lengths) == 1
        # GroupQueryAttention takes several tokens after a past of one row alone.
        alone = self.shared and batch > 1 and time > 1 and step.past.any()
        if joins or alone:
            buffers.make_room(step.past, step.lengths)
            self._run_rows(decoder, buffers, step)
            return buffers
        buffers.make_room(step.past, time)
        if buffers.bindings is None:
            buffers.bindings = decoder.bindings(buffers)
        decoder.run(buffers.bindings[0], step, buffers.window_lengths(step.past))
        return buffers.swapped()

    def _run_rows(self, decoder: DecoderSession, buffers: CacheBuffers, step: StepArrays) -> None:
        """Run a step with one row at a time."""
        tokens, past, lengths, at, logits, _, vectors = step
        for row, length in enumerate(lengths):
            if not length:
                logits[row] = 0  # a row without tokens has no logits; nothing may be left undefined
                continue
            one = slice(row, row + 1)
            # Positions in the padding are unspecified: the last real token stands for them.
            row_at = np.minimum(at[one], length - 1)
            row_vectors = None if vectors is None else vectors[one, :length]
            row_step = StepArrays(
                tokens[one, :length], past[one], lengths[one], row_at, logits[one], None, row_vectors
            )
            window_lengths = buffers.window_lengths(past)
            row_window_lengths = {window: count[one] for window, count in window_lengths.items()}
            decoder.run(decoder.bind(buffers, row), row_step, row_window_lengths)
            buffers.keep_row(row, int(past[row] + length))
