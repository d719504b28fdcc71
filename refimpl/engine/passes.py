"""Run a model over whole texts, in one pass or in several passes side by side that load each weight only
once.

    y = read(given(text, dtype, config=config), params, config=config)

Only `ops.model.model` and `ops.encoder.encode` define what a pass computes. To see or change a value inside a
pass, replace an op (`ops.dispatch.use`). To keep few weights in memory at a time, pass a lazy parameter tree.

Several passes go through the model side by side. Each value inside the model is then a group of arrays, one
for each pass, and an op runs once for each pass:

    pass 0   embed ──┐         ┌── block 0 ──┐         ┌── block 1 ──┐
    pass 1   embed ──┤ values  ├── block 0 ──┤ values  ├── block 1 ──┤ …
    pass 2   embed ──┘         └── block 0 ──┘         └── block 1 ──┘
             loads the          loads the              loads the
             tables             parameters of          parameters of
                                layer 0                layer 1

So each parameter is loaded only once, and memory contains only the parameters that one op needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from ..config import LM, Config, Layer
from ..ops.block import MixerCache
from ..ops.dispatch import OPS, use
from ..ops.encoder import encode, encoder_kv, pooled_lengths, predict
from ..ops.model import model
from ..ops.shared_attention import SharedKV
from ..params.lazy import Lazy
from ..params.parameter_shapes import ParameterShapes
from ..params.tree import like
from .cache_kinds import cache_kinds
from .numpy_engine import rotary_tables

# Called with how many layers have been computed, and how many there are.
OnLayer = Callable[[int, int], None]
# Called with the number of a pass, the index of a decoder's layer, and what the layer keeps of the text.
OnCache = Callable[[int, int, MixerCache], None]
# What `encode` and what `model` take beside weights, in their order; None where a pass doesn't call it.
Given = tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]


@dataclass(frozen=True)
class Text:
    """A batch of texts for a model: tokens [B, T], and the number of real tokens in each row [B].

    If the decoder reads an encoder, `encoder_ids` contains the encoder's ids [B, S], or frames of sounds [B,
    2·S, C], and `encoder_lengths` [B] their numbers. An encoder without a decoder may have `token_types` [B,
    T]. A speech encoder without a decoder reads samples [B, M], given as `encoder_ids`, instead of tokens.
    Then only the number of tokens counts: it is the number of positions of the sound.
    """

    tokens: Any
    lengths: Any
    encoder_ids: Any | None = None
    encoder_lengths: Any | None = None
    token_types: Any | None = None


def noise(config: Config, rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Return random frames or samples as the input of a speech model.

    The noise fills the model's fixed number of positions. If the model reads sounds of any length, it fills
    `count` positions.
    """
    assert config.stem is not None
    row = config.stem.row(config.text_context)
    sizes = (config.stem.least(count) if isinstance(size, str) else size for size in row)
    return rng.normal(size=(rows, *sizes))


def given(text: Text, dtype: np.dtype, *, config: Config, half: bool = False) -> Given:
    """Prepare the arguments for running a model on a text, with empty caches. The model computes in `dtype`.

    With `half`, the caches are float16.
    """
    encoder = decoder = None
    batch, time = text.tokens.shape
    cache = [kind.empty(batch, time, dtype) for kind in cache_kinds(config, half=half)]
    if "encoder" in config.stacks:
        ids = text.tokens if text.encoder_ids is None else text.encoder_ids
        lengths = text.lengths if text.encoder_lengths is None else text.encoder_lengths
        ids = ids if config.sound_shape is None else ids.astype(dtype)
        rotary = rotary_tables(config.positions(ids.shape[1]), dtype, config=config)
        encoder = ids, lengths, rotary, text.token_types, cache
    if isinstance(config.head, LM):
        at, past = np.tile(np.arange(time), (batch, 1)), np.zeros(batch, np.int64)
        decoder = text.tokens, past, at, rotary_tables(time, dtype, config=config), cache
    return encoder, decoder


def read(given: Given, params: Any, *, config: Config) -> Any:
    """Run a model on prepared arguments; return the logits at all positions [B, T, N], or an encoder head's
    output.
    """
    (encoder, decoder), read_by_layers = given, None
    if encoder is not None:
        tokens, lengths, rotary, token_types, cache = encoder
        states = encode(tokens, lengths, rotary, params, token_types, cache, config=config)
        if decoder is None:
            lengths = pooled_lengths(tokens, lengths, head=config.head)
            return predict(states, lengths, params, config=config)
        read_by_layers = encoder_kv(states, lengths, params, config=config)
    assert decoder is not None
    tokens, past, at, rotary, cache = decoder
    return model(tokens, past, at, rotary, cache, params, read_by_layers, config=config)[0]


@dataclass(frozen=True)
class Pass:
    """One of several passes: its inputs, a function that returns what the pass reads as the parameter of this
    name, and the context manager in which its ops run.
    """

    given: Given
    leaf: Callable[[str], Any]
    inside: Callable[[], AbstractContextManager[None]]


class SideBySide:
    """Runs several passes of one model side by side, so that each weight is loaded only once.

    `each` calls a function with the number of each pass, and returns the results in the order of the
    passes.
    """

    def __init__(self, config: Config, each: Callable[[Callable[[int], Any], range], list[Any]]) -> None:
        self.config = config
        self._each = each
        self._loaded: dict[str, Any] = {}
        self._loading = Lock()

    def once(self, name: str, load: Callable[[], Any]) -> Any:
        """Return the result of `load`, which is called once for each op. Further passes of the op reuse the
        result.
        """
        with self._loading, use({}):  # who loads may compute with NumPy
            if name not in self._loaded:
                self._loaded[name] = load()
            return self._loaded[name]

    def run(
        self,
        passes: Sequence[Pass],
        on_layer: OnLayer = lambda done, total: None,
        on_cache: OnCache = lambda number, layer, cache: None,
    ) -> list[Any]:
        """Run all passes and return the result of `read` for each pass."""
        *_, last = stacks = [*self.config.stacks.values()]
        total, done = sum(len(stack.layers) for stack in stacks), 0

        def layer_done() -> None:
            nonlocal done
            done += 1
            with use({}):
                on_layer(done, total)

        def block(*args: Any, config: Layer) -> tuple[Any, Any, Any]:
            y, cache, passed = self._in_each(passes, "block", *args, config=config)
            layer, own = done - total + len(last.layers), SharedKV() if config.kv_layer is not None else cache
            with use({}):
                for i, one in enumerate(passes):
                    on_cache(i, layer, _part(own, i, one.leaf))
            layer_done()
            return y, cache if layer in last.shared_kv else SharedKV(), passed  # which no other layer reads

        def encoder_block(*args: Any, **settings: Any) -> Any:
            y = self._in_each(passes, "encoder_block", *args, **settings)
            layer_done()
            return y

        whole = {"model", "encode", "encoder_kv"}  # which only hand values from op to op
        later = partial(partial, OPS["layer_kv"])  # the keys of all layers would be too many to keep
        table: dict[str, Any] = {name: partial(self._in_each, passes, name) for name in OPS.keys() - whole}
        table |= {"block": block, "encoder_block": encoder_block, "layer_kv": later}
        params = ParameterShapes(self.config).lazily(_Name)
        with use(table):
            y = read(_together([one.given for one in passes]), params, config=self.config)
        return y.of

    def _in_each(self, passes: Sequence[Pass], name: str, /, *args: Any, **settings: Any) -> Any:
        """Run the op with this name in each pass, and return the group of results."""

        def in_one(i: int) -> Any:
            with use({}), passes[i].inside():
                own, named = _part((args, settings), i, passes[i].leaf)
                return OPS[name](*own, **named)

        results = self._each(in_one, range(len(passes)))
        self._loaded.clear()
        return _together(results)


class _Name(str):
    """The name of a parameter, used as a placeholder until the parameter is loaded."""


class _Values:
    """One value for each pass. Its attributes, items and sums are again one value for each pass."""

    def __init__(self, of: list[Any]) -> None:
        self.of = of

    def __getattr__(self, name: str) -> Any:
        return _together([getattr(one, name) for one in self.of])

    def __getitem__(self, index: Any) -> Any:
        return _together([one[index] for one in self.of])

    def __add__(self, other: _Values) -> Any:
        return _together([one + more for one, more in zip(self.of, other.of, strict=True)])


def _together(results: Sequence[Any]) -> Any:
    """Combine the results of all passes into one result whose arrays are `_Values`."""
    first = results[0]
    if isinstance(first, tuple | list):
        kind = first if hasattr(first, "_fields") or isinstance(first, list) else ()  # also of a shape
        return like(kind, map(_together, zip(*results, strict=True)))
    if isinstance(first, dict):
        return {key: _together([one[key] for one in results]) for key in first}
    return None if first is None else _Values(list(results))


def _part(value: Any, number: int, leaf: Callable[[str], Any]) -> Any:
    """Return one pass's part of a value. `leaf` loads the weights that the value names."""
    match value:
        case _Values():
            return value.of[number]
        case _Name():
            return leaf(value)
        case Lazy():
            return value.loaded_by(leaf)
        case partial():
            return value.func(*(_part(one, number, leaf) for one in value.args), **value.keywords)
        case tuple() | list():
            return like(value, (_part(one, number, leaf) for one in value))
        case dict():
            return {key: _part(one, number, leaf) for key, one in value.items()}
        case _:
            return value
