"""Which graphs have their packed weights kept: those of every kind of model, with every kind of cache."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import tiny_models
from onnx import helper, numpy_helper
from tfm.runtime.bundle.graph_io import Graph, graphs
from tfm.runtime.ort import prepacked_weights

TYPES = {"int64": onnx.TensorProto.INT64, "int8": onnx.TensorProto.INT8, None: onnx.TensorProto.FLOAT}
MODELS = {
    "windows": (tiny_models.mixed_windows(), True),
    "windows, 8 bits": (tiny_models.mixed_windows().with_kv("int8"), True),
    "encoder": (tiny_models.encoder(), False),
    "encoder and decoder": (tiny_models.rotary_encoder_decoder(), False),
}


def write_bundle(folder: Path, graph: Graph) -> None:
    """A graph with the inputs and outputs of a bundle's; each output is the same product with one matrix."""
    weights = {"ones": np.ones((1, 128)), "matrix": np.arange(2.0**14).reshape(128, 128)}
    nodes = [
        helper.make_node("Cast", ["tokens"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "ones"], ["row"]),
        helper.make_node("MatMul", ["row", "matrix"], ["product"]),
    ]
    nodes += [helper.make_node("Cast", ["product"], [p.name], to=TYPES[p.dtype]) for p in graph.outputs]
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(p.name, TYPES[p.dtype], p.axes) for p in graph.inputs],
        [helper.make_tensor_value_info(p.name, TYPES[p.dtype], None) for p in graph.outputs],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    external = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 1024}
    onnx.save(model, folder / graph.file, **external)
    (folder / "tfm.json").write_text("{}")


@pytest.mark.parametrize("name", MODELS)
def test_every_graphs_weights_are_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tried in a run with all the graph's inputs, whatever their axes and types."""
    monkeypatch.setattr(prepacked_weights, "SMALLEST", 0)
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))
    opened: list[Path] = []
    real = prepacked_weights.open_session
    monkeypatch.setattr(
        prepacked_weights, "open_session", lambda path, *rest: opened.append(path) or real(path, *rest)
    )
    config, windowed = MODELS[name]
    for graph in graphs(config, windowed):
        folder = tmp_path / graph.file.removesuffix(".onnx")
        folder.mkdir()
        write_bundle(folder, graph)
        prepacked_weights.session(folder, 1, graph.file)
        prepacked_weights.session(folder, 1, graph.file)
        first, second = opened
        assert first == folder / graph.file
        assert second.parent.parent == tmp_path / "cache" / "prepacked"
        opened.clear()
