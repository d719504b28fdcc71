"""Each rule of `decompose`, in a graph for ONNX Runtime against the function in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.onnx_graph import Graph, Module
from tfm.export.graph import trace
from tfm.export.graph.decompose import RULES
from tfm.export.scan import scan
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.nn import functional

# Each rule, where lengths depend on the input [B, T, 12] and where memory isn't in the order of the axes.
CASES: dict[str, Callable[[Tensor], Any]] = {
    "and": lambda x: torch.where((x > 0) & (x < 1), x, 0.0),
    "or": lambda x: torch.where((x < 0) | (x > 1), x, 0.0),
    "chunk": lambda x: torch.cat(x.chunk(5, -1)[1:][::-1], -1),
    "clip": lambda x: x.clip(-0.5, 0.5) + x.clip(max=0.25),
    "detach_": lambda x: x + torch.tensor(2.0),
    "expand_as": lambda x: x[:, :1].expand_as(x.mul(2)) + 1,
    "flatten to the end": lambda x: x.transpose(0, 1).unflatten(-1, (3, 4)).flatten(-2) + 1,
    "flatten lengths": lambda x: x.transpose(0, 1).flatten(0, 1),
    "flatten all": lambda x: x.mT.flatten(),
    "mT": lambda x: x.mT + 1,
    "narrow": lambda x: x.narrow(-1, 3, 4) + x.narrow(-1, 1, 4),
    "narrow by a length": lambda x: torch.cat([x, -x], 1).narrow(1, x.shape[1], x.shape[1]),
    "T": lambda x: x[0].T,
    "reshape": lambda x: x.transpose(1, 2).reshape(x.shape[0], -1),
    "rms_norm": lambda x: functional.rms_norm(x, x.shape[-1:], None, 1e-3),
    "rms_norm with weights": lambda x: functional.rms_norm(x, x.shape[-1:], torch.arange(12.0), 0.5),
    "rsub": lambda x: 2 - x,
    "rsub of a multiple": lambda x: torch.rsub(x, 2, alpha=2),  # exact, also where torch rounds once
    "swapaxes": lambda x: x.swapaxes(1, 2) + 1,
    "tensor_split": lambda x: torch.cat(x.tensor_split((5, 9), -1)[::-1], -1),
    "unflatten": lambda x: x.transpose(0, 1).unflatten(-1, (3, -1)),
    "unflatten a length": lambda x: torch.cat([x, x], 1).unflatten(1, (2, -1)),
    "index_add": lambda x: x[0].mT.index_add(0, torch.tensor([1, 0, 1]), x[1].mT[:3]),
    "index_add to columns": lambda x: x.index_add(-1, torch.tensor([1, 0, 1]), x[..., 2:5]),
}


def graph(function: Callable[[Tensor], Any]) -> Any:
    axes = ({0: Dim("B"), 1: Dim("T", min=2)},)
    program = torch.export.export(Module(function), (torch.zeros(3, 5, 12),), dynamic_shapes=(axes,))
    with trace.decomposed_in_place():
        return torch.onnx.export(program, dynamo=True, verbose=False, opset_version=21, optimize=False)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_rule_is_torchs_decomposition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(program: ExportedProgram, table: Any) -> ExportedProgram:
        raise AssertionError(f"torch decomposes {program.graph}")

    monkeypatch.setattr(ExportedProgram, "run_decompositions", refused)
    written = graph(CASES[name])
    assert written is not None
    x = np.random.default_rng(0).standard_normal((2, 4, 12)).astype(np.float32)
    (got,) = Graph(written.model_proto)(x)
    expected = CASES[name](torch.from_numpy(x)).numpy()
    assert got.shape == expected.shape
    np.testing.assert_array_max_ulp(got, expected, 4 if "rms" in name else 0)


def test_every_rule_has_a_case() -> None:
    graphs = [
        torch.export.export(Module(case), (torch.zeros(3, 5, 12),)).graph.nodes for case in CASES.values()
    ]
    assert {node.target for nodes in graphs for node in nodes} >= set(RULES)


@pytest.mark.filterwarnings("ignore")
def test_graphs_within_the_graph_are_left_to_torch() -> None:
    """A loop's step has operators that ONNX lacks, which aren't among those of the program's own graph."""

    def sums(x: Tensor) -> Tensor:
        def step(total: Tensor, row: Tensor) -> list[Tensor]:
            total = total + functional.rms_norm(row, row.shape[-1:], None, 0.5)
            return [total, total.clone()]

        return scan(step, [torch.zeros_like(x[:, 0])], [x.transpose(0, 1).clone()])[1]

    x = np.random.default_rng(0).standard_normal((2, 4, 12)).astype(np.float32)
    (got,) = Graph(graph(sums).model_proto)(x)
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.5)
    np.testing.assert_allclose(got, normed.cumsum(1).swapaxes(0, 1), rtol=1e-4, atol=1e-5)
