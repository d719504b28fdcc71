"""Choose a format for each unit of a model, within a budget of bytes or loss. A unit is a group of weights
that share one format.

Unit u has several options. Option k needs b_uk bytes and has the loss l_uk, which is the model's loss if
only u is stored in this format. For small errors, the loss is a quadratic form of the errors. Errors of
different units hardly correlate. So the losses of units add up:

    minimize  Σ_u l_{u,k(u)}   where  Σ_u b_{u,k(u)} ≤ bytes      (`within_bytes`)
    minimize  Σ_u b_{u,k(u)}   where  Σ_u l_{u,k(u)} ≤ loss       (`within_loss`)

With a price λ per byte, both problems separate into one problem for each unit: the unit takes the option
with the least l + λ b. This option lies on the lower convex hull of the unit's options. As λ falls, units
move along their hulls to larger options, one step at a time. The step that saves the most loss per byte
comes first (Everett 1963; Shoham and Gersho 1988). At each price, no other choice with the same number of
bytes has less loss. A budget lies between two such choices. So after the last step that fits, some bytes
may be unused, but fewer than the next step needs.

**Conventions**: if options have equal bytes, the option with less loss is used. If options are equal, the
first option is used. If steps are equally good, units come in the order of their names. The result doesn't
depend on the order of the units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple


class Option(NamedTuple):
    """One way to store a unit of weights: how many bytes it needs, and how much loss it causes. The loss
    is at least 0, in any unit of measure.
    """

    bytes: int
    loss: float


class _Step(NamedTuple):
    """A step from one option of a unit's hull to the next, with more bytes and less loss."""

    unit: str
    to: int
    bytes: int
    saved: float


Units = Mapping[str, Sequence[Option]]


def hull(options: Sequence[Option]) -> list[int]:
    """Return the indices of the options on the lower convex hull of loss over bytes, sorted by bytes.

    Each of these options has less loss than the previous one, and saves less loss per additional byte."""
    found: list[int] = []
    for k in sorted(range(len(options)), key=lambda k: (*options[k], k)):
        if found and options[k].loss >= options[found[-1]].loss:
            continue
        while len(found) > 1 and _slope(options, found[-2], found[-1]) <= _slope(options, found[-1], k):
            found.pop()
        found.append(k)
    return found


def _slope(options: Sequence[Option], a: int, b: int) -> float:
    """Return how much loss each additional byte saves from one option to a larger one."""
    return (options[a].loss - options[b].loss) / (options[b].bytes - options[a].bytes)


def cheapest(units: Units) -> dict[str, int]:
    """Return, for each unit, the index of the option with the fewest bytes."""
    return {name: hull(options)[0] for name, options in units.items()}


def _steps(units: Units) -> list[_Step]:
    """Return the steps of all units. The steps that save the most loss per byte come first."""
    steps: list[_Step] = []
    for name, options in units.items():
        ends = hull(options)
        for a, b in pairwise(ends):
            more, saved = options[b].bytes - options[a].bytes, options[a].loss - options[b].loss
            steps.append(_Step(name, b, more, saved))
    # Where rounding makes two steps of a unit equal, the smaller one is first.
    return sorted(steps, key=lambda s: (-s.saved / s.bytes, s.unit, units[s.unit][s.to].bytes))


def within_bytes(units: Units, budget: int) -> dict[str, int]:
    """Choose an option for each unit, with at most `budget` bytes for all units together. Returns the
    index of each unit's option.

    If even the cheapest options need more bytes, they are the result. After a step that doesn't fit, its
    unit takes no further steps, but smaller steps of other units are still taken.
    """
    chosen = cheapest(units)
    left = budget - sum(units[name][k].bytes for name, k in chosen.items())
    ended: set[str] = set()
    for step in _steps(units):
        if step.unit in ended or step.bytes > left:
            ended.add(step.unit)
            continue
        chosen[step.unit] = step.to
        left -= step.bytes
    return chosen


def within_loss(units: Units, budget: float) -> dict[str, int]:
    """Choose an option for each unit, with a loss of at most `budget` for all units together. Returns the
    index of each unit's option.

    If even the options with the least loss exceed the budget, they are the result. Steps are taken until
    the loss is small enough. Then steps that weren't needed are taken back, the last one first.
    """
    chosen, steps = cheapest(units), _steps(units)
    before: list[tuple[_Step, int]] = []

    def loss() -> float:
        return sum(units[name][chosen[name]].loss for name in sorted(units))

    for step in steps:
        if loss() <= budget:
            break
        before.append((step, chosen[step.unit]))
        chosen[step.unit] = step.to
    for step, earlier in reversed(before):
        if chosen[step.unit] == step.to:
            chosen[step.unit] = earlier
            if loss() > budget:
                chosen[step.unit] = step.to
    return chosen
