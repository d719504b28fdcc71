"""The specification's outputs, layer by layer: each leaf is loaded once, used by all runs, and dropped.
Of the embedding's tables the rows of the text's tokens stay.

So no more than one layer is ever in memory in float64, whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ...refimpl.config import LM, Config, Decoder, MaskedLM
from ...refimpl.engine.stack_walk import StackWalk
from ...refimpl.error_budget import moved
from ...refimpl.ops.adaptive_softmax import adaptive_log_probs
from ...refimpl.ops.block import BlockWeights, MixerCache
from ...refimpl.ops.encoder import predict
from ...refimpl.ops.linear import linear
from ...refimpl.ops.model import (
    EmbeddingWeights,
    HeadWeights,
    ModelWeights,
    StackWeights,
    head_dense,
    lm_logits,
)
from ...refimpl.ops.quant import Blocks
from ...refimpl.params.shapes import ENTRY
from ...refimpl.params.tree import Tree, flatten, map_leaves, unflatten
from ..parallel import in_threads

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    Leaf = Array | Blocks
    OnLeaf = Callable[[str, Leaf], None]
    OnLayer = Callable[[int, int], None]
    OnCache = Callable[[int, MixerCache], None]

__all__ = ["SEED", "Inputs", "Precision", "outputs"]

SEED = 2017
ROWS = 8192  # rows of an output table that are converted at a time
Weights = TypeVar("Weights", bound=Tree)


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
    """One run of the specification: in `dtype`, the residual stream rounded to `stream` after each layer.

    `tries` more copies of the batch follow the first, each with its embedded tokens moved by the share
    `move`, up or down. All copies share the converted weights, since rows don't see each other. `plain`
    leaves activations as they are where blocks would round them to codes. With a `half_cache` keys and values
    are rounded to float16; where they are too large for it, the outputs are nothing to compare with.
    """

    dtype: np.dtype
    stream: np.dtype | None = None
    tries: int = 0
    move: float = 0
    plain: bool = False
    half_cache: bool = False

    def start(self, x: Array) -> Array:
        """The embedded tokens, followed by the moved copies."""
        rng = np.random.default_rng(SEED)
        return self.round(np.concatenate([x, *(moved(x, self.move, rng) for _ in range(self.tries))]))

    def repeat(self, values: Array) -> Array:
        """Numbers of each row, repeated for all copies of the batch."""
        return np.tile(values, 1 + self.tries)

    def round(self, x: Array) -> Array:
        """The vectors as the residual stream holds them."""
        return x if self.stream is None else x.astype(self.stream).astype(self.dtype)

    def cast_all(self, weights: Weights) -> Weights:
        """A tree of leaves in this run's type."""
        return cast(Weights, map_leaves(lambda _, leaf: self.cast(leaf), weights))

    def cast(self, leaf: Leaf) -> Leaf:
        """A leaf in this run's type."""
        if not isinstance(leaf, Blocks):
            return leaf.astype(self.dtype, copy=False)
        return replace(
            leaf,
            scale=leaf.scale.astype(self.dtype, copy=False),
            minimum=None if leaf.minimum is None else leaf.minimum.astype(self.dtype),
            input_scale=None if leaf.input_scale is None else leaf.input_scale.astype(self.dtype),
            output_scale=None if leaf.output_scale is None else leaf.output_scale.astype(self.dtype),
            activations="none" if self.plain else leaf.activations,
        )


def outputs(
    config: Config,
    params: Tree,
    inputs: Inputs,
    runs: list[Precision],
    on_leaf: OnLeaf = lambda name, leaf: None,
    on_layer: OnLayer = lambda done, total: None,
    on_cache: OnCache = lambda layer, cache: None,
) -> list[Array]:
    """Logits of all positions [B, T, N], or the output of an encoder's head: one array for each run.

    Each leaf is loaded once, and `on_leaf` is called with its name and value; `on_layer` with how many layers
    have been computed, and how many there are; `on_cache` with what each layer of a decoder keeps in the
    first run.
    """
    forward = StreamedForward(config, params, runs, on_leaf, on_layer, on_cache)
    if isinstance(config, Decoder):
        return forward.decode(inputs.tokens, None, inputs.lengths)
    if not isinstance(config.head, LM):
        states = forward.encode(inputs.tokens, inputs.lengths, inputs.token_types)
        return forward.predict(states, inputs.lengths)
    assert inputs.encoder_ids is not None
    assert inputs.encoder_lengths is not None
    states = forward.encode(inputs.encoder_ids, inputs.encoder_lengths)
    return forward.decode(inputs.tokens, states, inputs.encoder_lengths)


class StreamedForward:
    """One pass through all weights, for all runs at once."""

    def __init__(
        self,
        config: Config,
        params: Tree,
        runs: list[Precision],
        on_leaf: OnLeaf,
        on_layer: OnLayer,
        on_cache: OnCache,
    ) -> None:
        self.config = config
        self.params = params
        self.runs = runs
        self._on_leaf = on_leaf
        self._on_layer = on_layer
        self._on_cache = on_cache
        self._computed = 0

    def encode(self, tokens: Array, lengths: Array, token_types: Array | None = None) -> list[Array]:
        """The encoder's vectors, or those of a decoder that reads it for a head."""
        states = self._run_stack("encoder", tokens, lengths, token_types)
        if "reader" in self.config.stacks:
            states = self._run_stack("reader", tokens, lengths, states=states)
        return states

    def decode(
        self, tokens: Array, states: list[Array] | None, lengths: Array
    ) -> list[Float[Array, "B T N"]]:
        """Logits of a decoder, which may read an encoder's vectors; `lengths` are then the encoder's."""
        head = self.config.head
        assert isinstance(head, LM)
        streams = self._run_stack("decoder", tokens, lengths, states=states)
        if self.config.embedding.projection is not None:
            project = self._load({"project": self.params["head"]["project"]}, "head.")["project"]
            streams = [linear(x, run.cast(project)) for x, run in zip(streams, self.runs, strict=True)]
        if head.dense is not None:
            params = self.params["head"]
            dense = self._load({name: params[name] for name in ("dense", "norm") if name in params}, "head.")
            streams = [
                head_dense(x.astype(run.dtype), cast(HeadWeights, run.cast_all(dense)), head.dense)
                for x, run in zip(streams, self.runs, strict=True)
            ]

        if head.adaptive is not None:
            params = self.params["head"]
            leaves = self._load({n: params[n] for n in params if n != "project"}, "head.")

            def log_probs(run: Precision, x: Array) -> Array:
                weights = run.cast_all(leaves)
                y = adaptive_log_probs(x, weights["frequent"], weights["tails"], weights.get("bias"))
                return y.astype(np.float64)

            return [log_probs(run, x.astype(run.dtype)) for run, x in zip(self.runs, streams, strict=True)]

        def logits(run: Precision, x: Array, table: Leaf, bias: Array | None) -> Array:
            return lm_logits(x, table, bias, head=head)

        return self._by_table_rows(streams, head, logits)

    def predict(self, states: list[Array], lengths: Array) -> list[Array]:
        """The head's output for an encoder's vectors."""
        head = self.config.head
        params = self.params.get("head", {})
        loaded = self._load({n: params[n] for n in params if n not in ("table", "bias")}, "head.")

        def output(run: Precision, x: Array, table: Leaf | None, bias: Array | None) -> Array:
            weights = {**run.cast_all(loaded), "table": table, "bias": bias}
            model = cast(ModelWeights, {"embedding": {"table": table}, "head": weights})
            return predict(x, run.repeat(lengths), model, config=self.config)

        if isinstance(head, MaskedLM):
            return self._by_table_rows(states, head, output)
        return [
            output(run, x.astype(run.dtype), None, None).astype(np.float64)
            for run, x in zip(self.runs, states, strict=True)
        ]

    def _by_table_rows(
        self,
        streams: list[Array],
        head: LM | MaskedLM,
        logits: Callable[[Precision, Array, Leaf, Array | None], Array],
    ) -> list[Array]:
        """Logits over the output table, of which a few rows at a time are converted to a run's type."""
        table = self.params["embedding" if head.tied else "head"]["table"]
        bias = self.params["head"]["bias"] if head.bias else None
        if not head.tied:
            self._on_leaf("head.table", table)
        if bias is not None:
            self._on_leaf("head.bias", bias)
        parts: list[list[Array]] = [[] for _ in self.runs]
        for start in range(0, self.config.embedding.vocabulary, ROWS):
            rows = slice(start, start + ROWS)
            some_rows = _rows(table, rows)

            def compute(index: int, rows: slice = rows, some_rows: Leaf = some_rows) -> None:
                run, x = self.runs[index], streams[index]
                some_bias = None if bias is None else bias[rows].astype(run.dtype)
                parts[index].append(logits(run, x.astype(run.dtype), run.cast(some_rows), some_bias))

            in_threads(compute, range(len(self.runs)))
        return [np.concatenate(part, axis=-1).astype(np.float64) for part in parts]

    def _run_stack(
        self,
        name: str,
        tokens: Array,
        lengths: Array,
        token_types: Array | None = None,
        states: list[Array] | None = None,
    ) -> list[Array]:
        """The last vectors of a stack, which may read an encoder's `states`."""
        walk = StackWalk(self.config, name)
        stack_params = self.params[name]
        first = name == next(iter(self.config.stacks))
        used, index = np.unique(walk.shifted(tokens), return_inverse=True)
        index = index.reshape(tokens.shape)
        embedding = self._embedding(used, observe=first)
        entry_names = [n for n in ENTRY if n in stack_params]
        entry = cast(StackWeights, self._load({n: stack_params[n] for n in entry_names}, f"{name}."))
        streams, positions, shared, question = [], [], [], walk.question(tokens)
        for run in self.runs:
            weights, tables = run.cast_all(entry), run.cast_all(embedding)
            x = run.start(walk.enter(index, tables, weights, token_types))
            streams.append(x)
            shared.append(walk.shared(np.tile(index, (1 + run.tries, 1)), x, tables))
            near = walk.positions(tokens.shape[1], weights, run.dtype)
            near = near._replace(question=None if question is None else run.repeat(question))
            if token_types is not None and walk.stack.segments:
                near = near._replace(token_types=np.tile(token_types, (1 + run.tries, 1)))
            positions.append(near)
        for i in range(len(walk.stack.layers)):
            leaves = self._load(stack_params["layers"][i], f"{name}.layers.{i}.")
            layer_weights = cast(BlockWeights, leaves)

            def after_layer(
                j: int, i: int = i, x: list[Array] = streams, layer_weights: BlockWeights = layer_weights
            ) -> Array:
                run, read = self.runs[j], None if states is None else states[j]
                weights, near = run.cast_all(layer_weights), positions[j]
                if run.half_cache:
                    own_walk = replace(walk, half_cache=True)
                    # What is too large gives infinity here, and then nothing that anybody compares.
                    with np.errstate(all="ignore"):
                        y, _ = own_walk.layer(i, x[j], run.repeat(lengths), near, weights, shared[j], read)
                    return np.where(np.isfinite(y), y, 0)
                y, cache = walk.layer(i, x[j], run.repeat(lengths), near, weights, shared[j], read)
                if j == 0 and cache is not None:
                    self._on_cache(i, cache)
                return run.round(y)

            streams = in_threads(after_layer, range(len(self.runs)))
            self._computed += 1
            self._on_layer(self._computed, sum(len(stack.layers) for stack in self.config.stacks.values()))
        norm = self._load(stack_params["norm"], f"{name}.norm.") if "norm" in stack_params else {}
        last = cast(StackWeights, {**entry, "norm": norm})
        return [walk.leave(x, run.cast_all(last)) for x, run in zip(streams, self.runs, strict=True)]

    def _embedding(self, tokens: Array, observe: bool) -> EmbeddingWeights:
        """The embedding's leaves, of the tables only the rows of these tokens: each whole table is dropped
        before the next one is loaded."""
        leaves = {}
        for name, leaf in flatten(self.params["embedding"], "embedding."):
            if observe:
                self._on_leaf(name, leaf)
            if name == "embedding.table":
                leaf = _rows(leaf, tokens)
            elif name == "embedding.per_layer.table":
                leaf = _rows(leaf, np.where(tokens < leaf.shape[0], tokens, 0))
            leaves[name.removeprefix("embedding.")] = leaf
        return cast(EmbeddingWeights, unflatten(leaves))

    def _load(self, params: Tree, prefix: str) -> dict[str, Any]:
        """The leaves of a part of the model, each loaded once."""
        leaves = dict(flatten(params, prefix))
        for name, leaf in leaves.items():
            self._on_leaf(name, leaf)
        return unflatten({name.removeprefix(prefix): leaf for name, leaf in leaves.items()})


def _rows(table: Leaf, index: Array | slice) -> Leaf:
    """Some rows of a table."""
    if not isinstance(table, Blocks):
        return table[index]
    return replace(
        table,
        codes=table.codes[index],
        scale=table.scale[index],
        zero=None if table.zero is None else table.zero[index],
        minimum=None if table.minimum is None else table.minimum[index],
    )
