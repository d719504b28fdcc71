"""Check each layer by itself: compare its output with the specification's output for the same input.

The input is the one that the layer reads in the graph, so errors don't accumulate over layers. Tokens have
budgets of their own:

    4 · (A + J + u + the most that a token's numbers move when codes next to a tie become the other one)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.config import Config
from ....refimpl.error_budget import FACTOR, error_terms, largest_difference
from ....refimpl.params.tree import Tree
from ...bundle.bundle import Bundle
from ...bundle.graph_io import GRAPH, graphs
from ...bundle.plan import Tensor
from ...ort.session import choose
from ..between_layers import between_layers
from ..golden import activations, own_runs
from ..report import Row, judged
from ..streamed_reference import Precision, outputs
from .context import VerifyContext
from .kernels import OnKernels, has_kernels, on_kernels

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from ...ort.engine import OrtEngine

SUBJECT = "layers, each by itself"


def has_one_stack(bundle: Bundle) -> bool:
    """Return whether all layers of a bundle belong to one stack."""
    return len(bundle.config.stacks) == 1


def check_layers(context: VerifyContext) -> Iterator[Row]:
    """Check the layers of the graph of ONNX Runtime's operators.

    The layers of the graph over kernels are checked too, unless its logits are compared to the bit.
    """
    from ...ort.engine import OrtEngine

    bundle = context.bundle
    if choose(context.device, bundle.target) != "cpu":
        yield Row(SUBJECT, note="values inside of a graph are seen on a CPU")
        return

    def on_onnx_runtime(shown: Mapping[str, int]) -> OrtEngine:
        return OrtEngine(bundle, "cpu", context.threads, shown=shown)

    data = (bundle.path / GRAPH).read_bytes()
    yield from _rows(context, "", data, bundle.manifest.tensors, on_onnx_runtime)
    found = on_kernels(context) if has_kernels(bundle) else ""
    if not isinstance(found, OnKernels) or found.engine.same_bits:
        return
    half, backend = bundle.manifest.half_cache, found.backend
    graph = next(one for one in graphs(bundle.config, bundle.cache == "windowed", half) if one.file == GRAPH)
    data, _ = bundle.kernel_graph(graph)

    def over_kernels(shown: Mapping[str, int]) -> OrtEngine:
        return OrtEngine(bundle, "cpu", context.threads, kernels=backend, shown=shown)

    yield from _rows(context, f"{backend.name}: ", data, bundle.kernel_tensors, over_kernels, half=half)


def _rows(
    context: VerifyContext,
    path: str,
    data: bytes,
    tensors: Mapping[str, Tensor],
    opened: Callable[[Mapping[str, int]], OrtEngine],
    *,
    half: bool = False,
) -> Iterator[Row]:
    """A row for each layer whose two ends are found in a graph's file."""
    bundle, golden = context.bundle, context.golden
    ((_, stack),) = bundle.config.stacks.items()
    values, count = between_layers(data, bundle.config, tensors), len(stack.layers)
    alone = [i for i in range(count) if i in values and i + 1 in values]
    if len(alone) < count:
        note = f"of {count - len(alone)} of {count} no norm of one operator tells what they read or give"
        yield Row(f"{path}{SUBJECT}", note=note)
    if not alone:
        return
    engine = opened({value.name: value.width for value in values.values()})
    given = golden.tokens if golden.encoder_ids is None else golden.encoder_ids
    read = dict(zip(values, engine.inside(given, golden.lengths, golden.token_types), strict=True))
    params, dtype = bundle.params(), np.dtype(bundle.dtype)
    runs = _runs(bundle.config, params, dtype, half)
    eps = float(np.finfo(dtype).eps)
    gave: dict[tuple[int, int], Array] = {}

    def on_block(run: int, layer: int, y: Array) -> None:
        gave[run, layer] = y.astype(np.float64)

    outputs(bundle.config, params, golden.inputs, runs, on_block=on_block, reads=read)
    for i in alone:
        smooth, rounded = (np.split(gave[run, i], 1 + runs[0].tries) for run in (0, 1))
        base, *moved, exact, turned = map(golden.real, (*smooth, gave[2, i], gave[3, i]))
        terms = error_terms(exact, exact, (exact + one - base for one in moved), eps=eps)
        rounding = max(map(largest_difference, map(golden.real, rounded), map(golden.real, smooth)))
        budgets = terms._replace(rounding=rounding).budget + FACTOR * np.abs(turned - exact).max(axis=-1)
        errors = np.abs(golden.real(read[i + 1]) - exact).max(axis=-1)
        worst = np.argmax(errors / budgets)
        name = f"{path}layer {i} by itself: error of the worst token"
        yield judged(name, float(errors[worst]), float(budgets[worst]), "in its vectors")


def _runs(config: Config, params: Tree, dtype: np.dtype, half: bool) -> list[Precision]:
    """Runs whose difference is A, and the specification without and with ties turned.

    The first two don't round activations to codes, so A and J have no flips and stay small. One sample of A
    tells little of a layer whose numbers cancel: each try gives another one. Other values that are rounded to
    codes have no run with ties turned. There the first two round as the specification does, and J has flips.
    """
    exact, rounded = (replace(run, half_cache=half) for run in own_runs(config, params, dtype))
    plain = not (half or config.rounds_cache or "static" in activations(params))
    move = float(np.finfo(dtype).eps) if plain else exact.move
    smooth = [replace(run, tries=exact.tries, move=move, plain=plain) for run in (exact, rounded)]
    return [*smooth, replace(exact, tries=0), replace(exact, tries=0, ties=True)]
