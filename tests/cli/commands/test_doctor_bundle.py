"""`doctor --bundle`: the path of each runtime with the certificate's figure for it, or why there is none."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import tiny_models
from tfm.cli.commands import doctor
from tfm.export.bundle_writer import export
from tfm.export.layouts import runtimes, static
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.errors import ExportError
from tfm.runtime.analysis import bundle_runtimes, javascript
from tfm.runtime.analysis.bundle_runtimes import NPUS
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.verification.checks.logits import FLOAT_PRODUCTS, INTEGER_PRODUCTS


def answers(told: dict) -> dict[str, dict]:
    return {one["runtime"]: one for one in told["runtimes"]}


def test_a_name_without_a_bundle_is_said(tfm):
    tfm("doctor", "--bundle", "nobody").failed(5, "nobody", "cache")


def test_each_path_has_its_loss(tfm, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundle_runtimes, "find_spec", lambda name: None if name == "optimum" else name)
    path = tmp_path / "b"
    shutil.copytree(bundle, path)
    (path / "certificate.json").unlink()  # which another test may have completed
    before = answers(tfm("doctor", "--bundle", path, "--json").json)
    assert before["OpenVINO"]["loss"] == bundle_runtimes.NO_ROW
    assert tfm("verify", path).code == 0
    rows = {row["name"]: row for row in json.loads((path / "certificate.json").read_text())["rows"]}
    told = answers(tfm("doctor", "--bundle", path, "--json").json)
    for runtime, row in (
        ("ONNX Runtime on the CPU", INTEGER_PRODUCTS),
        ("OpenVINO", FLOAT_PRODUCTS),
        ("genai", INTEGER_PRODUCTS),
    ):
        assert told[runtime]["runs"]
        figure = rows[f"{row}: KL divergence"]["figure"]
        assert f" {figure:.4g} nats" in told[runtime]["loss"]
    assert told["genai"]["path"].endswith("after tfm-cli convert --layout genai")
    assert "pip install optimum-onnx" in told["optimum"]["reason"]
    assert not told["ONNX Runtime on CUDA"]["runs"]
    assert not told["onnx.reference"]["runs"]
    assert "target=standard" in told["QNN"]["reason"]
    assert re.search("no: .*--target standard", tfm("doctor", "--bundle", path).out)


def test_what_runtimes_cannot_have_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundle_runtimes, "find_spec", lambda _: None)
    opened = open_bundle(bundle)
    by_row = {name: replace(one, activations="row") for name, one in opened.manifest.schemes.items()}
    columns = {name: replace(one, block=96) for name, one in by_row.items() if name.endswith("wo")}
    for changed, word in (
        ({}, "pip install openvino"),
        ({"target": "ort-cuda"}, "never tested"),
        ({"schemes": columns}, "int8-dynamic only with target=standard"),
    ):
        manifest = replace(opened.manifest, **changed)
        told = {one.runtime: one for one in bundle_runtimes.runtimes(replace(opened, manifest=manifest))}
        assert word in told["OpenVINO"].reason
    floats = replace(opened, manifest=replace(opened.manifest, schemes={}, target="standard"))
    told = {one.runtime: one for one in bundle_runtimes.runtimes(floats)}
    assert "KL" not in told["ONNX Runtime on the CPU"].loss
    assert told["onnx.reference"].reason.endswith(" onnx")


def node_with(folder: Path, monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """A directory to be in, with a command `node`, one `chromium`, and packages that are found from it."""
    for package in packages:
        (folder / "node_modules" / package).mkdir(parents=True)
        (folder / "node_modules" / package / "package.json").write_text("{}")
    for command in ("node", "chromium"):
        (folder / command).write_text("#!/bin/sh\nexit 1\n")
        (folder / command).chmod(0o755)
    (folder / "project").mkdir()
    monkeypatch.chdir(folder / "project")
    monkeypatch.setenv("PATH", str(folder))


def test_node_and_browsers(tfm, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    node_with(tmp_path, monkeypatch, "onnxruntime-node", "@huggingface/transformers")
    told = answers(tfm("doctor", "--bundle", bundle, "--json").json)
    assert told["onnxruntime-node"]["path"] == INTEGER_PRODUCTS
    assert told["transformers.js"]["path"].endswith("--layout transformers.js")
    assert told["onnxruntime-web in chromium"]["path"].endswith(" float")
    assert "npm install --ignore-scripts onnxruntime-web" in told["onnxruntime-web in Node"]["reason"]
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere" / "onnxruntime-web").mkdir(parents=True)
    (tmp_path / "elsewhere" / "onnxruntime-web" / "package.json").write_text("{}")
    assert javascript.lacks("onnxruntime-web") is None


def test_without_node_and_browsers(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    opened = open_bundle(bundle)
    told = {one.runtime: one for one in bundle_runtimes.runtimes(opened)}
    assert " node " in told["onnxruntime-node"].reason
    assert "browser" in told["onnxruntime-web in a browser"].reason
    on_cuda = replace(opened, manifest=replace(opened.manifest, target="ort-cuda"))
    told = {one.runtime: one for one in bundle_runtimes.runtimes(on_cuda)}
    assert "cuda" in told["onnxruntime-node"].reason


def test_a_graph_that_has_no_fixed_shapes(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    def graphs(*_: object) -> None:
        raise ExportError("x has no fixed shape")

    monkeypatch.setattr(static, "graphs", graphs)
    opened = open_bundle(bundle)
    standard = replace(opened, manifest=replace(opened.manifest, target="standard"))
    told = runtimes.of_fixed_shapes(standard)
    assert [(one.runtime, one.reason) for one in told] == [(n, "x has no fixed shape") for n in NPUS]


def test_each_runtime_is_named_without_the_exporter(tfm, bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    told = answers(tfm("doctor", "--bundle", bundle, "--json").json)
    assert list(told)[-6:] == [*bundle_runtimes.LAYOUTS, *bundle_runtimes.NODE_LAYOUTS, *NPUS]
    assert told["QNN"]["reason"] == bundle_runtimes.NO_EXPORTER


@pytest.mark.long
def test_parts_of_the_graph_with_fixed_shapes(tfm, tmp_path: Path):
    config = tiny_models.llama(vocabulary=256, context=32)
    save_checkpoint(tmp_path / "model", config, tiny_models.weights(config, seed=4))
    checkpoint = open_checkpoint(tmp_path / "model")
    left = "; on the CPU 2 DequantizeLinear, 2 Gather"
    for quant, coreml, on_cpu in (("fp32", "in 1 part, not Gather", ""), ("int8", "DequantizeLinear", left)):
        export(checkpoint, tmp_path / quant, target="standard", quant=quant, verify=False)
        told = answers(tfm("doctor", "--bundle", tmp_path / quant, "--json").json)
        assert "nodes in 1 part" in told["NNAPI"]["path"]
        assert coreml in told["CoreML"]["path"] + told["CoreML"]["reason"]
        assert told["QNN"]["path"].endswith(f"float16{on_cpu}")
