"""Check each layer by itself: compare its output with the specification's output for the same input.

The input is the one that the layer reads in the graph, so errors don't accumulate over layers. A layer that
reads an encoder makes its keys and values from the output of the encoder's last layer in the graph. Each
token has a budget of its own:

    4 · (A + J + u + D₁ + D₂)
    D₁, D₂   the largest moves of the token's numbers in runs that are disturbed on purpose

For D₁, codes next to a tie are rounded the other way: all such codes in one run, and half of them in each of
two more runs. D₁ is the largest move of the three runs, because the moves of several codes may cancel. For
D₂, sigmoids are off by as much as ONNX Runtime's, because a norm of gates that are nearly closed magnifies
this error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.config import Config
from ....refimpl.engine.cache_kinds import Halved
from ....refimpl.error_budget import FACTOR, error_terms, largest_difference
from ....refimpl.params.tree import Tree
from ...bundle.graph_io import MTP, graphs
from ...bundle.plan import Tensor
from ...ort.session import choose
from ..between_layers import between_layers
from ..golden import activations, own_runs, real_positions
from ..report import Row, judged
from ..streamed_reference import DISTURBED, Inputs, Place, Precision, outputs
from .context import VerifyContext
from .kernels import OnKernels, has_kernels, on_kernels

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from ...ort.engine import OrtEngine

    Shown = Mapping[tuple[str, str], int]

SUBJECT = "layers, each by itself"


def check_layers(context: VerifyContext) -> Iterator[Row]:
    """Check each layer of the graph that uses ONNX Runtime's operators.

    The layers of the graph over kernels are checked too, unless the logits over kernels are compared to the
    bit.
    """
    from ...ort.engine import OrtEngine

    bundle = context.bundle
    if choose(context.device, bundle.target) != "cpu":
        yield Row(SUBJECT, note="only on a CPU can tfm read the values between layers")
        return

    def on_onnx_runtime(shown: Shown) -> OrtEngine:
        return OrtEngine(bundle, "cpu", context.threads, shown=shown)

    parts = [graph for graph in bundle.graphs if graph.file != MTP]
    data = {graph.file: (bundle.path / graph.file).read_bytes() for graph in parts}
    yield from _rows(context, "", data, bundle.manifest.tensors, on_onnx_runtime)
    found = on_kernels(context) if has_kernels(bundle) else ""
    if not isinstance(found, OnKernels) or found.engine.same_bits:
        return
    halved, backend = bundle.manifest.halved, found.backend
    parts = [
        graph for graph in graphs(bundle.config, bundle.cache == "windowed", halved) if graph.file != MTP
    ]
    data = {graph.file: bundle.kernel_graph(graph)[0] for graph in parts}

    def over_kernels(shown: Shown) -> OrtEngine:
        return OrtEngine(bundle, "cpu", context.threads, kernels=backend, shown=shown)

    yield from _rows(context, f"{backend.name}: ", data, bundle.kernel_tensors, over_kernels, halved=halved)


def _rows(
    context: VerifyContext,
    path: str,
    data: Mapping[str, bytes],
    tensors: Mapping[str, Tensor],
    opened: Callable[[Shown], OrtEngine],
    *,
    halved: Halved = "",
) -> Iterator[Row]:
    """Yield a row for each layer whose inputs and output can be found in the graphs' files."""
    bundle, golden = context.bundle, context.golden
    config, text = bundle.config, golden.inputs
    if config.sound_shape is not None:  # a second sound would take as long, and says little more
        text = Inputs(*(None if array is None else array[:1] for array in vars(text).values()))
    values = {
        place: (file, value)
        for file, graph in data.items()
        for place, value in between_layers(graph, config, tensors).items()
    }
    needs, before = dict[Place, set[Place]](), set[Place]()
    for name, stack in config.stacks.items():
        count = len(stack.layers)
        needs |= {(name, i): {(name, i), (name, i + 1)} | before for i in range(count)}
        before = {(name, count)}
    layers = [*needs]
    alone = [layer for layer in layers if needs[layer] <= values.keys()]
    if left := len(layers) - len(alone):
        note = (
            f"{left} of {len(layers)} layers aren't checked, because no single norm operator shows "
            "their values"
        )
        yield Row(f"{path}{SUBJECT}", note=note)
    if not alone:
        return
    engine = opened({(file, value.name): value.width for file, value in values.values()})
    inside = engine.inside(text)
    read = {place: inside[file, value.name] for place, (file, value) in values.items()}
    params, dtype = bundle.params(), np.dtype(bundle.dtype)
    runs = _runs(config, params, dtype, halved)
    eps = float(np.finfo(dtype).eps)
    gave: dict[int, Array] = {}
    rows: list[Row] = []

    def on_block(run: int, layer: Place, y: Array) -> None:
        gave[run] = y.astype(np.float64)

    def on_layer(done: int, total: int) -> None:
        name, i = layer = layers[done - 1]
        if layer in alone:
            heard = text.encoder_lengths if name == "encoder" else None
            real = partial(real_positions, lengths=text.lengths if heard is None else heard)
            smooth, rounded = (np.split(gave[run], 1 + runs[0].tries) for run in (0, 1))
            base, *moved, exact = map(real, (*smooth, gave[2]))
            terms = error_terms(exact, exact, (exact + one - base for one in moved), eps=eps)
            rounding = max(map(largest_difference, map(real, rounded), map(real, smooth)))
            *codes, sigmoids = (np.abs(real(gave[run]) - exact).max(axis=-1) for run in range(3, len(runs)))
            off = np.max(codes, axis=0) + sigmoids
            budgets = terms._replace(rounding=rounding).budget + FACTOR * off
            errors = np.abs(real(read[name, i + 1]) - exact).max(axis=-1)
            worst = np.argmax(errors / budgets)
            of = f"{name} " if len(config.stacks) > 1 else ""
            title = f"{path}{of}layer {i} by itself: error of the worst token"
            rows.append(judged(title, float(errors[worst]), float(budgets[worst]), "in its vectors"))
        context.advance(done, total)

    outputs(config, params, text, runs, on_layer=on_layer, on_block=on_block, reads=read)
    yield from rows


def _runs(config: Config, params: Tree, dtype: np.dtype, halved: Halved) -> list[Precision]:
    """Return the runs of the specification that give the budgets of layers. The difference of the first two
    is A. The third run is undisturbed, and one run follows for each disturbance.

    The first two runs don't round activations to codes. So no code flips in them, and A and J stay small.
    They also compute perturbed copies, because a single sample of A says little if the numbers of a layer
    cancel. Other values that are rounded to codes aren't disturbed. If a model has such values, the first two
    runs round as the specification does, and codes may flip in J.
    """
    exact, rounded = (replace(run, halved=halved) for run in own_runs(config, params, dtype))
    plain = not (halved or config.rounds_cache or "static" in activations(params))
    move = float(np.finfo(dtype).eps) if plain else exact.move
    smooth = [replace(run, tries=exact.tries, move=move, plain=plain) for run in (exact, rounded)]
    return [*smooth, *(replace(exact, tries=0, disturbed=one) for one in (None, *DISTURBED))]
