"""Each input and output of each kind of model has its meaning."""

from __future__ import annotations

import pytest
from helpers import tiny_models
from tfm.refimpl.config import Config
from tfm.runtime.bundle.graph_io import graphs, meaning

CONFIGS = (
    tiny_models.mixed_windows(),
    tiny_models.recurrent(),
    tiny_models.convolutions(),
    tiny_models.gated_deltas(),
    tiny_models.state_spaces(),
    tiny_models.selective_scans(),
    tiny_models.indexed(),
    tiny_models.kimi(),
    tiny_models.encoder(),
    tiny_models.encoder_decoder(),
)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("row_lengths", [False, True])
def test_ports_have_meanings(config: Config, row_lengths: bool):
    for graph in graphs(config, windowed=True, row_lengths=row_lengths):
        assert all(meaning(port.name) for port in (*graph.inputs, *graph.outputs))
