"""quant=auto: gives each matrix a format within a budget, by what the model loses with the format.

    measured   one pass over a text for each unit (`Plan.units`), rounded to its format of the fewest bytes
    scaled     to its other formats, by Σ(ŵ − w)²: a small loss is a quadratic form of the rounding error
    chosen     `refimpl.calibrate.budget`

Losses are rounded to three digits first, so that the last digits of a processor's sums rarely matter. On one
machine, the same input gives the same plan; on another machine, it nearly always does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...refimpl.calibrate import budget as solver
from ...refimpl.calibrate.budget import Option
from ...refimpl.checkpoint.protocol import ExportSource
from ...refimpl.errors import ExportError
from ...refimpl.ops.quant import Blocks, dequantize
from ...runtime.bundle import rounding
from ...runtime.bundle.plan import Plan
from ...runtime.bundle.weight_formats import WeightFormat, is_table
from ...runtime.progress import Progress
from . import calibrate, sensitivity
from .plan import Budget

Array = np.ndarray
Formats = Mapping[str, WeightFormat]
T = TypeVar("T")
MEASURED_TOKENS = 2048
# For a KL divergence: how many choices are tried at most, which part of it is near enough, and how much of it
# the next choice aims at.
MOST_TRIES = 4
ENOUGH, MARGIN = 0.8, 0.95
# Of the passes together: with more, fewer tokens are read, but one row.
MOST_PRODUCTS = 4_000_000_000_000


@dataclass(frozen=True)
class Texts:
    """Rows of tokens over which losses are measured, and those over which matrices are rounded, if any.

    If there are enough rows, no row is in both.
    """

    measured: Array
    rounded: Array | None


def texts(checkpoint: ExportSource, given: Path | None, why: str, products: int, progress: Progress) -> Texts:
    """Return the rows of a text: the given one, else one that the model samples, one of tfm's own, or
    random tokens.

    `why` says why matrices can't be rounded over a text (`calibrate.without_feedback`). `products` is the
    number of products of a token in all passes.
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
class Choices:
    """The formats in which each unit can be stored, with the bytes and the loss of each."""

    plan: Plan  # each unit in its format of the fewest bytes
    formats: Mapping[str, Sequence[Formats]]
    options: Mapping[str, Sequence[Option]]

    @property
    def finest(self) -> dict[str, int]:
        """Return, for each unit, the option that loses least."""
        return {name: solver.hull(options)[-1] for name, options in self.options.items()}

    def within(self, budget: Budget) -> dict[str, int]:
        """Return each unit's option within the budget. For a `kl` budget, the units' losses are summed."""
        if budget.kind == "kl":
            return solver.within_loss(self.options, budget.amount)
        require_room(self.plan, budget)
        room = budget.room(self.plan.shapes.numbers)
        aligned = room - self.plan.size + sum(one.bytes for one in self._taken(solver.cheapest(self.options)))
        while True:
            chosen = solver.within_bytes(self.options, aligned)
            if (over := self.with_formats(chosen).size - room) <= 0:
                return chosen
            aligned -= over

    def with_formats(self, chosen: Mapping[str, int]) -> Plan:
        """Return the plan with each unit's option."""
        formats = dict(self.plan.formats)
        for unit, k in chosen.items():
            formats |= self.formats[unit][k]
        return replace(self.plan, formats=formats)

    def _taken(self, chosen: Mapping[str, int]) -> list[Option]:
        return [self.options[unit][k] for unit, k in chosen.items()]


def smallest(plans: Sequence[Plan]) -> Plan:
    """Return the plan in which each unit has that format of these plans that takes the fewest bytes."""
    formats: dict[str, WeightFormat] = {}
    for own in _formats(plans).values():
        formats |= own[0]
    return replace(plans[0], formats=formats)


def require_room(least: Plan, budget: Budget) -> None:
    """Raise ExportError if the budget has fewer bytes than the smallest plan."""
    numbers = least.shapes.numbers
    if budget.kind == "kl" or least.size <= budget.room(numbers):
        return
    if budget.kind == "bits":
        wanted = f"bits must be at least {math.ceil(800 * least.size / numbers) / 100}"
    else:
        wanted = f"budget must be at least {math.ceil(least.size / 1000)}kB"
    raise ExportError(f"{wanted} for this model, got {budget}")


def _formats(plans: Sequence[Plan]) -> dict[str, list[dict[str, WeightFormat]]]:
    """Unit -> its formats in these plans, those of fewer bytes first."""
    base, formats = plans[0], dict[str, list[dict[str, WeightFormat]]]()
    for unit, leaves in base.units.items():
        own = [{leaf: plan.formats[leaf] for leaf in leaves} for plan in plans]
        own.sort(key=lambda one: replace(base, formats=one).stored_bytes(one))
        formats[unit] = [one for i, one in enumerate(own) if one not in own[:i]]
    return formats


def choices(checkpoint: ExportSource, plans: Sequence[Plan], text: Array, progress: Progress) -> Choices:
    """Return the formats in which each unit can be stored: its formats in these plans."""
    base, formats = smallest(plans), _formats(plans)
    coarsest = {unit: own[0] for unit, own in formats.items()}
    stage = f"measuring what each of {len(formats)} groups of weights costs, over {text.size} tokens"
    progress(stage, 0, 1)
    changed = {
        unit: {leaf: partial(_rounded, checkpoint, leaf, form) for leaf, form in own.items()}
        for unit, own in coarsest.items()
    }
    measured = sensitivity.losses(checkpoint, text, changed, partial(progress, stage))
    options: dict[str, list[Option]] = {}
    stage = "measuring what other formats would cost"
    for done, (unit, own) in enumerate(formats.items()):
        progress(stage, done, len(formats))
        errors = _errors(checkpoint, own)
        options[unit] = [
            Option(replace(base, formats=one).stored_bytes(one), _three_digits(measured[unit] * share))
            for one, share in zip(own, errors / (errors[0] or 1), strict=True)
        ]
    return Choices(base, formats, options)


def _rounded(checkpoint: ExportSource, name: str, form: WeightFormat) -> Array:
    """A parameter as it is in a format, each number rounded to the nearest."""
    weight = checkpoint.leaf(name)
    if form.native:
        return weight
    return dequantize(rounding.rounded(weight, form, axis=1 if is_table(name) else 0))


def _errors(checkpoint: ExportSource, options: Sequence[Formats]) -> Array:
    """Σ(ŵ − w)² of a unit in each of its formats."""
    errors = np.zeros(len(options))
    for name in options[0]:
        weight = checkpoint.leaf(name)
        for k, one in enumerate(options):
            if not one[name].native:
                errors[k] += np.square(_rounded(checkpoint, name, one[name]) - weight, dtype=np.float64).sum()
    return errors


def _three_digits(x: float) -> float:
    return float(f"{x:.2e}")


def fitted(
    choices: Choices,
    budget: Budget,
    written: Callable[[Mapping[str, int]], T],
    measured: Callable[[T], float],
) -> T:
    """Choose each unit's option within the budget, and return what `written` makes of the options.

    A budget of KL divergence applies to what is `measured` of the whole model. As long as that is well below
    or above the budget, the units may lose more or less than before, in proportion. In the end, the smallest
    choice within the budget is written, or the finest one if none was within it.

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
    best = min(fitting, key=lambda one: choices.with_formats(one).size, default=choices.finest)
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
    """Return what the model loses with the parameters of these names as they are `stored`, products in
    float."""

    def floats(name: str) -> Array:
        leaf = stored(name)
        assert isinstance(leaf, Blocks)
        return dequantize(replace(leaf, scale=leaf.scale.astype(np.float32)))

    stage = f"measuring the whole over {text.size} tokens"
    progress(stage, 0, 1)
    changed = {name: partial(floats, name) for name in names}
    return sensitivity.losses(checkpoint, text, {"all": changed}, partial(progress, stage))["all"]
