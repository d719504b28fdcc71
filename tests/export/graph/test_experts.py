"""A mixture's graph is the same whether one of its experts is traced and repeated, or all are traced."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from helpers import onnx_graph, tiny_models  # noqa: F401  (the exporter's functions are parsed once a process)
from helpers.refused import refused
from tfm.export.graph import experts, trace
from tfm.export.graph.build import build
from tfm.export.graph.kernels import over_kernels
from tfm.export.graph.rewriting import constant
from tfm.refimpl.config import Decoder, MoE, SwiGLUOAI
from tfm.refimpl.errors import ExportError
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.runtime.bundle import schemes, targets
from tfm.runtime.bundle.graph_io import graphs
from tfm.runtime.bundle.plan import Plan, Tensor
from tfm.runtime.bundle.weight_formats import WeightFormat

PATH = "decoder.layers.0.mlp.experts"


def model(count: int, mixture: MoE) -> Decoder:
    base = tiny_models.llama(layers=1)
    [layer] = base.layers
    made = replace(mixture, experts=count, pre=layer.mlp.pre)
    return replace(base, stack=replace(base.stack, layers=(replace(layer, mlp=made),)))


def built(
    config: Decoder, target: str = "ort-cpu", quant: str = "int8", in_floats: str = ""
) -> tuple[ir.Model, dict[str, Tensor]]:
    """The graph over weights that nobody wrote, and their places; the leaf `in_floats` isn't quantized."""
    to, scheme = targets.find(target), schemes.find(quant)
    plan = Plan.of(ParameterShapes(config), scheme, to)
    plan = replace(plan, formats={name: form for name, form in plan.formats.items() if name != in_floats})
    [graph] = graphs(config, windowed=False)
    return build(plan, graph, data=Path("data"), about={}), plan.tensors


def described(made: ir.Model) -> list[Any]:
    """All that a graph says of its nodes; constants by their numbers, lengths of choices by their order."""
    lengths: dict[str, str] = {}

    def read(value: ir.Value | None) -> Any:
        if value is None or value.const_value is None or isinstance(value.const_value, ir.ExternalTensor):
            return value and value.name
        return value.const_value.dtype, value.const_value.numpy().tolist()

    def by_order(length: re.Match[str]) -> str:
        return lengths.setdefault(length[0], f"u{len(lengths)}")

    def given(value: ir.Value) -> Any:
        return value.name, value.type, re.sub(r"u\d+(_\d+)?", by_order, str(value.shape))

    return [
        (
            node.name, node.domain, node.op_type,
            {key: str(one.value) for key, one in node.attributes.items()},
            [read(value) for value in node.inputs], [given(value) for value in node.outputs],
        )
        for node in made.graph
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "quant", "mixture"),
    [
        ("ort-cpu", "int8", MoE(3, 2, 24, SwiGLUOAI(limit=0.7), router_bias=True, expert_bias=True)),
        pytest.param("standard", "fp16", MoE(3, 2, 24, "gelu", shared=36), marks=pytest.mark.long),
        pytest.param("standard", "int8", MoE(3, 1, 24, "silu", weighs="input"), marks=pytest.mark.long),
    ],
)
def test_the_graph_is_that_of_all_experts_traced(
    monkeypatch: pytest.MonkeyPatch, target: str, quant: str, mixture: MoE
):
    traced = []

    def counted(program: Any, table: Any) -> bool:
        traced.append(len(program.graph.nodes))
        return decompose(program, table)

    decompose = trace.decompose
    monkeypatch.setattr(trace, "decompose", counted)
    once, tensors = built(model(3, mixture), target, quant)
    assert {name for name in once.graph.initializers if name.startswith(PATH)} == {
        name for name in tensors if name.startswith(PATH)
    }
    assert set(once.opset_imports) <= {"", "com.microsoft"}
    monkeypatch.setattr(experts, "stored_alike", lambda groups: set())
    every, _ = built(model(3, mixture), target, quant)
    assert described(once) == described(every)
    assert traced[1] > traced[0] + 30, "the other experts weren't traced"


def test_experts_transpose_nothing():
    """ONNX Runtime's optimizer takes time that grows with the square of a graph's transposes."""
    dense, _ = built(tiny_models.llama(layers=1))
    mixed, _ = built(model(3, MoE(3, 2, 24, "silu")))
    counts = [[node.op_type for node in made.graph].count("Transpose") for made in (dense, mixed)]
    assert counts[0] == counts[1]


@pytest.mark.long
def test_experts_in_several_formats_are_all_traced():
    made, _ = built(model(3, MoE(3, 1, 24, "silu")), in_floats=f"{PATH}.1.down")
    products = [node.op_type for node in made.graph if str(node.name).startswith(f"{PATH}.1.down")]
    assert products[0] == "MatMul"
    assert len([node for node in made.graph if node.op_type == "ScatterND"]) == 3


def test_experts_with_minima_have_kernels():
    """PyTorch's graph of them names the chosen rows once more."""
    config = model(3, MoE(3, 2, 24, "silu"))
    plan = Plan.of(ParameterShapes(config), schemes.find("int8"), targets.find("ort-cpu"))
    kept = WeightFormat(4, 32, "block", minimum=True, native=True)
    plan = replace(plan, formats=dict.fromkeys(plan.formats, kept))
    [graph] = graphs(config, windowed=False)
    made = build(plan, graph, data=Path("data"), about={})
    over = over_kernels(made, plan.groups, {}, plan.kernel_tensors({}), Path(), halved="")
    operators = [node.op_type for node in over.graph]
    assert [name for name in operators if name.startswith("Expert")] == ["ExpertLinear", "ExpertSum"]
    assert "ScatterND" not in operators


def test_alike_are_experts_with_the_same_leaves_in_one_format():
    config = model(3, MoE(3, 1, 24, "silu"))
    to = targets.find("ort-cpu")
    plan = Plan.of(ParameterShapes(config), schemes.find("int8"), to)
    formats, groups = plan.formats, plan.groups
    assert experts.stored_alike(groups) == {PATH}
    kept = experts.traced(groups, {PATH})
    assert {name for name in groups if name not in kept} == {
        f"{PATH}.{e}.{leaf}" for e in (1, 2) for leaf in ("gate_up", "down")
    }
    assert experts.traced(groups, {}) == groups
    for name in (f"{PATH}.{e}.down" for e in range(3)):
        without = {other: form for other, form in formats.items() if other != name}
        for changed in (without, {**formats, name: replace(formats[name], bits=4)}):
            assert experts.stored_alike(replace(plan, formats=changed).groups) == set()
    without = {name: group for name, group in groups.items() if name != f"{PATH}.2.down"}
    assert experts.stored_alike(without) == set()


def by_hand(count: int, reader: str) -> ir.Graph:
    """y + the table of each expert at its number; something reads expert 0's table once more."""
    text = f"""
        <ir_version: 10, opset_import: ["" : 21, "tfm" : 1]>
        agraph (float[N, 4] y) => (float[N, 4] out, float[N, 4] other)
        <float[4] "{PATH}.0.up" = {{1, 2, 3, 4}}>
        {{
            e = tfm.ExpertNumber (y)
            wide = Cast <to = 1> (e)
            scaled = Mul (wide, "{PATH}.0.up")
            z = Add (y, scaled)
            out = tfm.EveryExpert (z, y, e)
            other = Add (y, {reader})
        }}
    """
    graph = ir.from_onnx_text(text).graph
    tensors = {f"{PATH}.{e}.up": Tensor("float32", (4,), 16 * e, 16) for e in range(count)}
    experts.repeat_all(ir.Model(graph, ir_version=10), tensors)
    return graph


def test_each_expert_adds_to_what_the_one_before_gives():
    graph = by_hand(3, "y")
    assert [node.op_type for node in graph] == [*["Cast", "Mul", "Add"] * 3, "Add"]
    sums = [node for node in graph if node.op_type == "Add"][:3]
    assert sums[0].inputs[0] is graph.inputs[0]
    assert [one.inputs[0] for one in sums[1:]] == [one.outputs[0] for one in sums[:2]]
    assert graph.outputs[0] is sums[2].outputs[0]
    products = [node for node in graph if node.op_type == "Mul"]
    weights = [node.inputs[1] for node in products]
    assert [value.name for value in weights if value] == [f"{PATH}.{e}.up" for e in range(3)]
    numbers = [constant(node.inputs[0]) for node in graph if node.op_type == "Cast"]
    assert numbers == [[0], [1], [2]]


def test_a_weight_that_others_read_is_refused():
    with refused(ExportError, "outside"):
        by_hand(3, f'"{PATH}.0.up"')
