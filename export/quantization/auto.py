"""Choose a format for each matrix within a budget, for quant=auto. Formats are compared by how much each
increases the loss of the model.

The choice takes three steps:

- The loss is measured by one pass over a text for each unit (`Plan.units`). In this pass, the unit is rounded
  to nearest in its format with the fewest bytes.
- The losses of the unit's other formats are computed from the measured loss, because a small loss is a
  quadratic form of the rounding error.
- `refimpl.calibrate.budget` chooses the formats.

If codes compensate each other's errors (`bundle.feedback`), the quadratic form is tr(Eᵀ H E) of some columns,
where E = ŵ − w. Otherwise, it is Σ E².

A budget counts the bytes of the weights that a decode step reads (`Plan.read_size`). On ort-cpu these are the
bytes of kernels.data. There, codes of 5 and 6 bits take 5 and 6 bits, and scales take 16. In model.onnx.data,
such codes take 8 bits and scales take 32.

Losses are rounded to three digits before formats are chosen, so that the last digits of a processor's sums
rarely matter. On one machine, the same input gives the same plan; on another machine, it nearly always
does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ...refimpl.calibrate import budget as solver
from ...refimpl.calibrate.budget import Option
from ...refimpl.checkpoint.protocol import ExportSource
from ...refimpl.errors import ExportError
from ...refimpl.ops.quant import Blocks, dequantize
from ...runtime.bundle import feedback, kernel_storage, rounding, weight_storage
from ...runtime.bundle.kernel_storage import KernelForm
from ...runtime.bundle.plan import Plan
from ...runtime.bundle.weight_formats import WeightFormat, is_table
from ...runtime.progress import Progress
from . import calibrate, sensitivity
from .plan import Budget, leaf

Array = np.ndarray
Formats = Mapping[str, WeightFormat]
T = TypeVar("T")
MEASURED_TOKENS = 2048
SAMPLED = 128  # columns of a weight that are rounded with feedback to all formats, to compare these
# For a KL divergence: how many choices are tried at most, which part of it is near enough, and how much of it
# the next choice aims at.
MOST_TRIES = 4
ENOUGH, MARGIN = 0.8, 0.95
# Of the passes together: with more, fewer tokens are read, but one row.
MOST_PRODUCTS = 4_000_000_000_000


@dataclass(frozen=True)
class Texts:
    """The rows of tokens over which losses are measured, and the rows over which matrices are rounded with
    feedback. Without feedback, `rounded` is None.

    If there are enough rows, the two sets have no row in common.
    """

    measured: Array
    rounded: Array | None


def texts(checkpoint: ExportSource, given: Path | None, why: str, products: int, progress: Progress) -> Texts:
    """Return the rows of tokens over which formats are compared. The rows come from the given text or, in
    this order, from a text that the model samples, from a text that comes with tfm, or from random tokens.

    `why` is the reason why matrices can't be rounded over a text (`calibrate.without_feedback`). `products`
    is how many multiplications all passes together compute for a token.
    """
    length = calibrate.DRAWN_LENGTH
    most = max(length, min(MEASURED_TOKENS, MOST_PRODUCTS // products))
    if not why:
        rows = calibrate.rounding_text(checkpoint, given, progress)
    elif checkpoint.tokenizer is not None:
        rows = calibrate.text_rows(checkpoint, calibrate.TEXT if given is None else given)
    else:
        shape = most // length, min(length, checkpoint.config.context)
        rows = np.random.default_rng(0).integers(0, checkpoint.config.embedding.vocabulary, shape)
    count = max(1, most // rows.shape[1])
    return Texts(rows[:count], None if why else rows[count:] if len(rows) >= 2 * count else rows)


@dataclass(frozen=True)
class Offers:
    """The formats in which each unit can be stored. A unit's formats with fewer bytes come first.

    - `forms`: the forms of a unit's groups in kernels.data with each format.
    - `bytes`: the bytes of a unit with each format, in kernels.data, or in model.onnx.data if the target has
      no kernels.
    - `errors`: the sum Σ(ŵ − w)² over a unit's weights with each format.
    """

    plan: Plan  # each unit in its format of the fewest bytes
    formats: Mapping[str, Sequence[Formats]]
    forms: Mapping[str, Sequence[Mapping[str, KernelForm]]]
    bytes: Mapping[str, Sequence[int]]
    errors: Mapping[str, Sequence[float]]

    def with_formats(self, chosen: Mapping[str, int]) -> Plan:
        """Return the plan in which each unit has its chosen format. `chosen` maps a unit to the index of its
        format.
        """
        formats = dict(self.plan.formats)
        for unit, k in chosen.items():
            formats |= self.formats[unit][k]
        return replace(self.plan, formats=formats)

    def size(self, chosen: Mapping[str, int]) -> int:
        """Return the number of bytes that a budget counts, if each unit has its chosen format."""
        forms: dict[str, KernelForm] = {}
        for unit, k in chosen.items():
            forms |= self.forms[unit][k]
        return self.with_formats(chosen).read_size(forms)

    def require_room(self, budget: Budget) -> None:
        """Raise ExportError if the budget is smaller than the smallest plan. A budget of KL divergence never
        raises this error.
        """
        numbers, least = self.plan.shapes.numbers, self.size(dict.fromkeys(self.formats, 0))
        if budget.kind == "kl" or least <= budget.room(numbers):
            return
        if budget.kind == "bits":
            wanted = f"bits must be at least {math.ceil(800 * least / numbers) / 100}"
        else:
            wanted = f"budget must be at least {math.ceil(least / 1000)}kB"
        raise ExportError(f"{wanted} for this model, got {budget}")


@dataclass(frozen=True)
class Choices(Offers):
    """The formats in which each unit can be stored, with the bytes and the loss of each format."""

    options: Mapping[str, Sequence[Option]]

    @property
    def finest(self) -> dict[str, int]:
        """Return the index of the format with the lowest loss for each unit."""
        return {name: solver.hull(options)[-1] for name, options in self.options.items()}

    def within(self, budget: Budget) -> dict[str, int]:
        """Return a choice of formats for all units that stays within the budget. For a budget of KL
        divergence, the units' losses are added up.
        """
        if budget.kind == "kl":
            return solver.within_loss(self.options, budget.amount)
        self.require_room(budget)
        room, cheapest = budget.room(self.plan.shapes.numbers), solver.cheapest(self.options)
        aligned = room - self.size(cheapest) + sum(one.bytes for one in self._taken(cheapest))
        while True:
            chosen = solver.within_bytes(self.options, aligned)
            if (over := self.size(chosen) - room) <= 0:
                return chosen
            aligned -= over

    def _taken(self, chosen: Mapping[str, int]) -> list[Option]:
        return [self.options[unit][k] for unit, k in chosen.items()]


def offers(checkpoint: ExportSource, plans: Sequence[Plan], progress: Progress) -> Offers:
    """Round each unit to every format that it has in these plans, and return these formats with their bytes
    and rounding errors.
    """
    formats, forms, sizes, errors = {}, {}, {}, {}
    stage, units = "rounding each group of weights to all formats", plans[0].units
    for done, (unit, leaves) in enumerate(units.items()):
        progress(stage, done, len(units))
        own: list[Formats] = []
        for plan in plans:
            if (one := {leaf: plan.formats[leaf] for leaf in leaves}) not in own:
                own.append(one)
        offered = sorted((_offer(checkpoint, plans[0], one) for one in own), key=lambda offer: offer[:2])
        sizes[unit], errors[unit], formats[unit], forms[unit] = zip(*offered, strict=True)
    smallest = {leaf: form for own in formats.values() for leaf, form in own[0].items()}
    return Offers(replace(plans[0], formats=smallest), formats, forms, sizes, errors)


def _offer(
    checkpoint: ExportSource, plan: Plan, formats: Formats
) -> tuple[int, float, Formats, dict[str, KernelForm]]:
    """Return the bytes of a unit in these formats, its rounding error Σ(ŵ − w)², the formats, and the forms
    of its groups in kernels.data.
    """
    plan, error, forms = replace(plan, formats=formats), 0.0, dict[str, KernelForm]()
    for group in plan.groups_of(formats).values():
        leaves = {name: leaf(checkpoint, name, formats[name], plan.dtype) for name in group.leaves}
        for name, rounded in leaves.items():
            if not formats[name].native:
                error += float(np.square(_floats(rounded) - checkpoint.leaf(name), dtype=np.float64).sum())
        if plan.has_kernels and kernel_storage.has_scales(group):
            forms[group.name] = kernel_storage.form(group, weight_storage.store(group, leaves))
    forms = kernel_storage.alike(forms)
    return plan.read_bytes(formats, forms), error, formats, forms


def choices(checkpoint: ExportSource, offers: Offers, texts: Texts, progress: Progress) -> Choices:
    """Return the offered formats with their losses. Only the loss of each unit's smallest format is measured;
    the losses of the other formats are scaled from it.
    """
    text = texts.measured
    stage = f"measuring what each of {len(offers.formats)} groups of weights costs, over {text.size} tokens"
    progress(stage, 0, 1)
    changed = {
        unit: {
            name: partial(_rounded, checkpoint, name, form, offers.plan.dtype)
            for name, form in own[0].items()
        }
        for unit, own in offers.formats.items()
    }
    measured = sensitivity.losses(checkpoint, text, changed, partial(progress, stage))
    shares = {unit: [one / (errors[0] or 1) for one in errors] for unit, errors in offers.errors.items()}
    if texts.rounded is not None:
        shares |= _shares_with_feedback(checkpoint, offers, texts.rounded, progress)
    options = {
        unit: [
            Option(size, _three_digits(measured[unit] * share))
            for size, share in zip(offers.bytes[unit], shares[unit], strict=True)
        ]
        for unit in offers.errors
    }
    return Choices(offers.plan, offers.formats, offers.forms, offers.bytes, offers.errors, options)


def _shares_with_feedback(
    checkpoint: ExportSource, offers: Offers, text: Array, progress: Progress
) -> dict[str, list[float]]:
    """Return the loss of each format of a unit if it is rounded with feedback, as a share of the loss of the
    first format rounded to nearest.

    Columns don't depend on each other, so only `SAMPLED` columns of each weight are rounded.
    """
    shares: dict[str, list[float]] = {}
    stage = f"rounding {SAMPLED} columns of each matrix to all formats, over {text.size} tokens"
    progress(stage, 0, 1)

    def layer_read(found: Mapping[str, feedback.Inputs], done: int, total: int) -> None:
        for unit, own in offers.formats.items():
            if own[0].keys() <= found.keys():
                columns = {name: _sampled(checkpoint.leaf(name), name) for name in own[0]}
                nearest = _error(columns, own[0], found, compensating=False)
                errors = [_error(columns, formats, found, compensating=True) for formats in own]
                shares[unit] = [one / (nearest or 1) for one in errors]
        progress(stage, done, total)

    names = {name for own in offers.formats.values() for name in own[0]}
    with threadpool_limits(1, "blas"):
        feedback.measure(checkpoint, text, names, layer_read)
    return shares


def _sampled(weight: Array, name: str) -> Array:
    """Return at most `SAMPLED` columns of a matrix [D, F], or rows of a table [N, D], at equal distances."""
    axis = 0 if is_table(name) else 1
    count = weight.shape[axis]
    return weight.take(np.arange(min(count, SAMPLED)) * count // min(count, SAMPLED), axis=axis)


def _error(
    weights: Mapping[str, Array],
    formats: Formats,
    inputs: Mapping[str, feedback.Inputs],
    *,
    compensating: bool,
) -> float:
    """Return the sum of tr(Eᵀ H E) over weights that are rounded to these formats, where E is the rounding
    error. Weights that keep the file's own blocks add 0.
    """
    total = 0.0
    for name, weight in weights.items():
        form, read = formats[name], inputs[name]
        if form.native:
            continue
        with_feedback = compensating and form.searched
        importance = read.importance if with_feedback else None
        blocks = rounding.rounded(weight, form, axis=int(is_table(name)), importance=importance)
        if with_feedback:
            blocks = feedback.compensating(weight, blocks, read, form)
        total += feedback.error(weight, blocks, read, form)
    return total


def _rounded(checkpoint: ExportSource, name: str, form: WeightFormat, dtype: str) -> Array:
    """Return a parameter as floats after it was rounded to a format, each number to the nearest code."""
    return checkpoint.leaf(name) if form.native else _floats(leaf(checkpoint, name, form, dtype))


def _floats(stored: Any) -> Array:
    assert isinstance(stored, Blocks)
    return dequantize(replace(stored, scale=stored.scale.astype(np.float32)))


def _three_digits(x: float) -> float:
    return float(f"{x:.2e}")


def fitted(
    choices: Choices,
    budget: Budget,
    written: Callable[[Mapping[str, int]], T],
    measured: Callable[[T], float],
) -> T:
    """Choose each unit's format within the budget, and return the result of calling `written` with the
    choice.

    A budget of KL divergence applies to the loss of the whole model, which `measured` returns. As long as
    that loss is well below or above the budget, the limit for the sum of the units' losses is raised or
    lowered in proportion. In the end, the smallest choice within the budget is written. If no choice was
    within the budget, the most accurate choice is tried.

    Raises ExportError if no choice is within the budget.
    """
    if budget.kind != "kl":
        return written(choices.within(budget))
    tries: list[tuple[dict[str, int], T, float]] = []

    def attempt(options: dict[str, int]) -> None:
        made = written(options)
        tries.append((options, made, measured(made)))

    goal, above = budget.amount, False
    for _ in range(MOST_TRIES):
        options = choices.within(replace(budget, amount=goal))
        if all(options != one for one, _, _ in tries):
            attempt(options)
        loss = next(loss for one, _, loss in tries if one == options)
        if loss > budget.amount:
            if options == choices.finest:
                break
            above = True
        elif above or loss >= ENOUGH * budget.amount or options == solver.cheapest(choices.options):
            break
        goal *= MARGIN * budget.amount / max(loss, 1e-9)
    fitting = [options for options, _, loss in tries if loss <= budget.amount]
    best = min(fitting, key=choices.size, default=choices.finest)
    if best != tries[-1][0]:
        attempt(best)
    _, made, loss = tries[-1]
    if loss <= budget.amount:
        return made
    raise ExportError(f"budget must be at least kl={1.01 * loss:.2e} for this model, got {budget}")


def whole(
    checkpoint: ExportSource,
    names: Iterable[str],
    stored: Callable[[str], Any],
    text: Array,
    progress: Progress,
) -> float:
    """Return the model's loss over a text if the parameters `names` have the values that `stored` returns.
    Products are computed in floating point.
    """

    stage = f"measuring the whole over {text.size} tokens"
    progress(stage, 0, 1)
    changed = {name: lambda name=name: _floats(stored(name)) for name in names}
    return sensitivity.losses(checkpoint, text, {"all": changed}, partial(progress, stage))["all"]
