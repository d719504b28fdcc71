"""Compute the specification's outputs in several precisions, loading each parameter only once for all runs.

Of the embedding tables, only the rows for the text's tokens stay in memory. So whatever the size of the
model, memory never contains more than one layer, with one of the layer's parameters also in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...refimpl.config import LM, Config
from ...refimpl.engine.cache_kinds import Halved
from ...refimpl.engine.passes import OnLayer, Pass, SideBySide, given
from ...refimpl.engine.passes import Text as Inputs
from ...refimpl.error_budget import CODE_MOVE, moved
from ...refimpl.ops import altup, encoder, model
from ...refimpl.ops import block as blocks
from ...refimpl.ops import embedding as embeddings
from ...refimpl.ops import head as heads
from ...refimpl.ops.activation import sigmoid
from ...refimpl.ops.block import MixerCache
from ...refimpl.ops.cross_attention import EncoderKV
from ...refimpl.ops.dispatch import body, use
from ...refimpl.ops.quant import Blocks, quantize_activations, quantize_rows
from ...refimpl.params.tree import Tree, leaf_of
from ..kernels.specification.ops import HALVED
from ..parallel import in_threads

if TYPE_CHECKING:
    from numpy import ndarray as Array

    Leaf = Array | Blocks
    OnLeaf = Callable[[str, Leaf], None]
    OnCache = Callable[[int, MixerCache | EncoderKV], None]
    # Called with the number of a run, a layer, and what the layer gives.
    OnBlock = Callable[[int, "Place", Array], None]

__all__ = ["SEED", "Inputs", "Place", "Precision", "outputs"]

# A layer: its stack and its number there. The number behind the last layer's is the stack's end.
Place = tuple[str, int]

SEED = 2017
ROWS = 8192  # rows of an output table that are converted at a time
TIE = 127 * CODE_MOVE  # of a scale: what moves the largest code so far may move any code of its row
COARSE = 2.0**-23  # of ONNX Runtime's Sigmoid: 1.7e-7 was measured at most, 1.4e-7 where the sigmoid is 1e-7
TABLES = ("embedding.table", "encoder_embedding.table", "embedding.per_layer.table", "head.table")


@dataclass(frozen=True)
class Precision:
    """One run of the specification. The run computes in `dtype`, and rounds the residual stream to the type
    `stream` after each layer.

    The run also computes `tries` perturbed copies of the batch. In a copy, each number of the embeddings is
    multiplied by 1 + `move` or 1 − `move`, at random. All copies share the converted weights, because rows
    don't depend on each other. `plain` keeps activations unrounded where blocks would round them to codes.
    `disturbed` names an error that the run makes on purpose (`DISTURBED`): codes next to a tie are rounded
    the other way, or sigmoids are off by as much as ONNX Runtime's. `halved` says which keys and values are
    rounded to float16. If these are too large for float16, the outputs can't be used for a
    comparison.
    """

    dtype: np.dtype
    stream: np.dtype | None = None
    tries: int = 0
    move: float = 0
    plain: bool = False
    disturbed: str | None = None
    halved: Halved = ""

    def repeat(self, inputs: Inputs) -> Inputs:
        """Return the inputs of the batch, followed by the same inputs once for each perturbed copy."""
        arrays = (getattr(inputs, field.name) for field in fields(inputs))
        times = 1 + self.tries
        return Inputs(*(None if a is None else np.tile(a, (times,) + (1,) * (a.ndim - 1)) for a in arrays))

    def copies(self, x: Array) -> Array:
        """Return the vectors of the batch, followed by the perturbed vectors of each copy."""
        rng = np.random.default_rng(SEED)
        return np.concatenate([x, *(moved(x, self.move, rng) for _ in range(self.tries))])

    def round(self, x: Array) -> Array:
        """Return the vectors rounded to the type of the residual stream."""
        return x if self.stream is None else x.astype(self.stream).astype(self.dtype)

    def cast(self, leaf: Leaf) -> Leaf:
        """Return a parameter in this run's type. With `plain`, products with the parameter don't round their
        inputs.
        """
        if not isinstance(leaf, Blocks):
            return leaf.astype(self.dtype, copy=False)
        names = ("scale", "minimum", "input_scale", "output_scale")
        arrays = ((name, x) for name in names if (x := getattr(leaf, name)) is not None)
        floats = {name: x.astype(self.dtype, copy=False) for name, x in arrays}
        return replace(leaf, **floats, activations="none" if self.plain else leaf.activations)


def outputs(
    config: Config,
    params: Tree,
    inputs: Inputs,
    runs: list[Precision],
    on_leaf: OnLeaf = lambda name, leaf: None,
    on_layer: OnLayer = lambda done, total: None,
    on_cache: OnCache = lambda layer, cache: None,
    on_block: OnBlock = lambda run, layer, y: None,
    reads: Mapping[Place, Array] = MappingProxyType({}),
) -> list[Array]:
    """Return one array for each run: logits of all positions [B, T, N], or the output of an encoder's head.

    Parameters are loaded in the order of their use. The callbacks are:

    - `on_leaf` is called once for each parameter, with its name and value.
    - `on_layer` is called with the number of layers computed so far, and the number of all layers.
    - `on_cache` is called with the cache of each layer of a decoder in the first run, and with the encoder's
      keys and values that the layer reads.
    - `on_block` is called with the output of each layer, in each run.

    `reads` maps places to vectors [B, T, D]. A layer in `reads` reads these vectors instead of the output of
    the layer before it. If the end of a stack is in `reads`, the code after the stack reads these vectors
    too.
    """
    together, observed = SideBySide(config, in_threads), set[str]()

    def load(name: str) -> Leaf:
        leaf = leaf_of(params, name)
        if name not in observed:
            observed.add(name)
            on_leaf(name, leaf)
        return leaf

    def once(name: str, rows: Array | None = None) -> Leaf:
        return together.once(name, lambda: load(name) if rows is None else _rows(load(name), rows))

    def one_pass(i: int, run: Precision) -> Pass:
        taken = given(run.repeat(inputs), run.dtype, config=config, half=bool(run.halved))
        table = _replaced(config, run, once, partial(on_block, i), reads)
        if i == 0:
            table |= _observed(on_cache)
        return Pass(taken, lambda name: name if name in TABLES else run.cast(once(name)), lambda: use(table))

    passes = [one_pass(i, run) for i, run in enumerate(runs)]
    results = together.run(passes, on_layer, lambda i, *kept: on_cache(*kept) if i == 0 else None)
    return [y.astype(np.float64, copy=False) for y in results]


def _replaced(
    config: Config,
    run: Precision,
    once: Callable[..., Leaf],
    on_block: Callable[[Place, Array], None],
    reads: Mapping[Place, Array],
) -> dict[str, Callable[..., Any]]:
    """Return the functions that replace ops of the specification in one run, by the name of the op.

    They read only some rows of a table, let a layer read other vectors (`reads`), or perturb and round the
    residual stream."""
    layers = ((name, i) for name, stack in config.stacks.items() for i in range(len(stack.layers)))

    def embed(tokens: Array, at: Array, *weights: Any, **settings: Any) -> Array:
        rows = len(tokens) // (1 + run.tries)
        own = (None if one is None else one[:rows] for one in weights[2:])  # types of tokens
        x = body(model.embed)(tokens[:rows], at[:rows], *weights[:2], *own, **settings)
        return run.round(run.copies(x))

    def read(place: Place, x: Array) -> Array:
        return run.copies(reads[place].astype(run.dtype)) if place in reads else x

    def rounded(function: Callable[..., Array]) -> Callable[..., Array]:
        return lambda *arguments, **settings: run.round(body(function)(*arguments, **settings))

    def block(x: Array, *arguments: Any, **settings: Any) -> tuple[Array, MixerCache, blocks.Passed]:
        name, i = layer = next(layers)
        # What is too large for float16 gives infinity here, and then nothing that anybody compares.
        with np.errstate(all="ignore" if run.halved else None):
            y, cache, passed = body(blocks.block)(read(layer, x), *arguments, **settings)
        on_block(layer, y)
        y = np.where(np.isfinite(y), y, 0) if run.halved else run.round(y)
        return read((name, i + 1), y), cache, passed

    def encoder_block(x: Array, lengths: Array, *arguments: Any, **settings: Any) -> Array:
        name, i = layer = next(layers)
        x = read(layer, x)
        # All copies of a sound's 1,500 positions at once would take gigabytes.
        size = max(len(x), 1) if config.sound_shape is None else 1
        rows = (slice(start, start + size) for start in range(0, len(x), size))
        parts = [body(blocks.encoder_block)(x[r], lengths[r], *arguments, **settings) for r in rows]
        y = np.concatenate(parts)
        on_block(layer, y)
        return read((name, i + 1), run.round(y))

    def embedding(tokens: Array, table: Any) -> Array:
        if isinstance(table, str):
            used, index = np.unique(tokens, return_inverse=True)
            tokens, table = index.reshape(tokens.shape), run.cast(once(table, used))
        return body(embeddings.embedding)(tokens, table)

    def by_rows(product: Callable[[Leaf, slice], Array], table: str) -> Array:
        """Return logits. `product` computes them for some rows of the table, which are converted to the run's
        type a few rows at a time.
        """
        whole = once(table)
        parts = (slice(start, start + ROWS) for start in range(0, whole.shape[0], ROWS))
        return np.concatenate([product(run.cast(_rows(whole, part)), part) for part in parts], axis=-1)

    def unembedding(x: Array, table: Any) -> Array:
        product = partial(body(embeddings.unembedding), x)
        return by_rows(lambda rows, _: product(rows), table) if isinstance(table, str) else product(table)

    def lm_logits(x: Array, table: str, bias: Array | None, *, head: LM) -> Array:
        def product(rows: Leaf, part: slice) -> Array:
            return body(heads.lm_logits)(x, rows, None if bias is None else bias[part], head=head)

        return by_rows(product, table)

    own = (embed, block, encoder_block, embedding, unembedding, lm_logits)
    changed = {function.__name__: function for function in own}
    changed |= HALVED if run.halved == "all" else {}
    changed |= DISTURBED[run.disturbed] if run.disturbed else {}
    return changed | {"enter_streams": rounded(altup.enter_streams)}


def _observed(on_cache: OnCache) -> dict[str, Callable[..., Any]]:
    """Return the op that makes an encoder's keys and values for a layer and passes them to `on_cache`."""
    layers = count()

    def layer_kv(*arguments: Any, **settings: Any) -> EncoderKV:
        read = body(encoder.layer_kv)(*arguments, **settings)
        on_cache(next(layers), read)
        return read

    return {encoder.layer_kv.__name__: layer_kv}


def _ties_turned(some: slice) -> dict[str, Callable[..., Any]]:
    """Return ops that compute codes. In some columns, numbers next to a tie are rounded the other way, to the
    second nearest code.
    """

    def rows(x: Array) -> tuple[Array, Array]:
        codes, scale = body(quantize_rows)(x)
        return turned(codes, x / scale), scale

    def blocks(x: Array, *, block: int) -> tuple[Array, Array]:
        codes, scale = body(quantize_activations)(x, block=block)
        each = np.repeat(np.where(scale == 0, 1, scale), block, axis=1)
        return turned(codes, x / each[:, : x.shape[1]]), scale

    def turned(codes: Array, steps: Array) -> Array:
        off, moved = (steps - codes)[:, some], codes.copy()
        moved[:, some] += np.where(np.abs(off) > 0.5 - TIE, np.sign(off), 0).astype(codes.dtype)
        return moved

    return {quantize_rows.__name__: rows, quantize_activations.__name__: blocks}


def _coarse_sigmoid(x: Array) -> Array:
    """Return `sigmoid`, with errors that are positive and negative in turn. A norm would remove an error that
    is the same in all numbers.
    """
    return body(sigmoid)(x) + (COARSE * (-1.0) ** np.arange(x.shape[-1])).astype(x.dtype)


# Each has runs of its own: a sigmoid that is off may move a number over a tie, and a code that is turned then
# is the undisturbed one again. Codes are turned all together and by halves: a turned code may cancel what
# another one does, and moves later numbers to other codes. Graphs compute `precise_sigmoid` precisely.
DISTURBED: dict[str, dict[str, Callable[..., Any]]] = {
    "codes": _ties_turned(np.s_[:]),
    "even codes": _ties_turned(np.s_[::2]),
    "odd codes": _ties_turned(np.s_[1::2]),
    "sigmoids": {"sigmoid": _coarse_sigmoid, "precise_sigmoid": body(sigmoid)},
}


def _rows(table: Leaf, index: Array | slice) -> Leaf:
    """Return some rows of a table."""
    if not isinstance(table, Blocks):
        return table[index]
    names = ("codes", "scale", "zero", "minimum")
    return replace(table, **{n: x[index] for n in names if (x := getattr(table, n)) is not None})
