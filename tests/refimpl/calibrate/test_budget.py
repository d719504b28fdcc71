"""Bits by budget: against every choice there is, and what must hold for any options."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.calibrate.budget import Option, cheapest, hull, within_bytes, within_loss

OPTIONS = st.lists(st.builds(Option, st.integers(1, 9), st.integers(0, 9).map(float)), min_size=1, max_size=6)
UNITS = st.dictionaries(st.sampled_from("abcd"), OPTIONS, min_size=1)
Units = dict[str, list[Option]]


def total(units: Units, chosen: dict[str, int]) -> Option:
    taken = [units[name][k] for name, k in chosen.items()]
    return Option(sum(one.bytes for one in taken), sum(one.loss for one in taken))


def every(units: Units) -> list[Option]:
    """What all choices give, by brute force."""
    choices = itertools.product(*(range(len(options)) for options in units.values()))
    return [total(units, dict(zip(units, choice, strict=True))) for choice in choices]


@given(OPTIONS)
def test_the_hull_is_what_prices_choose(options: list[Option]):
    """Each option of it is the best at some price of a byte, and no option is better at any."""
    found = [options[k] for k in hull(options)]
    edges = [(a.loss - b.loss) / (b.bytes - a.bytes) for a, b in itertools.pairwise(found)]
    assert edges == sorted(edges, reverse=True)
    assert len(set(edges)) == len(edges)
    assert found[0] == min(options)
    assert found[-1].loss == min(one.loss for one in options)
    between = [sum(pair) / 2 for pair in itertools.pairwise(edges)]
    prices = [edges[0] + 1, *between, 0.0] if edges else [0.0]
    for price, one in zip(prices, found, strict=True):
        best = min(other.loss + price * other.bytes for other in options)
        assert one.loss + price * one.bytes == pytest.approx(best)


@given(UNITS, st.integers(0, 40))
def test_no_choice_of_as_few_bytes_loses_much_less(units: Units, budget: int):
    """Between two prices it is the best there is; a budget between them costs at most one step."""
    chosen = within_bytes(units, budget)
    assert chosen.keys() == units.keys()
    got, fewest = total(units, chosen), total(units, cheapest(units))
    assert got.bytes <= max(budget, fewest.bytes)
    if budget <= fewest.bytes:
        assert got == fewest
    best = min(one.loss for one in every(units) if one.bytes <= max(budget, fewest.bytes))
    largest = max(
        (
            options[a].loss - options[b].loss
            for options in units.values()
            for a, b in itertools.pairwise(hull(options))
        ),
        default=0,
    )
    assert best <= got.loss <= best + largest
    exact = within_bytes(units, got.bytes)
    assert total(units, exact).loss <= got.loss


@given(UNITS, st.integers(0, 40))
def test_no_choice_of_as_little_loss_is_much_smaller(units: Units, budget: int):
    chosen = within_loss(units, budget)
    got = total(units, chosen)
    least = min(one.loss for one in every(units))
    assert got.loss <= max(budget, least)
    best = min(one.bytes for one in every(units) if one.loss <= max(budget, least))
    largest = max(
        (
            options[b].bytes - options[a].bytes
            for options in units.values()
            for a, b in itertools.pairwise(hull(options))
        ),
        default=0,
    )
    assert best <= got.bytes <= best + largest


@given(UNITS, st.integers(0, 40), st.randoms())
def test_the_order_of_units_changes_nothing(units: Units, budget: int, random: object):
    names = list(units)
    random.shuffle(names)  # pyright: ignore[reportAttributeAccessIssue]
    other = {name: units[name] for name in names}
    assert within_bytes(other, budget) == within_bytes(units, budget)
    assert within_loss(other, budget) == within_loss(units, budget)


def test_what_lies_on_or_above_an_edge_is_no_corner():
    assert hull([Option(1, 3.0), Option(2, 2.0), Option(3, 1.0)]) == [0, 2]
    assert hull([Option(3, 0.0), Option(2, 7.0), Option(1, 8.0), Option(0, 10.0)]) == [3, 0], (
        "two fall at once"
    )


def test_what_saves_most_for_a_byte_comes_first():
    """A larger step that saves more in all then doesn't fit."""
    units = {"a": [Option(1, 10.0), Option(9, 2.0)], "b": [Option(1, 6.0), Option(3, 1.0)]}
    assert within_bytes(units, 10) == {"a": 0, "b": 1}
    assert within_loss(units, 11.0) == {"a": 0, "b": 1}


def test_ties_go_by_name():
    """Two like units, and room for one of them."""
    options = [Option(4, 3.0), Option(8, 1.0)]
    assert within_bytes({"z": options, "a": options}, 12) == {"a": 1, "z": 0}
    assert within_loss({"z": options, "a": options}, 4) == {"a": 1, "z": 0}


def test_a_step_that_does_not_fit_lets_smaller_ones_go_on():
    units = {"a": [Option(1, 100.0), Option(50, 0.0)], "b": [Option(1, 2.0), Option(3, 1.0), Option(9, 0.9)]}
    assert within_bytes(units, 5) == {"a": 0, "b": 1}
    assert within_bytes(units, 51) == {"a": 1, "b": 0}
    # Having left out a step, no unit jumps over it to a later one.
    jump = {"a": [Option(0, 9.0), Option(6, 3.0), Option(7, 2.5)]}
    assert within_bytes(jump, 5) == {"a": 0}


def test_what_need_not_have_been_is_taken_back():
    """The steep step of b isn't enough, the flat one of a is, and then b's isn't needed."""
    units = {"a": [Option(1, 10.0), Option(11, 0.0)], "b": [Option(1, 3.0), Option(2, 0.5)]}
    assert within_loss(units, 3.0) == {"a": 1, "b": 0}
    assert math.isclose(total(units, within_loss(units, 0.5)).loss, 0.5)
    # Of two that needn't have been, the later one is.
    like = {"a": [Option(1, 4.0), Option(3, 0.0)], "b": [Option(1, 3.0), Option(3, 0.0)]}
    assert within_loss(like | {"c": [Option(1, 20.0), Option(41, 0.0)]}, 4.0) == {"a": 1, "b": 0, "c": 1}
