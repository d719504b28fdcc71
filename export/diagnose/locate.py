"""Where a graph leaves the specification: the first part out of its budget, by name.

The graph is cut at the values between its parts, which the names of the weights lead to. Every part
is fed what the specification says stands there, so that errors don't cascade and, since equal
numbers round to equal codes, quantized parts are held to budgets of float rounding too. One run
shows the error of each part.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ...refimpl.config import Config, Decoder
from ...refimpl.error_budget import CODE_MOVE, TRIES, error_terms, largest_difference, moved
from ...refimpl.errors import BundleError
from ...refimpl.ops.model import position_tables
from ...refimpl.ops.quant import Blocks
from ...runtime.bundle import window_sizes
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import GRAPH, cache_type
from ...runtime.ort.session import one_line, open_session, options
from ...runtime.verification.streamed_reference import SEED
from ..graph.trace import quiet
from ..ops import attention as mirror
from ..ops.cache import KVCache
from ..ops.position import Rotary
from .graph_values import places_of
from .reference_parts import ReferencePart, attention_inputs, pieces_of

Array = np.ndarray
Values = dict[str, Array]


@dataclass(frozen=True)
class Part:
    """A part of the graph, its largest error and the budget, and what a second look at it showed."""

    name: str
    error: float
    budget: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.budget)


def locate(bundle: Bundle, tokens: Array) -> list[Part]:
    """The parts of the graph on the tokens [B, T], in the order of a forward pass, as far as followed.

    BundleError for a model with an encoder, whose parts have no names yet.
    """
    config = bundle.config
    if not isinstance(config, Decoder):
        raise BundleError("the parts of a graph are known for a decoder alone, this model has an encoder")
    model = onnx.load(bundle.path / GRAPH, load_external_data=False)
    places = places_of(model.graph, config)
    if not places:
        return []
    pieces = list(pieces_of(config, bundle.params(), tokens))
    dtype = np.dtype(bundle.dtype)
    truth, budgets = _specification(pieces, dtype)
    cut = {name: value for name, value in places.items() if name in truth}
    found = _replay(bundle, model, cut, truth, tokens)
    made = []
    for piece in pieces:
        if piece.name in found:
            part = Part(
                piece.name, largest_difference(found[piece.name], truth[piece.name]), budgets[piece.name]
            )
            if not part.ok and piece.name.endswith("attention, heads") and bundle.cache != "copied":
                part = replace(part, note=_as_standard(config, piece, truth, budgets[piece.name]))
            made.append(part)
    return made


def first(parts: list[Part]) -> Part | None:
    """The first part out of its budget."""
    return next((part for part in parts if not part.ok), None)


def _specification(pieces: list[ReferencePart], dtype: np.dtype) -> tuple[Values, dict[str, float]]:
    """What stands between the parts, and each part's budget 4 · (A + J + u), activations unrounded."""
    truth: Values = {}
    budgets = {}
    eps, rng = float(np.finfo(dtype).eps), np.random.default_rng(SEED)
    for piece in pieces:
        move = CODE_MOVE if "k_scale" in (piece.tree or ()) else eps  # codes of a cache flip, see golden
        given = [truth[name].astype(np.float32) for name in piece.inputs]
        run = lambda inputs, kind, plain, p=piece: p.compute(*inputs, _cast(p.tree, kind, plain))  # noqa: E731
        own = run(given, np.float32, False)
        wide = [x.astype(np.float64) for x in given]
        exact = run(wide, np.float64, True)
        tries = TRIES if wide else 0
        moves = [run([moved(x, move, rng) for x in wide], np.float64, True) for _ in range(tries)]
        budgets[piece.name] = error_terms(exact, run(given, np.float32, True), moves, eps=eps).budget
        truth[piece.name] = own.astype(dtype)
    return truth, budgets


def _cast(tree: Any, dtype: Any, plain: bool) -> Any:
    if isinstance(tree, dict):
        return {name: _cast(leaf, dtype, plain) for name, leaf in tree.items()}
    if isinstance(tree, Blocks):
        minimum = None if tree.minimum is None else tree.minimum.astype(dtype)
        activations = "none" if plain else tree.activations
        return replace(tree, scale=tree.scale.astype(dtype), minimum=minimum, activations=activations)
    return tree if tree is None else tree.astype(dtype)


def _replay(
    bundle: Bundle, model: onnx.ModelProto, cut: dict[str, str], truth: Values, tokens: Array
) -> Values:
    """Run the graph with every cut value replaced by the specification's; what each part then gives."""
    graph, inner = model.graph, {value for name, value in cut.items() if name != "logits"}
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(bundle.dtype))
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in inner:
                node.input[i] = f"{name}.given"
    for name in inner:
        graph.input.append(onnx.helper.make_tensor_value_info(f"{name}.given", kind, None))
        graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    session = open_session(bundle.path / GRAPH, "cpu", options(), model.SerializeToString())
    config, (b, t) = bundle.config, tokens.shape
    feeds: Values = {"tokens": tokens, "past": np.zeros(b, np.int64), "at": np.tile(np.arange(t), (b, 1))}
    for i, pair in enumerate(position_tables(np.arange(t), config=config).values()):
        feeds |= {
            f"{name}.{i}": table.astype(bundle.dtype)
            for name, table in zip(("cos", "sin"), pair, strict=True)
        }
    for i, layer in enumerate(config.layers):
        a = layer.attention
        empty = np.zeros((b, a.kv_heads, t, a.head_size), cache_type(a) or bundle.dtype)
        feeds |= {f"k.{i}": empty, f"v.{i}": empty}
    feeds |= {f"window_length.{size}": np.zeros(b, np.int64) for size in window_sizes.sizes(config)}
    feeds |= {f"{value}.given": truth[name] for name, value in cut.items() if value in inner}
    wanted = {v.name for v in session.get_inputs()}
    with one_line(f"{GRAPH} can't be run in parts"):
        values = session.run(list(cut.values()), {name: feeds[name] for name in wanted})
    return {name: np.asarray(value).astype(np.float64) for name, value in zip(cut, values, strict=True)}


def _as_standard(config: Config, piece: ReferencePart, truth: Values, budget: float) -> str:
    """Whether the operator is wrong or what it is given: the same attention, exported as standard."""
    index = int(piece.name.split(",")[0].removeprefix("layer "))
    layer = config.layers[index]
    x = truth[piece.inputs[0]].astype(np.float32)
    tree = _cast(piece.tree, np.float32, False)
    q, k, v, cache, past, rotary, bias = attention_inputs(x, tree, layer, config)
    cos, sin = (None, None) if rotary is None else rotary
    arrays = [q, k, v, *cache, past, cos, sin, bias]
    tensors = tuple(None if a is None else torch.from_numpy(a) for a in arrays)

    class Alone(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any, *rest: Any) -> torch.Tensor:
            *cache, past, cos, sin, bias = rest
            turn = None if cos is None else Rotary(cos, sin)
            settings = layer.attention
            y, _ = mirror.cached_attention(q, k, v, KVCache(*cache), past, turn, bias, settings=settings)
            return y

    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Alone().eval(), tensors, dynamo=True, verbose=False)
    assert program is not None
    session = open_session(Path("standard"), "cpu", options(), program.model_proto.SerializeToString())
    names = [v.name for v in session.get_inputs()]
    feeds = dict(zip(names, [a for a in arrays if a is not None], strict=True))
    (y,) = session.run(None, feeds)
    error = largest_difference(np.asarray(y).reshape(truth[piece.name].shape), truth[piece.name])
    fused = "the fused operator or its attributes" if error <= budget else "not the fused operator alone"
    return f"{fused}: exported as standard, its error is {error:.2g}"
