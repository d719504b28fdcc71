"""Find and name the first part of a graph whose error exceeds its budget.

The graph is cut at the values that the specification names (`ops.dispatch.observe`). Every part gets the
specification's values as its inputs. So one run shows the error of each part by itself.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ...refimpl.config import Decoder
from ...refimpl.engine.cache_kinds import cache_kinds, recurrent, windows
from ...refimpl.error_budget import largest_difference
from ...refimpl.errors import BundleError
from ...refimpl.ops.attention import ScoreTerms, cached_attention
from ...refimpl.ops.cache import KVCache
from ...refimpl.ops.position import Rotary
from ...refimpl.ops.position_tables import position_tables
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import GRAPH
from ...runtime.ort.io_binding import row_lengths
from ...runtime.ort.session import one_line, open_session, options
from ..dispatch import on_torch
from ..graph.trace import quiet
from .graph_values import graph_values
from .reference_values import AttentionCall, reference_values

Array = np.ndarray
Values = dict[str, Array]


@dataclass(frozen=True)
class Part:
    """A part of the graph, with its largest error and its budget for errors. `note` may say more about the
    cause.
    """

    name: str
    error: float
    budget: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.budget)


def locate(bundle: Bundle, tokens: Array) -> list[Part]:
    """Run a bundle's graph in parts over the tokens [B, T], and return the parts with their errors, in the
    order of a forward pass.

    Parts that can't be found in the graph are left out. Raises BundleError for a model with an encoder.
    """
    config = bundle.config
    if not isinstance(config, Decoder):
        raise BundleError(
            "only a decoder's graph can be searched for its first wrong value, but this model has an encoder"
        )
    model = onnx.load(bundle.path / GRAPH, load_external_data=False)
    values = graph_values(model.graph, config)
    reference = reference_values(config, bundle.params(), tokens, values, np.dtype(bundle.dtype))
    truth = reference.values
    values = {name: values[name] for name in truth}
    outputs = _run_parts(bundle, model, values, truth, tokens)
    parts = []
    for name, value in truth.items():
        part = Part(name, largest_difference(outputs[name], value), reference.budgets[name])
        if not part.ok and name.endswith("attention, heads") and bundle.cache != "copied":
            layer = int(name.split(",")[0].removeprefix("layer "))
            part = replace(part, note=_compare_as_standard(reference.attentions[layer], part.budget))
        parts.append(part)
    return parts


def first(parts: list[Part]) -> Part | None:
    """Return the first part whose error exceeds its budget. Return None if there is no such part."""
    return next((part for part in parts if not part.ok), None)


def _run_parts(
    bundle: Bundle, model: onnx.ModelProto, cuts: dict[str, str], truth: Values, tokens: Array
) -> Values:
    """Run each part of the graph with the specification's values as its inputs, and return the parts'
    outputs.
    """
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
    session = open_session(
        path, "cpu", options(graph=path, products=bundle.products), model.SerializeToString()
    )
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
    with one_line(f"{GRAPH} can't be run part by part"):
        values = session.run(list(cuts.values()), {name: feeds[name] for name in needed})
    return {name: np.asarray(value).astype(np.float64) for name, value in zip(cuts, values, strict=True)}


def _compare_as_standard(call: AttentionCall, budget: float) -> str:
    """Return a text that says whether the fused attention operator or its inputs are wrong. For this, the
    same attention is computed with standard operators."""
    (q, k, v, cache, past, rotary, terms), settings, given = call
    cos, sin = (None, None) if rotary is None else rotary
    arrays = [q, k, v, *cache, past, cos, sin, *terms]
    tensors = tuple(None if a is None else torch.from_numpy(a) for a in arrays)

    class Alone(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any, *optional: Any) -> torch.Tensor:
            *cache, past, cos, sin, bias, sink_logits = optional
            rotary = None if cos is None else Rotary(cos, sin)
            terms = ScoreTerms(bias, sink_logits)
            y, _ = cached_attention(q, k, v, KVCache(*cache), past, rotary, terms, **settings)
            return y

    with warnings.catch_warnings(), quiet(), on_torch():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Alone().eval(), tensors, dynamo=True, verbose=False)
    assert program is not None
    session = open_session(Path("standard"), "cpu", options(), program.model_proto.SerializeToString())
    names = [v.name for v in session.get_inputs()]
    feeds = dict(zip(names, [a for a in arrays if a is not None], strict=True))
    (y,) = session.run(None, feeds)
    error = largest_difference(np.asarray(y), given)
    cause = "the fused operator is wrong" if error <= budget else "not only the fused operator is wrong"
    return f"{cause}: with standard ONNX operators in its place, the error is {error:.2g}"
