"""Each input and output of each kind of model has its meaning."""

from __future__ import annotations

import pytest
from helpers import tiny_models
from tfm.refimpl.config import Config
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.runtime.bundle.graph_io import ENCODER, graphs, meaning

CONFIGS = (
    tiny_models.mixed_windows(),
    tiny_models.recurrent(),
    tiny_models.convolutions(),
    tiny_models.gated_deltas(),
    tiny_models.state_spaces(),
    tiny_models.selective_scans(),
    tiny_models.indexed(),
    tiny_models.indexed_blocks(),
    tiny_models.kimi(),
    tiny_models.encoder(),
    tiny_models.encoder_decoder(),
    tiny_models.hearing(),
    tiny_models.spelling(),
    tiny_models.writing(),
)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("row_lengths", [False, True])
def test_ports_have_meanings(config: Config, row_lengths: bool):
    for graph in graphs(config, windowed=True, row_lengths=row_lengths):
        assert all(meaning(port.name) for port in (*graph.inputs, *graph.outputs))


def test_a_graph_that_hears_has_no_table_of_tokens():
    config = tiny_models.hearing()
    encoder, decoder = graphs(config)
    leaves = dict.fromkeys(parameter_shapes(config))
    heard, written = set(encoder.owned(leaves)), set(decoder.owned(leaves))
    assert encoder.file == ENCODER
    assert heard | written == set(leaves)
    assert not heard & written
    assert "embedding.table" in written
