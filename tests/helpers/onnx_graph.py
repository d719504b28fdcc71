"""A function as an ONNX graph on ONNX Runtime's CPU provider, with the declared letters as its axes."""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from tfm.export.graph import passes, trace
from tfm.export.graph.decompose import TRANSLATED
from tfm.runtime.ort.session import options
from torch._export import utils as _utils
from torch.export import decomp_utils, exported_program
from torch.onnx._internal.exporter import _registration

# Axes whose length is known only when a graph runs; all others come from weights and are numbers.
FREE = frozenset("BTSLOPMYZ")
# Traced sizes: at least 2 and all different, or the exporter would take two axes for one.
TRACED = {"B": 3, "T": 5, "S": 7, "O": 6, "P": 4, "M": 13, "Y": 11, "Z": 12}
FIXED = {"G": 2, "R": 3, "H": 4, "K": 8, "J": 2, "U": 1, "V": 9, "D": 10, "F": 14, "N": 17}
FIXED |= {"A": 3, "I": 2, "Q": 6, "X": 3, "W": 12, "E": 5, "C": 15}

# The exporter parses its 500 functions and lists torch's operators anew for each graph; in a test process
# once is enough.
_read = functools.cache(_registration.ONNXRegistry.from_torchlib)
_registration.ONNXRegistry.from_torchlib = staticmethod(_read)
_listed = functools.cache(_utils._collect_all_valid_cia_ops)
for _module in (decomp_utils, exported_program):
    _module._collect_all_valid_cia_ops = _listed
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class Module(torch.nn.Module):
    """A function of tensors for the exporter."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


class Graph:
    """Runs the exported function: arrays in the order of its inputs, a list of arrays out."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options(1), providers=["CPUExecutionProvider"]
        )
        self.inputs = [i.name for i in self.session.get_inputs()]

    def __call__(self, *arrays: np.ndarray) -> list[Any]:
        return list(self.session.run(None, dict(zip(self.inputs, arrays, strict=True))))


def export(
    function: Callable[..., Any],
    inputs: dict[str, tuple[np.ndarray, tuple[str, ...]]],
    opset: int,
) -> Graph:
    """The function of these inputs, (example, axes) by name, as a graph.

    The axes of the graph must be the declared ones: torch.onnx.export silently makes an axis constant, or two
    axes one.
    """
    tensors = tuple(torch.from_numpy(a) for a, _ in inputs.values())
    dims = {a: torch.export.Dim(a) for _, axes in inputs.values() for a in axes if a in FREE}
    # Twice as many as a free axis; of others a multiple is as fixed as they are.
    twice = {a for _, axes in inputs.values() for a in axes if a[:2] == "2*" and a[2:] in FREE}
    dims |= {a: 2 * dims.get(a[2:], torch.export.Dim(a[2:])) for a in twice}
    for a in {a for _, axes in inputs.values() for a in axes}:
        if (parts := re.fullmatch(r"([A-Z])\*([A-Z])\+([A-Z])", a)) and parts[2] in FREE:  # X*T+A
            dims[a] = FIXED[parts[1]] * torch.export.Dim(parts[2]) + FIXED[parts[3]]
    shapes = tuple({i: dims[a] for i, a in enumerate(axes) if a in dims} for _, axes in inputs.values())
    with warnings.catch_warnings(), trace.decomposed_in_place(), passes.rules_by_operator():
        warnings.simplefilter("ignore")
        program = torch.export.export(Module(function).eval(), tensors, dynamic_shapes=(shapes,))
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            dynamic_shapes=(shapes,),
            custom_translation_table=TRANSLATED,
            verbose=False,
        )
    assert exported is not None
    got = {i.name: [str(d) for d in i.shape or ()] for i in exported.model.graph.inputs}
    said = {axis: dim.__name__ for axis, dim in dims.items() if "+" in axis}
    expected = {
        name: [
            said.get(axis, axis) if axis in dims else str(size)
            for axis, size in zip(axes, a.shape, strict=True)
        ]
        for name, (a, axes) in inputs.items()
    }
    assert got == expected, f"axes of the graph are {got}, declared {expected}"
    return Graph(exported.model_proto)
