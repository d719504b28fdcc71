"""One ONNX operator on ONNX Runtime's CPU provider, and ONNX's own test cases of an operator."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


def run(op: str, inputs: list[Any], outputs: int = 1, domain: str = "", **attributes: Any) -> list[Any]:
    """The operator's outputs; an input None is absent."""
    names = ["" if a is None else f"i{i}" for i, a in enumerate(inputs)]
    given = {n: np.asarray(a) for n, a in zip(names, inputs, strict=True) if n}
    node = helper.make_node(op, names, [f"o{i}" for i in range(outputs)], domain=domain, **attributes)
    return graph([node], given, {}, node.output)


def graph(
    nodes: list[Any], given: dict[str, np.ndarray], constants: dict[str, np.ndarray], outputs: Any
) -> list[Any]:
    """What a graph of these nodes gives."""
    typed = lambda n, a: helper.make_tensor_value_info(  # noqa: E731
        n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
    )
    made = helper.make_graph(
        nodes,
        "g",
        [typed(n, a) for n, a in given.items()],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(made, opset_imports=sets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, given)


def cases(module: str, op: str) -> dict[str, tuple[dict[str, Any], list[Any], list[Any]]]:
    """ONNX's test cases: name -> (attributes, inputs, outputs); an absent input is None."""
    node = importlib.import_module("onnx.backend.test.case.node")
    importlib.import_module(f"onnx.backend.test.case.node.{module}")
    found = {}
    for case in node._NodeTestCases:
        one = case.model.graph.node[0]
        if one.op_type != op or len(case.model.graph.node) != 1:
            continue
        inputs, outputs = case.data_sets[0]
        values = dict(zip((i.name for i in case.model.graph.input), inputs, strict=True))
        attributes = {a.name: helper.get_attribute_value(a) for a in one.attribute}
        found[case.name] = attributes, [values.get(n) for n in one.input], list(outputs)
    return found
