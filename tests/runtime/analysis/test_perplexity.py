"""Each way stretches positions as its name says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import tiny_models
from tfm.refimpl.config import DynamicNTK, LinearScaling, Llama3Scaling, LongRope, Rope, Yarn
from tfm.runtime.analysis import perplexity


def scalings(config) -> list:
    return [rope.scaling for rope in config.ropes]


def test_the_ways_of_rotary_positions():
    config = tiny_models.llama(context=100)
    models = perplexity.ways(config, 250, 2.5)
    assert {name: scalings(c) for name, c in models.items()} == {
        "none": [None],
        "linear": [LinearScaling(2.5)],
        "dynamic-ntk": [DynamicNTK(2.5, 100)],
        "yarn": [Yarn(2.5, 100)],
        "llama3": [Llama3Scaling(2.5, 1.0, 4.0, 100)],
    }
    assert {c.context for c in models.values()} == {250}


@pytest.mark.parametrize(
    ("own", "further"),
    [
        (LinearScaling(2.0), LinearScaling(6.0)),
        (Yarn(2.0, 50), Yarn(6.0, 50)),
        (Llama3Scaling(2.0, 1.0, 4.0, 50), Llama3Scaling(6.0, 1.0, 4.0, 50)),
        (DynamicNTK(2.0, 50), None),
        (LongRope((1.0,) * 8, (2.0,) * 8, 50), None),
    ],
)
def test_what_is_scaled_is_scaled_further(own, further):
    config = perplexity.stretched(tiny_models.llama(), lambda rope: replace(rope, scaling=own))
    models = perplexity.ways(config, 384, 3.0)
    assert {name: scalings(c) for name, c in models.items()} == {"none": [own]} | (
        {"further": [further]} if further else {}
    )


def test_layers_without_rotary_positions_stay():
    """Only rotary layers are changed in a model that has others."""
    config = tiny_models.added_positions()
    assert perplexity.stretched(config, lambda rope: Rope(1.0, rope.dims)) == config


def test_which_ways_give_the_same_positions():
    """Equal up to rounding, at every position of the text; the first one stands for the others."""
    short = tiny_models.llama(context=100)
    within = perplexity.ways(short, 80, 4.0)
    assert perplexity.same_positions(within, 80) == {name: name for name in within} | {"dynamic-ntk": "none"}
    unstretched = perplexity.ways(short, 80, 1.0)
    assert set(perplexity.same_positions(unstretched, 80).values()) == {"none"}
    del unstretched["none"]
    assert set(perplexity.same_positions(unstretched, 80).values()) == {"linear"}
    nearly = {
        name: perplexity.stretched(short, lambda rope, f=factor: replace(rope, scaling=LinearScaling(f)))
        for name, factor in (("one", 1.0), ("more", 1 + 8e-10), ("most", 1 + 16e-10))
    }
    assert perplexity.same_positions(nearly, 2) == {"one": "one", "more": "one", "most": "most"}
    assert perplexity.same_positions(nearly, 10_000) == {name: name for name in nearly}
