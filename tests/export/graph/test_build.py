"""The graph of each target: its operators, and every promise of the exporter kept."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.export.bundle_writer import export
from tfm.export.graph import passes, trace
from tfm.export.graph.build import build
from tfm.export.quantization import plan
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config
from tfm.refimpl.errors import ExportError
from tfm.refimpl.params.shapes import ADDED
from tfm.runtime.bundle import schemes, targets
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.graph_io import graphs
from torch.export import ExportedProgram


def exported(folder: Path, config: Config, target: str, quant: str, **options: object) -> ir.Model:
    save_checkpoint(folder / "source", config, tiny_models.weights(config))
    export(
        open_checkpoint(folder / "source"),
        folder / "out",
        target=target,
        quant=quant,
        verify=False,
        **options,  # pyright: ignore[reportArgumentType]
    )
    return ir.load(folder / "out" / "model.onnx")


def operators(model: ir.Model) -> Counter[str]:
    return Counter(f"{node.domain}::{node.op_type}" for node in model.graph)


@pytest.mark.parametrize("quant", ["int8", "fp16", pytest.param("int4", marks=pytest.mark.long)])
def test_cuda_graph_is_half_precision_and_fused(tmp_path: Path, quant: str) -> None:
    config = tiny_models.llama(layers=2)
    model = exported(tmp_path, config, "ort-cuda", quant)
    ops = operators(model)
    assert ops["com.microsoft::GroupQueryAttention"] == 2
    assert ops["com.microsoft::MatMulNBits"] == (0 if quant == "fp16" else 9)
    # A number alone is what the logits are compared with, to find the best token.
    floats = {v.dtype for v in (*model.graph.inputs, *model.graph.initializers.values()) if v.shape}
    assert ir.DataType.FLOAT16 in floats
    assert ir.DataType.FLOAT not in floats
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT, "logits leave in float32"
    assert open_bundle(tmp_path / "out").manifest.cache == "shared"


def test_cpu_graph_merges_matmuls_of_one_input(tmp_path: Path) -> None:
    ops = operators(exported(tmp_path, tiny_models.llama(layers=2), "ort-cpu", "int8"))
    assert ops["com.microsoft::MatMulNBits"] == 2 * 4 + 1
    assert ops["com.microsoft::GroupQueryAttention"] == 2
    assert ops["::RMSNormalization"] == 5
    assert ops["::Transpose"] == 0


@pytest.mark.parametrize(("target", "quant", "layers"), [("ort-cpu", "int8", 2), ("standard", "fp32", 1)])
def test_a_usual_decoder_is_traced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, quant: str, layers: int
) -> None:
    """Decomposed by torch, which takes longer than tracing, its graph has the same operators."""
    trace_again = ExportedProgram.run_decompositions
    decomposed = []

    def counted(program: ExportedProgram, *args: Any) -> ExportedProgram:
        decomposed.append(program)
        return trace_again(program, *args)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    config = tiny_models.llama(layers=layers)
    once = exported(tmp_path / "once", config, target, quant)
    assert not decomposed
    monkeypatch.setattr(trace, "decompose", lambda program, table: False)
    assert operators(exported(tmp_path / "twice", config, target, quant)) == operators(once)
    [program] = decomposed
    if target == "ort-cpu":
        captured = Counter(str(node.target) for node in program.graph.nodes)
        assert captured["onnx_symbolic._symbolic_multi_out.default"] == 2
        assert captured["aten.max.default"] == 1, "layers share how long rows are"


@pytest.mark.parametrize(
    "quant",
    [
        "fp32",
        "int8",
        *(pytest.param(quant, marks=pytest.mark.long) for quant in ("fp16", "int8-dynamic", "int4")),
    ],
)
def test_standard_graph_has_standard_operators_only(tmp_path: Path, quant: str) -> None:
    model = exported(tmp_path, tiny_models.llama(layers=1), "standard", quant)
    assert set(model.opset_imports) == {""}
    assert model.opset_imports[""] == 21
    assert {node.domain for node in model.graph} == {""}


@pytest.mark.parametrize("tied", [True, False])
def test_blocks_of_products_are_initializers(tmp_path: Path, tied: bool) -> None:
    """A table's too, of which rows are looked up in the same three axes: OpenVINO takes no others."""
    model = exported(tmp_path, tiny_models.llama(layers=1, tied=tied), "ort-cpu", "int8")
    weights = model.graph.initializers
    products = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert len(products) == 5
    assert all(value is None or value.name in weights for node in products for value in node.inputs[1:])
    name = "embedding.table.packed" if tied else "head.table.packed"
    view = weights[f"{name}.97x2x32"].const_value
    stored = open_bundle(tmp_path / "out").manifest.tensors[name]
    assert isinstance(view, ir.ExternalTensor)
    assert (view.offset, view.length) == (stored.offset, stored.length)
    assert name not in weights


def test_a_graph_says_what_it_is(tmp_path: Path) -> None:
    """Nodes and values are called after weights and parts, ports and properties explain themselves."""
    model = exported(tmp_path, tiny_models.llama(layers=2, bias=True), "ort-cpu", "int8")
    names = [str(node.name) for node in model.graph]
    assert len(set(names)) == len(names)
    ports = {*model.graph.inputs, *model.graph.outputs}
    assert all(node.outputs[0].name == node.name or node.outputs[0] in ports for node in model.graph)
    layer = "decoder.layers.1."
    assert [name.removeprefix(layer) for name in names if name.startswith(layer)] == [
        "attn_pre.weight.RMSNormalization", "attn.wqkv.MatMulNBits", "attn.bqkv.Add",
        "attn.GroupQueryAttention", "attn.wo.MatMulNBits", "attn.bo.Add", "attn.Add", "attn.GatherElements",
        "mlp_pre.weight.RMSNormalization", "mlp.gate_up.MatMulNBits", "mlp.bgate_up.Add", "mlp.Split",
        "mlp.Sigmoid", "mlp.Mul", "mlp.Mul_2", "mlp.down.MatMulNBits", "mlp.bdown.Add", "mlp.Add",
    ]  # fmt: skip
    assert all(value.doc_string for value in ports)
    assert str(model.graph.outputs[1].doc_string).startswith("keys ")
    typed = [value for node in model.graph for value in node.outputs]
    assert all(value.type is not None and value.shape is not None for value in typed)
    stated, source = model.metadata_props, open_bundle(tmp_path / "out").manifest.source
    assert (stated["model"], stated["model_sha256"]) == (source.name, source.sha256)
    assert stated["quantization"] == "int8"
    kernels = ir.load(tmp_path / "out" / "kernels.onnx")
    assert [str(node.name).removeprefix(layer) for node in kernels.graph if layer in str(node.name)] == [
        "attn_pre.weight.AddRMSNorm", "attn.wqkv.BlockLinear", "attn.Attention", "attn.wo.BlockLinear",
        "attn.Add", "attn.GatherElements", "mlp_pre.weight.RMSNorm", "mlp.gate_up.BlockSwiGLU",
        "mlp.down.BlockLinear",
    ]  # fmt: skip
    (gates,) = (node for node in kernels.graph if node.name == f"{layer}mlp.gate_up.BlockSwiGLU")
    assert [value.name for value in gates.inputs if value][-1] == f"{layer}mlp.bgate_up"
    assert gates.outputs[0].shape is not None
    assert gates.outputs[0].shape[-1] == 80


def test_opset_can_be_raised(tmp_path: Path) -> None:
    model = exported(tmp_path, tiny_models.llama(layers=1), "standard", "fp32", opset=23)
    assert model.opset_imports[""] == 23


def test_a_refusal_is_reported_and_the_cache_is_copied(tmp_path: Path) -> None:
    ops = operators(exported(tmp_path, tiny_models.llama(layers=2, head_size=12), "ort-cpu", "fp32"))
    assert "com.microsoft::GroupQueryAttention" not in ops
    contents = open_bundle(tmp_path / "out").manifest
    assert contents.cache == "copied"
    [reason] = contents.refused
    assert re.match("GroupQueryAttention in layer 0: .* 16, got 12", reason)


@pytest.mark.parametrize(
    ("target", "quant"), [("ort-cpu", "int8"), pytest.param("ort-cuda", "fp16", marks=pytest.mark.long)]
)
def test_places_in_a_windowed_cache_are_not_positions(tmp_path: Path, target: str, quant: str) -> None:
    model = exported(tmp_path, tiny_models.mixed_windows(), target, quant)
    contents = open_bundle(tmp_path / "out").manifest
    assert (contents.cache, contents.refused) == ("windowed", ())
    axes = {v.name: [str(d) for d in v.shape or ()] for v in model.graph.inputs}
    lengths = "window_length" if target == "ort-cpu" else "seqlens"
    assert (axes[f"{lengths}.3"], axes[f"{lengths}.5"]) == (["batch"], ["batch"])
    assert [axes[f"k.{i}"][2] for i in range(4)] == ["window5", "capacity", "window3", "window5"]
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    input_counts = [len([v for v in node.inputs if v is not None]) for node in nodes]
    assert input_counts == [10, 9, 10, 8], "positions where layers have a window, and there alone"


def test_where_the_operator_is_refused_windows_keep_all(tmp_path: Path) -> None:
    exported(tmp_path, tiny_models.llama(layers=1, window=3, head_size=12), "ort-cpu", "fp32")
    contents = open_bundle(tmp_path / "out").manifest
    assert contents.cache == "copied"
    [reason] = contents.refused[1:]
    assert reason.endswith(" GroupQueryAttention")


@pytest.mark.long
def test_scores_with_a_bias_are_refused_by_the_fused_form(tmp_path: Path) -> None:
    ops = operators(exported(tmp_path, tiny_models.added_positions(), "ort-cpu", "int8"))
    assert "com.microsoft::GroupQueryAttention" not in ops
    contents = open_bundle(tmp_path / "out").manifest
    assert contents.cache == "copied"
    [reason] = contents.refused
    assert re.match("GroupQueryAttention in layer 0: .* Alibi", reason)
    kinds = {name: spec.dtype for name, spec in contents.tensors.items() if name.endswith(ADDED)}
    added = ("decoder.positions", "decoder.relative_bias", "decoder.layers.2.attn.relative_bias")
    assert kinds == dict.fromkeys(added, "float32")


def test_weights_lie_in_the_data_file_and_notes_are_gone(tmp_path: Path) -> None:
    model = exported(tmp_path, tiny_models.llama(layers=1, tied=False), "ort-cpu", "int4")
    stored = set(open_bundle(tmp_path / "out").manifest.tensors)
    outside = {n for n, v in model.graph.initializers.items() if isinstance(v.const_value, ir.ExternalTensor)}
    assert outside == stored - {"head.table.packed"} | {"head.table.packed.97x2x32"}
    text = (tmp_path / "out" / "model.onnx").read_bytes()
    for note in (b"site-packages", b".py", b"stack_trace", str(tmp_path).encode()):
        assert note not in text, f"the graph names {note!r}"


def test_unknown_target() -> None:
    with refused(ExportError, "target", "ort-cpu", "ort-cuda", "ort-web", "standard", "'tpu'"):
        targets.find("tpu")


def test_weight_that_the_graph_does_not_use_is_an_error(tmp_path: Path) -> None:
    config = tiny_models.llama(layers=1)
    save_checkpoint(tmp_path, config, tiny_models.weights(config))
    target = targets.find("ort-cpu")
    made = plan.plan(open_checkpoint(tmp_path), schemes.find("fp32"), target)
    made.tensors["decoder.stray"] = made.tensors["decoder.norm.weight"]
    (part,) = graphs(config)
    with refused(ExportError, "decoder.stray"):
        build(made, part, data=tmp_path / "model.onnx.data", about={})


@pytest.mark.parametrize(
    ("operator", "reads_old", "fits"), [("Where", False, True), ("Mul", False, False), ("Where", True, False)]
)
def test_a_state_is_read_before_it_is_written(operator: str, reads_old: bool, fits: bool) -> None:
    """Its next value lies in its place, and only what a node needs has surely run before it."""
    state, x = (ir.val(name, ir.DataType.FLOAT, [2, 3]) for name in ("state.0", "x"))
    begun = ir.val("begun", ir.DataType.BOOL, [2, 1])
    inputs = [state, x] if operator == "Mul" else [begun, state, x]
    written = ir.node(operator, inputs)
    logits = ir.node("Add", [state if reads_old else written.outputs[0], x])
    written.outputs[0].name, logits.outputs[0].name = "state_out.0", "logits"
    outputs = [logits.outputs[0], written.outputs[0]]
    graph = ir.Graph([state, x, begun], outputs, nodes=[written, logits], opset_imports={"": 20})
    model = ir.Model(graph, ir_version=10)
    if fits:
        passes.check_in_place(model)
    else:
        with refused(ExportError, "state.0"):
            passes.check_in_place(model)
