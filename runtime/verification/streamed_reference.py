"""The specification, run layer by layer: a leaf is loaded once, used by all runs, and dropped.

So no more than one layer is ever in memory in float64, whatever the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...refimpl.config import LM, Config, Decoder, DecoderReader, EncoderDecoder, MaskedLM, Stack
from ...refimpl.error_budget import moved
from ...refimpl.ops.block import Positions, block, encoder_block, normalize
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.encoder import layer_kv, predict, shift_right
from ...refimpl.ops.linear import linear
from ...refimpl.ops.model import embed, lm_logits, position_tables, score_biases
from ...refimpl.ops.position import Rotary
from ...refimpl.ops.quant import Blocks
from ...refimpl.params.tree import Tree, flatten, map_leaves, unflatten

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = ["Inputs", "Precision", "outputs"]

SEED = 2017
ROWS = 8192  # rows of an output table that are widened at a time


@dataclass(frozen=True)
class Inputs:
    """What a model is given: tokens [B, T] and how many of each row are real, [B].

    A decoder that reads an encoder has `encoder_ids` [B, S] and `encoder_lengths` [B] too, an encoder alone
    may have `token_types` [B, T].
    """

    tokens: Array
    lengths: Array
    encoder_ids: Array | None = None
    encoder_lengths: Array | None = None
    token_types: Array | None = None


@dataclass(frozen=True)
class Precision:
    """One way to run the specification: in `dtype`, the residual stream rounded to `stream`.

    `tries` more copies of the batch follow the first, their embedded tokens moved by `move` of
    themselves, up or down. `plain` takes activations as they are where blocks would round them.
    Rows don't see each other, so all copies share each weight's widening.
    """

    dtype: np.dtype
    stream: np.dtype | None = None
    tries: int = 0
    move: float = 0
    plain: bool = False

    def begin(self, x: Array) -> Array:
        rng = np.random.default_rng(SEED)
        return self.round(np.concatenate([x, *(moved(x, self.move, rng) for _ in range(self.tries))]))

    def copies(self, values: Array) -> Array:
        """The numbers of each row for all copies of the batch."""
        return np.tile(values, 1 + self.tries)

    def tree(self, leaves: Any) -> Any:
        """The leaves in this run's type."""
        return map_leaves(lambda _, leaf: self.weights(leaf), leaves)

    def round(self, x: Array) -> Array:
        return x if self.stream is None else x.astype(self.stream).astype(self.dtype)

    def weights(self, leaf: Array | Blocks) -> Array | Blocks:
        """The leaf in this run's type."""
        if not isinstance(leaf, Blocks):
            return leaf.astype(self.dtype)
        minimum = None if leaf.minimum is None else leaf.minimum.astype(self.dtype)
        activations = "none" if self.plain else leaf.activations
        scale = leaf.scale.astype(self.dtype)
        given = None if leaf.input_scale is None else leaf.input_scale.astype(self.dtype)
        return replace(leaf, scale=scale, minimum=minimum, activations=activations, input_scale=given)


def outputs(
    config: Config,
    params: Tree,
    given: Inputs,
    runs: list[Precision],
    seen: Callable[[str, Array | Blocks], None] = lambda name, leaf: None,
) -> list[Array]:
    """Logits of all positions [B, T, N], or what an encoder's head says, one array a run.

    Each leaf is loaded once and shown to `seen`.
    """
    walk = StreamedForward(config, params, runs, seen)
    if isinstance(config, Decoder):
        return walk.decode(given.tokens, [], given.lengths)
    if not isinstance(config.head, LM):
        states = walk.encode(given.tokens, given.lengths, given.token_types)
        return walk.predict(states, given.lengths)
    assert given.encoder_ids is not None
    assert given.encoder_lengths is not None
    states = walk.encode(given.encoder_ids, given.encoder_lengths, None)
    return walk.decode(given.tokens, states, given.encoder_lengths)


class StreamedForward:
    """One pass through the leaves of a tree for all runs."""

    def __init__(
        self, config: Config, params: Tree, runs: list[Precision], seen: Callable[[str, Any], None]
    ) -> None:
        self.config, self.params, self.runs, self._seen = config, params, runs, seen

    def encode(self, ids: Array, lengths: Array, types: Array | None) -> list[Array]:
        """The encoder's vectors, or those of what reads them for a head."""
        states = self._whole("encoder", ids, lengths, types)
        config = self.config
        reader = config.decoder if isinstance(config, EncoderDecoder) else None
        if not isinstance(reader, DecoderReader):
            return states
        return self._whole("reader", shift_right(ids, reader.start), lengths, None, states)

    def _whole(
        self, name: str, ids: Array, lengths: Array, types: Array | None, states: list[Array] | None = None
    ) -> list[Array]:
        """The vectors of a stack that sees whole texts."""
        stack, own = self.config.stacks[name], self.params[name]
        streams, added = self._enter(name, stack, ids, types)
        for i, layer in enumerate(stack.layers):
            leaves = self._load(own["layers"][i], f"{name}.layers.{i}.")
            for place, run in enumerate(self.runs):
                near, real = self._near(run, stack, added, ids.shape[1]), run.copies(lengths)
                tree = run.tree(leaves)
                read = None if states is None else layer_kv(states[place], real, tree, layer=layer)
                x = encoder_block(streams[place], real, near, tree, read, config=layer, causal=stack.causal)
                streams[place] = run.round(x)
        return self._last(name, stack, streams)

    def decode(self, tokens: Array, states: list[Array], lengths: Array) -> list[Float[Array, "B T N"]]:
        """Logits of a decoder that may read an encoder's vectors, of which `lengths` are real."""
        stack, own, head = self.config.stacks["decoder"], self.params["decoder"], self.config.head
        assert isinstance(head, LM)
        time = tokens.shape[1]
        streams, added = self._enter("decoder", stack, tokens, None)
        for i, layer in enumerate(stack.layers):
            leaves = self._load(own["layers"][i], f"decoder.layers.{i}.")
            for place, run in enumerate(self.runs):
                x, tree, read = streams[place], run.tree(leaves), None
                if layer.cross is not None:
                    read = layer_kv(states[place], run.copies(lengths), tree, layer=layer)
                near = self._near(run, stack, added, time)
                a = layer.attention
                empty = np.zeros((len(x), a.kv_heads, time, a.head_size), run.dtype)
                cache, past = KVCache(empty, empty), np.zeros(len(x), np.int64)
                x, _ = block(x, cache, past, near, tree, read, config=layer)
                streams[place] = run.round(x)
        streams = self._last("decoder", stack, streams)
        if self.config.embedding.projection is not None:
            back = self._load({"project": self.params["head"]["project"]}, "head.")["project"]
            turns = zip(streams, self.runs, strict=True)
            streams = [linear(x, run.weights(back)) for x, run in turns]
        return self._by_rows(
            streams, head.tied, head.bias, {}, lambda x, table, bias, _: lm_logits(x, table, bias, head=head)
        )

    def predict(self, states: list[Array], lengths: Array) -> list[Array]:
        """What the head says of an encoder's vectors."""
        head, config = self.config.head, self.config
        own = self.params.get("head", {})
        tree = self._load({name: own[name] for name in own if name not in ("table", "bias")}, "head.")

        def said(x: Array, table: Any, bias: Array | None, run: Precision) -> Array:
            head = {**run.tree(tree), "table": table, "bias": bias}
            whole: Any = {"embedding": {"table": table}, "head": head}
            return predict(x, run.copies(lengths), whole, config=config)

        if isinstance(head, MaskedLM):
            return self._by_rows(states, head.tied, head.bias, tree, said)
        turns = zip(states, self.runs, strict=True)
        return [said(x.astype(run.dtype), None, None, run).astype(np.float64) for x, run in turns]

    def _by_rows(
        self,
        streams: list[Array],
        tied: bool,
        biased: bool,
        tree: Any,
        said: Callable[[Array, Any, Array | None, Precision], Array],
    ) -> list[Array]:
        """Logits over an output table, of which a few rows at a time are widened."""
        table = self.params["embedding" if tied else "head"]["table"]
        bias = self.params["head"]["bias"] if biased else None
        for name, leaf in (("head.table", None if tied else table), ("head.bias", bias)):
            if leaf is not None:
                self._seen(name, leaf)
        made: list[list[Array]] = [[] for _ in self.runs]
        for start in range(0, self.config.embedding.vocabulary, ROWS):
            some = _rows(table, slice(start, start + ROWS))
            few = None if bias is None else bias[start : start + ROWS]
            for place, run in enumerate(self.runs):
                own = None if few is None else few.astype(run.dtype)
                made[place].append(said(streams[place].astype(run.dtype), run.weights(some), own, run))
        return [np.concatenate(parts, axis=-1).astype(np.float64) for parts in made]

    def _load(self, tree: Any, prefix: str) -> Any:
        found = dict(flatten(tree, prefix))
        for name, leaf in found.items():
            self._seen(name, leaf)
        return unflatten({name.removeprefix(prefix): leaf for name, leaf in found.items()})

    def _enter(self, name: str, stack: Stack, ids: Array, types: Array | None) -> tuple[list[Array], Any]:
        """What goes into the first layer, and the leaves that are added on the way."""
        own, e, mine = self.params[name], self.config.embedding, self.params["embedding"]
        table = mine["table"]
        if name == "encoder" or isinstance(self.config, Decoder):
            self._seen("embedding.table", table)
        wanted = [*(["token_types"] if name == "encoder" else []), "project", "project_bias"]
        rest = self._load({part: mine[part] for part in wanted if part in mine}, "embedding.")
        parts = ("positions", "first_norm", "relative_bias")
        added = self._load({part: own[part] for part in parts if part in own}, f"{name}.")
        if "token_types" in rest and types is None:
            types = np.zeros_like(ids)
        used, which = np.unique(ids, return_inverse=True)
        at, given, streams = np.arange(ids.shape[1])[None], which.reshape(ids.shape), []
        for run in self.runs:
            leaves = run.tree(rest | {"table": _rows(table, used)})
            x = embed(given, at, leaves, run.tree(added), types, config=e, stack=stack)
            streams.append(run.begin(x))
        return streams, added

    def _near(self, run: Precision, stack: Stack, added: Any, time: int) -> Positions:
        """Tables and biases of the positions 0 … time − 1."""
        at, both = np.arange(time), stack is self.config.stacks.get("encoder") and not stack.causal
        tables = position_tables(at, config=self.config)
        rotary = {
            rope: Rotary(cos.astype(run.dtype), sin.astype(run.dtype)) for rope, (cos, sin) in tables.items()
        }
        tree, dtype = run.tree(added), np.dtype(run.dtype)
        biases = score_biases(at[None], at, tree, dtype, stack=stack, bidirectional=both)
        return Positions(rotary, biases)

    def _last(self, name: str, stack: Stack, streams: list[Array]) -> list[Array]:
        own = self.params[name]
        norm = self._load(own["norm"], f"{name}.norm.") if "norm" in own else None
        return [normalize(x, norm, norm=stack.final_norm) for x in streams]


def _rows(table: Array | Blocks, index: Any) -> Array | Blocks:
    if not isinstance(table, Blocks):
        return table[index]
    pick = lambda a: None if a is None else a[index]  # noqa: E731
    return replace(
        table,
        codes=table.codes[index],
        scale=table.scale[index],
        zero=pick(table.zero),
        minimum=pick(table.minimum),
    )
