"""Which forms of decoders each layout takes, and what the runtime lacks for the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import tiny_models
from tfm.export.layouts.convert import LAYOUTS
from tfm.refimpl.config import Attention, Decoder
from tfm.runtime.bundle import targets

NO_STATE = "no input for the states of layer 0"
SHAPES = "one shape for the states"


def convolutions(last: Attention | None = None) -> Decoder:
    """LFM2's form: two convolutions of one size around attention, or before two layers with attention."""
    base = tiny_models.convolutions()
    first, attention, _ = (layer.attention for layer in base.layers)
    return tiny_models.with_mixers(base, first, attention, last or first)


def of_the_first(config: Decoder) -> Decoder:
    """The first two layers of a model, and the first again: its states have one shape."""
    first, second, *_ = config.layers
    return tiny_models.of_layers(config, (first, second, first))


def attention() -> Attention:
    mixer = tiny_models.convolutions().layers[1].attention
    assert isinstance(mixer, Attention)
    return mixer


# What each layout says of a form: nothing of those that it takes.
FORMS = {
    "convolutions": (convolutions(), "", "", NO_STATE),
    "convolutions of several sizes": (tiny_models.convolutions(), SHAPES, "", NO_STATE),
    "convolutions beside heads of several sizes": (
        convolutions(replace(attention(), kv_heads=1)), "the same heads", "", NO_STATE
    ),
    "convolutions beside layers that read others": (
        convolutions(replace(attention(), kv_layer=1)), "read others' keys", "", NO_STATE
    ),
    "gated delta networks": (of_the_first(tiny_models.gated_deltas()), "", "", NO_STATE),
    "Mamba": (of_the_first(tiny_models.selective_scans()), "", "", NO_STATE),
    "linear units": (of_the_first(tiny_models.linear_units()), "", "", NO_STATE),
    "Mamba 2 beside attention": (tiny_models.state_spaces(), SHAPES, "", NO_STATE),
    "Mamba without attention": (
        tiny_models.of_layers(tiny_models.selective_scans(), tiny_models.selective_scans().layers[:1]),
        "", "no layer of this model has keys", NO_STATE,
    ),
    "RWKV": (
        tiny_models.time_mixes(), "past_key_values.0.recurrent_state", "past_conv.0 and past_ssm.0", NO_STATE
    ),
    "lightning attention": (
        tiny_models.of_layers(tiny_models.ling(), tiny_models.ling().layers[1:]),
        "past_key_values.1.conv_state has 3 axes, but the state of layer 1 has 4", "", "layer 1",
    ),
    "delta networks and latents": (of_the_first(tiny_models.kimi()), "", "", NO_STATE),
    "latents of several sizes": (tiny_models.latents(), "", "", "the same heads"),
    "latents": (of_the_first(tiny_models.latents()), "", "", "the same heads"),
    "latents and an indexer": (tiny_models.indexed(), "", "", "the same heads"),
    "an indexer of blocks": (
        tiny_models.indexed_blocks(), *["layer 0 also caches an indexer's keys"] * 3
    ),
    "heads by layer": (tiny_models.heads_by_layer(), "", "", "the same heads"),
    "layers that read others' keys": (tiny_models.altup(), "", "", "the same heads"),
    "windows": (tiny_models.mixed_windows(), "", "", "the same heads"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_layout_takes_a_form_or_says_what_its_runtime_lacks(form: str):
    config, *expected = FORMS[form]
    for layout, words in zip(LAYOUTS.values(), expected, strict=True):
        refused = layout.refusal(config, targets.find("ort-cpu"))
        assert words in refused if refused and words else refused is None and not words, layout.name
