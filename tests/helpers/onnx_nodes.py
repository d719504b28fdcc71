"""One ONNX operator on ONNX Runtime's CPU provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from tfm.runtime.ort import session


def run(op: str, inputs: list[Any], outputs: int = 1, domain: str = "", **attributes: Any) -> list[Any]:
    """The operator's outputs; an input None is absent."""
    names = ["" if a is None else f"i{i}" for i, a in enumerate(inputs)]
    arguments = {n: np.asarray(a) for n, a in zip(names, inputs, strict=True) if n}
    node = helper.make_node(op, names, [f"o{i}" for i in range(outputs)], domain=domain, **attributes)
    return graph([node], arguments, {}, node.output)


def graph(
    nodes: list[Any],
    inputs: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    outputs: Any,
    library: Path | None = None,
) -> list[Any]:
    """The outputs of a graph of these nodes; `library` has the operators of domain tfm."""
    typed = lambda n, a: helper.make_tensor_value_info(  # noqa: E731
        n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
    )
    onnx_graph = helper.make_graph(
        nodes,
        "g",
        [typed(n, a) for n, a in inputs.items()],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    sets = [helper.make_opsetid(*one) for one in (("", 21), ("com.microsoft", 1), ("tfm", 1))]
    model = helper.make_model(onnx_graph, opset_imports=sets, ir_version=10)
    options = session.options(1)
    if library is not None:
        options.register_custom_ops_library(str(library))
    opened = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(opened.run(None, inputs))
