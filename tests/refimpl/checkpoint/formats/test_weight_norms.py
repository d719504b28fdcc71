"""Weights that are stored as lengths and directions are torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.refused import refused
from safetensors.torch import save_file
from tfm.refimpl.checkpoint.formats.named_tensors import WeightNormed
from tfm.refimpl.checkpoint.formats.safetensors import SafeTensors
from tfm.refimpl.errors import CheckpointError


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older function's own
@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("older", [False, True])
def test_weights_are_torchs(tmp_path: Path, axis: int, older: bool):
    conv = torch.nn.Conv1d(3, 4, 5)
    made = (torch.nn.utils if older else torch.nn.utils.parametrizations).weight_norm(conv, dim=axis)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape))
        made(torch.zeros(1, 3, 5))  # the older one makes its weight there
    save_file({f"a.{name}": value for name, value in made.state_dict().items()}, tmp_path / "m.safetensors")
    source = WeightNormed(SafeTensors(tmp_path / "m.safetensors"))
    assert set(source.names) == {"a.weight", "a.bias"}
    assert source.shape("a.weight") == (4, 3, 5)
    np.testing.assert_array_equal(source.load("a.weight", 1), source.load("a.weight")[1])
    np.testing.assert_allclose(source.load("a.weight"), made.weight.detach().numpy(), rtol=2e-6)


def test_lengths_of_other_axes_are_refused(tmp_path: Path):
    save_file(
        {"a.weight_g": torch.ones(1, 1, 3), "a.weight_v": torch.ones(2, 3, 5)}, tmp_path / "m.safetensors"
    )
    with refused(CheckpointError, "a.weight_g", [1, 1, 3]):
        WeightNormed(SafeTensors(tmp_path / "m.safetensors"))


def test_a_weight_beside_its_lengths_and_directions_is_refused(tmp_path: Path):
    ones = {"a.weight_g": torch.ones(2, 1), "a.weight_v": torch.ones(2, 3), "a.weight": torch.ones(2, 3)}
    save_file(ones, tmp_path / "m.safetensors")
    with refused(CheckpointError, "a.weight", "a.weight_v"):
        WeightNormed(SafeTensors(tmp_path / "m.safetensors"))
