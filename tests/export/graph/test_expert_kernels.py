"""Which mixtures have the form that kernels take: what differs anywhere stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from tfm.export.graph import expert_kernels

SIZES = {"bits": 8, "block_size": 16}
CONSTANTS = {"zero": np.float32(0), "half": np.float32(0.5), "0": [0], "1": [1], "2": [2], "last": [-1]}


def expert(e: int) -> list[Any]:
    """The nodes of an expert, as an export has them, with a factor and a limit between its products."""

    def node(operator: str, inputs: str, output: str, domain: str = "", **attributes: Any) -> Any:
        names = ["" if name == "-" else name for name in inputs.split()]
        return helper.make_node(operator, names, [output], output, domain=domain, **attributes)

    before = "zeros" if e == 0 else f"sum{e - 1}"
    return [
        node("Equal", f"index number{e}", f"equal{e}"),
        node("NonZero", f"equal{e}", f"found{e}"),
        node("Slice", f"found{e} 0 1 0", f"tokens{e}"),
        node("Squeeze", f"tokens{e} 0", f"token{e}"),
        node("Slice", f"found{e} 1 2 0", f"choices{e}"),
        node("Squeeze", f"choices{e} 0", f"choice{e}"),
        node("Reshape", f"token{e} last", f"rows{e}"),
        node("Gather", f"x rows{e}", f"taken{e}", axis=0),
        node("Unsqueeze", f"token{e} last", f"token_column{e}"),
        node("Unsqueeze", f"choice{e} last", f"choice_column{e}"),
        node("Concat", f"token_column{e} choice_column{e}", f"pairs{e}", axis=-1),
        node("GatherND", f"shares pairs{e}", f"share{e}"),
        node("Unsqueeze", f"share{e} 1", f"share_column{e}"),
        node("Unsqueeze", f"taken{e} 0", f"input{e}"),
        node(
            "BlockLinear", f"input{e} up{e} up_scale{e} - up_bias{e}", f"wide{e}", "tfm", K=16, N=24, **SIZES
        ),
        node("Mul", f"wide{e} half", f"scaled{e}"),
        node("Clip", f"scaled{e} - half", f"limited{e}"),
        node("BlockLinear", f"limited{e} down{e} down_scale{e}", f"narrow{e}", "tfm", K=24, N=16, **SIZES),
        node("Squeeze", f"narrow{e} 0", f"out{e}"),
        node("Mul", f"share_column{e} out{e}", f"weighed{e}"),
        node("ScatterND", f"{before} token_column{e} weighed{e}", f"sum{e}", reduction="add"),
    ]


def replaced(change: Callable[[dict[str, Any]], None] = lambda nodes: None, count: int = 3) -> list[str]:
    """The operators over kernels of a graph of so many experts, some of whose nodes were changed."""
    nodes = {node.name: node for e in range(count) for node in expert(e)}
    change(nodes)
    begin = helper.make_node("Expand", ["zero", "shape"], ["zeros"])
    constants = {**CONSTANTS, **{f"number{e}": e for e in range(count)}}
    weights = [
        helper.make_tensor_value_info(f"{name}{e}", kind, shape)
        for e in range(count)
        for name, kind, shape in (
            ("up", 2, [2, 4, 16, 4]), ("up_scale", 1, [2, 1, 16]), ("up_bias", 1, [24]),
            ("down", 2, [1, 8, 16, 4]), ("down_scale", 1, [1, 2, 16]),
        )
    ]  # fmt: skip
    given = [
        ("x", 1, ["M", 16]),
        ("other", 1, ["M", 16]),
        ("index", 7, ["M", 2]),
        ("indices", 7, ["M", 2]),
        ("shares", 1, ["M", 2]),
        ("shape", 7, [2]),
    ]
    graph = helper.make_graph(
        [begin, *nodes.values()],
        "g",
        [*(helper.make_tensor_value_info(*one) for one in given), *weights],
        [helper.make_tensor_value_info(f"sum{count - 1}", 1, ["M", 16])],
        [numpy_helper.from_array(np.array(a), name) for name, a in constants.items()],
    )
    model = ir.serde.deserialize_model(onnx.helper.make_model(graph))
    expert_kernels.replace_all(model.graph)
    return [node.op_type for node in model.graph if node.op_type.startswith("Expert")]


def rewired(name: str, index: int, value: str) -> Callable[[dict[str, Any]], None]:
    def change(nodes: dict[str, Any]) -> None:
        nodes[name].input[index] = value

    return change


def restated(name: str, **attributes: Any) -> Callable[[dict[str, Any]], None]:
    def change(nodes: dict[str, Any]) -> None:
        node = nodes[name]
        kept = [one for one in node.attribute if one.name not in attributes]
        del node.attribute[:]
        node.attribute.extend(
            [*kept, *(helper.make_attribute(key, value) for key, value in attributes.items())]
        )

    return change


def all_with_operator(name: str, operator: str) -> Callable[[dict[str, Any]], None]:
    def change(nodes: dict[str, Any]) -> None:
        for e in range(3):
            nodes[f"{name}{e}"].op_type = operator

    return change


OTHERS = {
    "of other rows": rewired("taken1", 0, "other"),
    "of rows elsewhere": rewired("rows1", 0, "choice1"),
    "by columns": restated("taken1", axis=1),
    "of another mixture's choices": rewired("equal1", 0, "indices"),
    "with its place twice": rewired("equal1", 1, "number0"),
    "weighed by other shares": rewired("share1", 0, "other"),
    "weighed by another choice": rewired("choices1", 1, "0"),
    "of pairs the other way": rewired("pairs1", 0, "choice_column1"),
    "added elsewhere": rewired("sum1", 1, "choice_column1"),
    "put, not added": restated("sum1", reduction="none"),
    "without a bias": rewired("wide1", 4, ""),
    "in other blocks": restated("wide1", block_size=32),
    "with another factor": rewired("scaled1", 1, "zero"),
    "limited below too": rewired("limited1", 1, "zero"),
    "of sums over a row": all_with_operator("scaled", "MatMul"),
    "of something else between": rewired("scaled1", 1, "other"),
    "on something else": rewired("sum0", 0, "other"),
}


def test_a_mixture_has_two_kernels():
    assert replaced() == ["ExpertLinear", "ExpertSum"]
    assert replaced(count=1) == ["ExpertLinear", "ExpertSum"]


@pytest.mark.parametrize("name", OTHERS)
def test_another_form_stays_as_it_is(name: str):
    assert replaced(OTHERS[name]) == []
