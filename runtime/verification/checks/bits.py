"""Check that tfm's own kernels compute the bundle exactly as `runtime.kernels.specification`, to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from ....refimpl.config import LM, Config, Decoder, EncoderDecoder
from ....refimpl.engine.cache_kinds import CacheKind
from ....refimpl.engine.numpy_engine import ArrayCache
from ....refimpl.engine.passes import noise
from ....refimpl.ops.quantized_cache import unpack_nibbles
from ...kernels.specification import KernelReference
from ..report import NOT_REACHED, Row
from ..streamed_reference import SEED
from .context import VerifyContext

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from ...ort.engine import OrtEngine
    from ...ort.kv_cache import OrtCache

EQUAL = "equal to the bit"
# Tokens of each row, and the chunks in which kernels read them: those in brackets the specification reads at
# once. Two rows are begun together and go on alone, or together by one token; the chunks of a text end within
# blocks of 64 keys and segments of 512.
ROWS, IN_ROWS = (34, 30), ((21, 1, 12),)
TEXT, IN_TEXT = (600,), ((1,), (63,), (65,), (130,), (7,))
PAST = 600  # tokens whose keys and values are drawn: more than a segment


def quick_rows(context: VerifyContext, engines: Mapping[str, OrtEngine]) -> Iterator[Row]:
    """Check quickly that the kernels' outputs have exactly the specified bits.

    Of a model that writes text, two sets of logits are compared: the logits over 64 tokens, and the logits of
    one token after 600 earlier tokens with random keys and values. Of an encoder, the outputs over 64 tokens
    are compared. The names of an engine's rows begin with the engine's key in `engines`.
    """
    if not _generates(context):
        yield from _encoder_rows(context, engines, ROWS)
        return
    reference = _reference(context)
    yield from _over_tokens(context, engines, reference, ROWS, IN_ROWS)
    past = min(PAST, context.bundle.config.context - 1)
    if isinstance(context.bundle.config, Decoder) and past and not context.out_of_time():
        yield from _after_drawn(engines, reference, past)


def _encoder_rows(
    context: VerifyContext, engines: Mapping[str, OrtEngine], rows: Sequence[int]
) -> Iterator[Row]:
    """Check that the outputs of an encoder's head have exactly the specified bits.

    The encoder reads texts or sounds with these numbers of tokens or frames. If its context is shorter, it
    reads as many as the context has. The outputs at all positions are compared. The names of an engine's rows
    begin with the engine's key in `engines`.
    """
    config = context.bundle.config
    ids, lengths = _drawn_inputs(config, rows)
    expected = _reference(context).predict(ids, lengths)
    real, count = np.arange(lengths.max()) < lengths[:, None], int(lengths.sum())
    for name, engine in engines.items():
        outputs = engine.predict(ids, lengths)
        other = (_bits(outputs) != _bits(expected)).any(-1)
        away = float(np.abs(outputs - expected)[other].max(initial=0))
        equal = int((real & ~other.reshape(len(ids), -1)).sum())  # of a whole text all tokens, or none
        note = f"by up to {away:.2g}" if equal < count else ""
        row = f"{name}: {EQUAL} over {count} tokens"
        yield Row(row, equal, unit="tokens", ok=equal == count, note=note, of=count)


def _generates(context: VerifyContext) -> bool:
    return isinstance(context.bundle.config.head, LM)


def _drawn_texts(config: Config, rows: Sequence[int]) -> tuple[Array, Array]:
    """Return random tokens [B, T], and the number of real tokens in each row [B]."""
    lengths = np.minimum(rows, config.context)
    shape = len(lengths), lengths.max()
    return np.random.default_rng(SEED).integers(0, config.embedding.vocabulary, shape), lengths


def _drawn_inputs(config: Config, rows: Sequence[int]) -> tuple[Array, Array]:
    """Return random texts or sounds for an encoder, and the number of real positions in each row [B]."""
    if config.stem is None:
        return _drawn_texts(config, rows)
    sounds = noise(config, np.random.default_rng(SEED), len(rows), min(rows[0], config.context))
    return sounds, np.full(len(rows), config.positions(sounds.shape[1]))


def _begun(engine: OrtEngine | KernelReference, rows: Sequence[int]) -> Any:
    """Return an engine's empty cache for these rows. If the model has an encoder, the encoder first reads
    random inputs with the rows' lengths in reverse order.
    """
    if not isinstance(engine.config, EncoderDecoder):
        return engine.start(len(rows))
    ids, lengths = _drawn_inputs(engine.config, rows)
    return engine.start(len(rows), ids, lengths[::-1])


def text_rows(context: VerifyContext, engines: Mapping[str, OrtEngine]) -> Iterator[Row]:
    """Check that the outputs over 600 tokens have exactly the specified bits. If the model's context is
    shorter, check as many tokens as the context has.
    """
    if not _generates(context):
        yield from _encoder_rows(context, engines, TEXT)
        return
    yield from _over_tokens(context, engines, _reference(context), TEXT, IN_TEXT)


def _reference(context: VerifyContext) -> KernelReference:
    bundle = context.bundle
    return KernelReference(bundle.config, bundle.params(), halved=bundle.manifest.halved)


@dataclass
class _Reading:
    """The comparison of one engine's logits with the specified ones, while the engine reads tokens.

    `others` counts the tokens with other bits. `away` is the largest difference. `first` says where the first
    difference is.
    """

    engine: OrtEngine
    cache: OrtCache
    others: int = 0
    away: float = 0
    first: str = ""

    def read(self, tokens: Array, lengths: Array, chunks: Sequence[int]) -> Array:
        """Read tokens [B, T] in chunks of these lengths, and return their logits [B, T, N]. `lengths` [B] are
        the numbers of real tokens.
        """
        parts, start = [], 0
        for size in chunks:
            part = tokens[:, start : start + size]
            if part.size:
                real = np.clip(lengths - start, 0, part.shape[1])
                logits, self.cache = self.engine.step(part, self.cache, real, _every(part))
                parts.append(logits)
                start += size
        return np.concatenate(parts, axis=1)

    def compare(
        self,
        logits: Array,
        expected: Array,
        lengths: Array,
        past: int,
        reference: KernelReference,
        kept: ArrayCache,
    ) -> None:
        """Count the tokens with logits [B, T, N] that have other bits than specified. `past` is the number of
        tokens before these.
        """
        real = np.arange(logits.shape[1]) < lengths[:, None]
        other = (_bits(logits) != _bits(expected)).any(-1) & real
        if not other.any():
            return
        if not self.others:
            row, token = np.argwhere(other)[0].tolist()
            text = f" of text {row + 1}" if len(lengths) > 1 else ""
            self.first = f"first at token {past + token}{text}; {self._first_layer(reference, kept, row)}"
        self.others += int(other.sum())
        self.away = max(self.away, float(np.abs(logits - expected)[other].max()))

    def _first_layer(self, reference: KernelReference, kept: ArrayCache, row: int) -> str:
        """Return a text that names the first layer with other keys, values or states than specified in this
        row of the cache.
        """
        dropped, arrays = self.cache.copy(row).content()
        found, length = iter(arrays), int(kept.lengths[row])
        for i, (kind, layer, scales) in enumerate(
            zip(kept.kinds, kept.layers, _scales(reference), strict=True)
        ):
            of = len(kind.arrays)
            specified = kind.empty(1, length, np.dtype(np.float32))[:of] if of else []
            kind.copy_row(layer[:of], row, specified, 0, length)
            window = self.engine.kinds[i].window
            for array, expected, scale in zip(kind.arrays, specified, scales, strict=True):
                if window is not None:
                    expected = expected[:, :, dropped[window] :]
                if not np.array_equal(_as_read(next(found), scale), expected):
                    return f"layer {i} is the first that keeps another {array.name}"
        return (
            "the caches of all layers are equal, so the first difference comes after the last layer's cache"
        )

    def row(self, name: str, count: int, missing: str = "") -> Row:
        """Return the report's row with the result over `count` tokens."""
        note = f"{self.first}; by up to {self.away:.2g} logits" if self.others else ""
        ok = False if self.others else None if missing else True
        return Row(name, count - self.others, unit="tokens", ok=ok, note=note, of=count, missing=missing)


def _over_tokens(
    context: VerifyContext,
    engines: Mapping[str, OrtEngine],
    reference: KernelReference,
    rows: Sequence[int],
    pieces: Sequence[Sequence[int]],
) -> Iterator[Row]:
    """Compare the logits of random tokens, and yield a row for each engine.

    The elements of `pieces` are used in turn until all tokens are read. The specification reads the tokens of
    one element at once. The engines read the same tokens in chunks with the lengths in this element.
    """
    ids, lengths = _drawn_texts(context.bundle.config, rows)
    readings = {name: _Reading(engine, _begun(engine, rows)) for name, engine in engines.items()}
    cache, start, total = _begun(reference, rows), 0, ids.shape[1]
    for chunks in cycle(pieces):
        if start >= total or context.is_over(start, total):
            break
        part = ids[:, start : start + sum(chunks)]
        real = np.clip(lengths - start, 0, part.shape[1])
        expected, cache = reference.step(part, cache, real, _every(part))
        for one in readings.values():
            one.compare(one.read(part, real, chunks), expected, real, start, reference, cache)
        start += part.shape[1]
    count, all_of_them = int(np.minimum(lengths, start).sum()), int(lengths.sum())
    for name, one in readings.items():
        if not count:
            yield Row(f"{name}: {EQUAL}", missing=NOT_REACHED)
        else:
            yield one.row(
                f"{name}: {EQUAL} over {count} tokens", count, "" if count == all_of_them else NOT_REACHED
            )


def _every(tokens: Array) -> Array:
    """Return the indices of all positions in a step [B, T]."""
    return np.tile(np.arange(tokens.shape[1]), (len(tokens), 1))


def _after_drawn(engines: Mapping[str, OrtEngine], reference: KernelReference, past: int) -> Iterator[Row]:
    """Compare the logits of one token after `past` earlier tokens with random keys and values, or random
    states. Yield a row for each engine.
    """
    rng = np.random.default_rng(SEED)
    drawn = [_drawn(kind, past, rng) for kind in reference.kinds]
    layers = [
        kind.value([_as_read(array, scale) for array, scale in zip(arrays, scales, strict=True)])
        for kind, arrays, scales in zip(reference.kinds, drawn, _scales(reference), strict=True)
    ]
    cache = ArrayCache(reference.kinds, np.array([past]), past, layers)
    token, one = np.array([[1]]), np.array([1])
    expected, cache = reference.step(token, cache)
    for name, engine in engines.items():
        reading = _Reading(engine, _filled(engine, past, drawn))
        reading.compare(reading.read(token, one, [1]), expected, one, past, reference, cache)
        yield reading.row(f"{name}: {EQUAL} after {past} drawn tokens", 1)


def _drawn(kind: CacheKind, past: int, rng: np.random.Generator) -> list[Array]:
    """Return random arrays for the cache of one layer after `past` tokens."""

    def array(shape: tuple[int, ...], dtype: np.dtype) -> Array:
        if dtype.kind in "iu":
            return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        return rng.standard_normal(shape, np.float32).astype(dtype)

    return [*map(array, kind.shapes(1, past), kind.dtypes(np.dtype(np.float32)))]


def _scales(reference: KernelReference) -> Iterator[Sequence[Array | None]]:
    """Yield for each layer the scales of each array of the layer's cache. A scale is None for an array
    without codes.
    """
    for layer, kind in zip(reference.params["decoder"]["layers"], reference.kinds, strict=True):
        leaves: Any = layer["attn"]
        names = ("k_scale", "v_scale") if kind.has_codes else (None,) * len(kind.arrays)
        yield [None if name is None else leaves[name] for name in names]


def _as_read(array: Array, scale: Array | None) -> Array:
    """Return keys or values [1, G, L, K] as the specification stores them: codes times their scale. Without a
    scale, return the array itself.
    """
    if scale is None:
        return array
    codes = unpack_nibbles(array) if array.dtype == np.uint8 else array
    return codes.astype(scale.dtype) * scale[:, None]


def _filled(engine: OrtEngine, past: int, drawn: list[list[Array]]) -> OrtCache:
    """Return an engine's cache after `past` tokens, filled with random arrays. Layers with a window get only
    the latest tokens.
    """
    arrays, dropped = [], {}
    for kind, layer in zip(engine.kinds, drawn, strict=True):
        if kind.window is None:
            arrays += layer
        else:
            dropped[kind.window] = max(0, past - kind.retained)
            arrays += [array[:, :, dropped[kind.window] :] for array in layer]
    return engine.start(1).grow(past + 1).filled(past, dropped, arrays)


def _bits(outputs: Array) -> Array:
    return np.ascontiguousarray(outputs, np.float32).view(np.int32)
