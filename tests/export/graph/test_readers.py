"""What else reads ONNX reads the graphs of bundles, and gives the tokens of products in floats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference
import pytest
from helpers import graph_client, peers, tiny_models
from helpers.exported import export_once
from onnx.reference import ReferenceEvaluator
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.ops.position_tables import position_tables
from tfm.runtime.bundle.bundle import Bundle
from tfm.runtime.bundle.graph_io import graphs
from tfm.runtime.ort.engine import OrtEngine

CONFIGS = {
    "llama": tiny_models.llama(width=64, mlp=96, bias=True, qk_norm=True),
    "short blocks": tiny_models.llama(layers=1, width=48, mlp=80),
    "encoder": tiny_models.encoder(layers=1),
}
PROMPT, COUNT = [5, 17, 3, 88, 41], 8
QUANTS = ("fp32", "int8", "int4", "int8-dynamic")
STANDARD = [("llama", "standard", quant) for quant in QUANTS[1:]]
STANDARD += [("short blocks", "standard", "int4"), ("encoder", "standard", "int8-dynamic")]
ALL = [("llama", "ort-cpu", quant) for quant in QUANTS] + [("encoder", "ort-cpu", "int8"), *STANDARD]
# OpenVINO wants the sizes of QuantizeLinear's blocks, which are rows here, before it knows them.
UNREAD = ("ort-cpu", "int8-dynamic")
Made = Callable[..., Bundle]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return export_once(tmp_path_factory.mktemp("readers"), CONFIGS, seed=4)


def job(bundle: Bundle) -> dict[str, Any]:
    (graph,) = graphs(bundle.config)
    tables = position_tables(np.arange(len(PROMPT) + COUNT), config=bundle.config)
    sides = {
        f"{side}.{i}": getattr(tables[rope], side)
        for i, rope in enumerate(bundle.config.ropes)
        for side in ("cos", "sin")
    }
    return {
        "model": str(bundle.path / graph.file),
        "inputs": graph.inputs,
        "tables": {name: rows.tolist() for name, rows in sides.items()},
        "prompt": PROMPT,
        "count": COUNT,
        "grows": bundle.cache == "shared",
    }


def expected(bundle: Bundle) -> list[int]:
    """What the path with products in floats gives on ONNX Runtime; int8-dynamic has integers on each path."""
    engine = OrtEngine(bundle, plain=True)
    if bundle.cache == "none":
        return engine.predict(np.array([PROMPT]))[0].argmax(-1).tolist()
    return list(generate(engine, GeneratedSequence(PROMPT, max_new_tokens=COUNT)))


def usual(cases: list[tuple[str, str, str]]) -> list[Any]:
    """One case runs by default, the others in CI."""
    marks = {("llama", "standard", "int8"): ()}
    return [pytest.param(*case, marks=marks.get(case, pytest.mark.long)) for case in cases]


@pytest.mark.parametrize(("name", "target", "quant"), usual(ALL))
def test_onnx_checks_graphs_in_full(made: Made, name: str, target: str, quant: str, tmp_path: Path):
    path = made(name, target, quant).path / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    onnx.shape_inference.infer_shapes_path(path, tmp_path / "x.onnx", strict_mode=True, data_prop=True)


@pytest.mark.parametrize(("name", "target", "quant"), usual(STANDARD))
def test_the_reference_evaluator_gives_the_tokens(made: Made, name: str, target: str, quant: str):
    bundle = made(name, target, quant)
    evaluator = ReferenceEvaluator(str(bundle.path / "model.onnx"))

    def run(feeds: Any) -> dict[str, np.ndarray]:
        arrays: Any = evaluator.run(None, feeds)
        return dict(zip(map(str, evaluator.output_names), arrays, strict=True))

    tokens = graph_client.answer(run, job(bundle))
    assert tokens == expected(bundle)
    assert len(set(tokens)) > 1


@pytest.mark.peers
def test_openvino_gives_the_tokens(made: Made, tmp_path: Path):
    python = peers.python_with(tmp_path / "openvino", "openvino")
    bundles = [made(*case) for case in ALL if case[1:] != UNREAD]
    given = json.loads(peers.run([python, graph_client.__file__], [job(bundle) for bundle in bundles]))
    assert given == [expected(bundle) for bundle in bundles]
