"""Bits by budget: which of its formats each unit of a model takes, a unit being weights of one format.

Unit u has options k of b_uk bytes and loss l_uk, what the model loses if u alone is stored so. The loss of
small errors is a quadratic form of them, and errors of different units hardly correlate, so losses add:

    minimize  Σ_u l_{u,k(u)}   where  Σ_u b_{u,k(u)} ≤ bytes      (`within_bytes`)
    minimize  Σ_u b_{u,k(u)}   where  Σ_u l_{u,k(u)} ≤ loss       (`within_loss`)

With a price λ of a byte both fall apart: each unit takes the option of least l + λ b, which lies on the lower
convex hull of its options. As λ falls, units go up their hulls a step at a time, the step that saves the most
loss for a byte first (Everett 1963; Shoham and Gersho 1988). Between two prices this is the best choice for
its bytes; a budget lies between two of these choices, so the last step that fits may leave up to a step's
bytes.

**Conventions**: of options of equal bytes the one of less loss counts, of equal ones the first. Of equally
good steps the unit whose name sorts first comes first. Nothing depends on the order of the units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Option", "cheapest", "hull", "within_bytes", "within_loss"]


class Option(NamedTuple):
    """One way to store a unit: its bytes, and its loss from 0 on, in any unit of measure."""

    bytes: int
    loss: float


class _Step(NamedTuple):
    """From one option of a unit's hull to the next: more bytes, less loss."""

    unit: str
    to: int
    bytes: int
    saved: float


Units = Mapping[str, Sequence[Option]]


def hull(options: Sequence[Option]) -> list[int]:
    """The options on the lower convex hull, by their bytes: each loses less than the one before, and saves
    less for a byte."""
    found: list[int] = []
    for k in sorted(range(len(options)), key=lambda k: (*options[k], k)):
        if found and options[k].loss >= options[found[-1]].loss:
            continue
        while len(found) > 1 and _slope(options, found[-2], found[-1]) <= _slope(options, found[-1], k):
            found.pop()
        found.append(k)
    return found


def _slope(options: Sequence[Option], a: int, b: int) -> float:
    """What a byte saves on the way from one option to a larger one."""
    return (options[a].loss - options[b].loss) / (options[b].bytes - options[a].bytes)


def cheapest(units: Units) -> dict[str, int]:
    """Each unit's option of the fewest bytes."""
    return {name: hull(options)[0] for name, options in units.items()}


def _steps(units: Units) -> list[_Step]:
    """The steps of all units, those that save the most for a byte first."""
    steps: list[_Step] = []
    for name, options in units.items():
        ends = hull(options)
        for a, b in pairwise(ends):
            more, saved = options[b].bytes - options[a].bytes, options[a].loss - options[b].loss
            steps.append(_Step(name, b, more, saved))
    # Where rounding makes two steps of a unit equal, the smaller one is first.
    return sorted(steps, key=lambda s: (-s.saved / s.bytes, s.unit, units[s.unit][s.to].bytes))


def within_bytes(units: Units, budget: int) -> dict[str, int]:
    """Unit -> its option, of all units at most `budget` bytes; the cheapest ones if these are more.

    A step that doesn't fit ends its unit's way, and smaller ones of other units go on.
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
    """Unit -> its option, of all units at most `budget` of loss; those of least loss if these lose more.

    Steps are taken until the loss is small enough; then those that needn't have been are taken back, the
    last one first.
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
