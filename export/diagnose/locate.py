"""Finds the first part of a graph that is over its budget, by name.

The graph is cut at the values between its parts, and every part gets the specification's inputs. So errors
don't accumulate; and as equal numbers round to equal codes, quantized parts too are held to budgets of float
rounding. One run shows the error of each part.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch

from ...refimpl.config import Attention, Config, Decoder
from ...refimpl.engine.cache_kinds import cache_kinds, recurrent, windows
from ...refimpl.engine.stack_walk import StackWalk
from ...refimpl.error_budget import CODE_MOVE, TRIES, error_terms, largest_difference, moved
from ...refimpl.errors import BundleError
from ...refimpl.ops.attention import ScoreTerms, cached_attention
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.position import Rotary
from ...refimpl.ops.position_tables import position_tables
from ...refimpl.ops.quant import Blocks
from ...refimpl.params.tree import flatten, map_leaves
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import GRAPH
from ...runtime.ort.io_binding import row_lengths
from ...runtime.ort.session import one_line, open_session, options
from ...runtime.verification.streamed_reference import SEED, Precision
from ..dispatch import on_torch
from ..graph.trace import quiet
from .graph_values import graph_values
from .reference_parts import HeadsWeights, ReferencePart, attention_arguments, reference_parts

Array = np.ndarray
Values = dict[str, Array]
FLOAT32 = Precision(np.dtype(np.float32))  # activations are rounded to codes where a product rounds them


@dataclass(frozen=True)
class Part:
    """A part of the graph, its largest error and its budget; `note` may say more about the cause."""

    name: str
    error: float
    budget: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.budget)


def locate(bundle: Bundle, tokens: Array) -> list[Part]:
    """The parts of the graph on the tokens [B, T], in the order of a forward pass, as far as they are known.

    BundleError for a model with an encoder.
    """
    config = bundle.config
    if not isinstance(config, Decoder):
        raise BundleError("only a decoder's graph can be taken apart, this model has an encoder")
    model = onnx.load(bundle.path / GRAPH, load_external_data=False)
    values = graph_values(model.graph, config)
    if not values:
        return []
    references = list(reference_parts(config, bundle.params(), tokens))
    truth, budgets = _specification(references, np.dtype(bundle.dtype))
    values = {name: value for name, value in values.items() if name in truth}
    outputs = _run_parts(bundle, model, values, truth, tokens)
    parts = []
    for reference in references:
        name = reference.name
        if name not in outputs:
            continue
        part = Part(name, largest_difference(outputs[name], truth[name]), budgets[name])
        if not part.ok and name.endswith("attention, heads") and bundle.cache != "copied":
            part = replace(part, note=_compare_as_standard(config, reference, truth, budgets[name]))
        parts.append(part)
    return parts


def _cast(run: Precision, weights: Any) -> Any:
    return map_leaves(lambda _, leaf: run.cast(leaf), weights)


def first(parts: list[Part]) -> Part | None:
    """The first part over its budget."""
    return next((part for part in parts if not part.ok), None)


def _specification(references: list[ReferencePart], dtype: np.dtype) -> tuple[Values, dict[str, float]]:
    """The specification's outputs and budgets.

    The budgets are computed without rounding activations to codes, but for products that round their
    outputs: what they round are sums, which differ in their last digits.
    """
    truth: Values = {}
    budgets = {}
    eps, rng = float(np.finfo(dtype).eps), np.random.default_rng(SEED)
    for part in references:
        leaves = dict(flatten(part.weights)).values()
        rounds_output = any(isinstance(leaf, Blocks) and leaf.output_scale is not None for leaf in leaves)
        in_double = Precision(np.dtype(np.float64), plain=not rounds_output)
        in_single = Precision(np.dtype(np.float32), plain=not rounds_output)
        single = [truth[name].astype(np.float32) for name in part.inputs]
        double = [x.astype(np.float64) for x in single]
        weights = _cast(in_double, part.weights)
        exact = part.compute(*double, weights)
        rounded = part.compute(*single, _cast(in_single, part.weights))
        rounds_cache = "k_scale" in part.weights.get("attn", {})
        move = CODE_MOVE if rounds_output or rounds_cache else eps
        tries = TRIES if part.inputs else 0
        outputs = [part.compute(*(moved(x, move, rng) for x in double), weights) for _ in range(tries)]
        budgets[part.name] = error_terms(exact, rounded, outputs, eps=eps).budget
        truth[part.name] = part.compute(*single, _cast(FLOAT32, part.weights)).astype(dtype)
    return truth, budgets


def _run_parts(
    bundle: Bundle, model: onnx.ModelProto, cuts: dict[str, str], truth: Values, tokens: Array
) -> Values:
    """The output of each part of the graph, with the specification's values as its inputs."""
    graph, inner = model.graph, {value for name, value in cuts.items() if name != "logits"}
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(bundle.dtype))
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in inner:
                node.input[i] = f"{name}.given"
    for name in inner:
        graph.input.append(onnx.helper.make_tensor_value_info(f"{name}.given", kind, None))
        graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    path = bundle.path / GRAPH
    session = open_session(path, "cpu", options(graph=path), model.SerializeToString())
    config, (b, t) = bundle.config, tokens.shape
    feeds: Values = {"tokens": tokens, "past": np.zeros(b, np.int64), "at": np.tile(np.arange(t), (b, 1))}
    for i, pair in enumerate(position_tables(np.arange(t), config=config).values()):
        feeds |= {
            f"{name}.{i}": table.astype(bundle.dtype)
            for name, table in zip(("cos", "sin"), pair, strict=True)
        }
    for i, kind in enumerate(cache_kinds(config)):
        types = kind.dtypes(np.dtype(bundle.dtype))
        for array, shape, dtype in zip(kind.arrays, kind.shapes(b, t), types, strict=True):
            feeds[f"{array.name}.{i}"] = np.zeros(shape, dtype)
    if recurrent(cache_kinds(config)):
        feeds["lengths"] = np.full(b, t)
    of_windows = windows(cache_kinds(config, windowed=True))
    feeds |= {f"window_length.{window}": np.zeros(b, np.int64) for window in of_windows}
    for window in (None, *of_windows):
        feeds |= row_lengths(window, np.zeros(b, np.int64), t)
    feeds |= {f"{value}.given": truth[name] for name, value in cuts.items() if value in inner}
    needed = {v.name for v in session.get_inputs()}
    with one_line(f"{GRAPH} can't be run in parts"):
        values = session.run(list(cuts.values()), {name: feeds[name] for name in needed})
    return {name: np.asarray(value).astype(np.float64) for name, value in zip(cuts, values, strict=True)}


def _compare_as_standard(config: Config, part: ReferencePart, truth: Values, budget: float) -> str:
    """Says whether the fused operator or its inputs are wrong, by the same attention in standard
    operators."""
    index = int(part.name.split(",")[0].removeprefix("layer "))
    layer = config.layers[index]
    x = truth[part.inputs[0]].astype(np.float32)
    weights = cast(HeadsWeights, _cast(FLOAT32, part.weights))
    settings, walk = layer.attention, StackWalk(config, "decoder")
    assert isinstance(settings, Attention), "only attention has heads"
    q, k, v, cache, past, rotary, terms = attention_arguments(x, weights, layer, walk)
    cos, sin = (None, None) if rotary is None else rotary
    arrays = [q, k, v, *cache, past, cos, sin, *terms]
    tensors = tuple(None if a is None else torch.from_numpy(a) for a in arrays)

    class Alone(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any, *optional: Any) -> torch.Tensor:
            *cache, past, cos, sin, bias, sink_logits = optional
            rotary = None if cos is None else Rotary(cos, sin)
            terms = ScoreTerms(bias, sink_logits)
            y, _ = cached_attention(q, k, v, KVCache(*cache), past, rotary, terms, settings=settings)
            return y

    with warnings.catch_warnings(), quiet(), on_torch():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Alone().eval(), tensors, dynamo=True, verbose=False)
    assert program is not None
    session = open_session(Path("standard"), "cpu", options(), program.model_proto.SerializeToString())
    names = [v.name for v in session.get_inputs()]
    feeds = dict(zip(names, [a for a in arrays if a is not None], strict=True))
    (y,) = session.run(None, feeds)
    error = largest_difference(np.asarray(y).reshape(truth[part.name].shape), truth[part.name])
    cause = "the fused operator or its attributes" if error <= budget else "not the fused operator alone"
    return f"{cause}: exported as standard, its error is {error:.2g}"
