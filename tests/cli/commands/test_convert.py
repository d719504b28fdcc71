"""Bundles in the form of other runtimes: what goes along, what is refused, nothing is half written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import get_args

import onnx
import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.cli.options import LayoutName
from tfm.export import bundle_writer
from tfm.export.layouts import data_file
from tfm.export.layouts.convert import LAYOUTS
from tfm.refimpl.checkpoint.open import save_checkpoint

LICENCE = b"Do as you like.\n"


@pytest.fixture
def licensed(bundle: Path, tmp_path: Path) -> Path:
    """The tiny model's bundle with a licence in it."""
    path = Path(shutil.copytree(bundle, tmp_path / "licensed"))
    (path / "LICENSE").write_bytes(LICENCE)
    manifest = json.loads((path / "tfm.json").read_bytes())
    manifest["files"]["LICENSE"] = {"size": len(LICENCE), "sha256": hashlib.sha256(LICENCE).hexdigest()}
    (path / "tfm.json").write_text(json.dumps(manifest))
    return path


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_the_command_line_has_every_layout():
    assert set(get_args(LayoutName)) == set(LAYOUTS)


def test_a_converted_bundle_has_the_same_weights_and_all_that_belongs_to_them(tfm, licensed, tmp_path):
    out = tmp_path / "deep" / "genai"
    ran = tfm("convert", licensed, out, "--layout", "genai")
    assert (ran.code, ran.out) == (0, f"{out}\n")
    assert ran.err.startswith(f"{out}: ")
    before, after = content(licensed), content(out)
    same = ("tokenizer.json", "chat_template.jinja", "LICENSE")
    assert [after[name] for name in same] == [before[name] for name in same]
    proof = {name for name in before if name.startswith("golden/")} | {"tfm.json", "certificate.json"}
    assert {name: after[f"tfm/{name}"] for name in proof} == {name: before[name] for name in proof}
    weights, tables = after["model.onnx.data"], 2 * 4 * 16384 * 8  # cosines and sines of the whole context
    assert weights.startswith(before["model.onnx.data"])
    assert len(weights) - len(before["model.onnx.data"]) in range(tables, tables + 2 * 4096)
    names = {"genai_config.json", "tokenizer_config.json", "model.onnx", "model.onnx.data"}
    assert set(after) == {*names, *same, *(f"tfm/{name}" for name in proof)}
    config = json.loads(after["genai_config.json"])["model"]
    assert (config["vocab_size"], config["context_length"], config["decoder"]["head_size"]) == (
        258,
        16384,
        16,
    )


@pytest.mark.parametrize(
    ("layout", "graph"), [("transformers.js", "onnx/model_quantized.onnx"), ("optimum", "model.onnx")]
)
def test_files_of_a_hub_say_what_the_bundle_says(tfm, bundle, tmp_path, layout, graph):
    assert tfm("convert", bundle, tmp_path / "out", "--layout", layout).code == 0
    after = content(tmp_path / "out")
    assert {graph, f"{graph}_data", "tokenizer.json", "tfm/tfm.json"} <= set(after)
    names = ("config.json", "tokenizer_config.json", "generation_config.json")
    config, tokenizer, generation = (json.loads(after[name]) for name in names)
    sizes = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size")
    assert [config[size] for size in sizes] == [2, 6, 2, 16, 64]
    assert tokenizer["chat_template"] == (bundle / "chat_template.jinja").read_text()
    assert tokenizer["padding_side"] == "left"
    assert generation == {"do_sample": False, "pad_token_id": 0}
    model = onnx.load_model_from_string(after[graph])
    weights = {tensor.name for tensor in model.graph.initializer}
    assert not [node for node in model.graph.node if node.op_type == "Reshape" and node.input[0] in weights]
    js = {"dtype": "q8", "use_external_data_format": True}
    assert config.get("transformers.js_config") == (js if layout == "transformers.js" else None)


def test_options_that_a_runtime_lacks_arent_written_and_a_line_says_so(tfm, bundle, tmp_path):
    path = Path(shutil.copytree(bundle, tmp_path / "beams"))
    manifest = json.loads((path / "tfm.json").read_bytes())
    manifest["generation"] |= {"search": {"beams": 4}, "defaults": {"no_repeat_ngram": 3}}
    (path / "tfm.json").write_text(json.dumps(manifest))
    stated = {}
    for layout, line in (
        ("transformers.js", "doesn't apply these settings of the model: beams=4\n"),
        ("optimum", "for optimum\n"),
    ):
        ran = tfm("convert", path, tmp_path / layout, "--layout", layout)
        assert ran.code == 0
        assert ran.err.endswith(line)
        stated[layout] = json.loads((tmp_path / layout / "generation_config.json").read_bytes())
    assert stated["optimum"] == stated["transformers.js"] | {"num_beams": 4}
    assert stated["transformers.js"]["no_repeat_ngram_size"] == 3


def test_an_export_in_a_layout_is_the_converted_bundle(tfm, checkpoint, bundle, tmp_path):
    exported, converted = tmp_path / "exported", tmp_path / "converted"
    exported.mkdir()
    ran = tfm("export", checkpoint, exported, "--layout", "genai", "--no-verify")
    assert (ran.code, ran.out) == (0, f"{exported}\n")
    assert "for genai\n" in ran.err
    assert tfm("convert", bundle, converted, "--layout", "genai").code == 0
    for command in (["verify"], ["inspect"], ["generate", "hi", "--model"]):
        tfm(*command, converted).failed(5, "runtime", "bundle")
    one, other = content(exported), content(converted)
    assert one.keys() == other.keys()
    # A test may have verified the bundle, and the graph has its certificate's hash.
    del one["tfm/certificate.json"], other["tfm/certificate.json"]
    graphs = [onnx.load_model_from_string(files.pop("model.onnx")) for files in (one, other)]
    for graph in graphs:
        (signed,) = (prop for prop in graph.metadata_props if prop.key == "certificate_sha256")
        graph.metadata_props.remove(signed)
    assert graphs[0] == graphs[1]
    assert one == other
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == [
        "converted",
        "exported",
    ]


def test_what_a_layout_doesnt_cover_is_said_before_there_is_work(
    tfm, checkpoint, bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(bundle_writer, "_write", lambda *_: pytest.fail("it was exported"))
    out = tmp_path / "out"
    refused = tfm("export", checkpoint, out, "--layout", "genai", "--target", "standard")
    refused.failed(7, "genai", "--target", "ort-cpu")
    refused = tfm("export", checkpoint, out, "--layout", "genai", "--kv", "int8")
    refused.failed(7, "quantizes", "--kv float")
    config = tiny_models.encoder_decoder()
    save_checkpoint(tmp_path / "pair", config, tiny_models.weights(config))
    tfm("export", tmp_path / "pair", out, "--layout", "genai").failed(7, "Whisper")
    out.mkdir()
    (out / "mine").touch()
    tfm("export", checkpoint, out, "--layout", "genai").failed(7, "directory")
    tfm("convert", bundle, out, "--layout", "genai").failed(7, "directory")
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_a_damaged_bundle_isnt_converted(tfm, bundle, tmp_path):
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    with open(damaged / "model.onnx.data", "r+b") as file:
        file.write(b"\x01")
    tfm("convert", damaged, tmp_path / "out", "--layout", "genai").failed(5, "SHA-256")
    tfm("convert", tmp_path / "nothing", tmp_path / "out", "--layout", "genai").failed(5, "directory")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSPC])
def test_data_is_copied_where_blocks_cant_be_shared(tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    (tmp_path / "a").write_bytes(b"weights" * 999)
    data_file.copy(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(os, "copy_file_range", fail)
    if code == errno.ENOSPC:
        with refused(OSError, "space"):
            data_file.copy(tmp_path / "a", tmp_path / "c")
        return
    data_file.copy(tmp_path / "a", tmp_path / "c")
    assert content(tmp_path) == dict.fromkeys("abc", b"weights" * 999)


def test_fixed_shapes_are_for_standard_graphs(tfm, bundle, tmp_path):
    """What is asked for is checked before there is work; sizes of nothing are a usage error."""
    out = tmp_path / "fixed"
    tfm("convert", bundle, out, "--time", 4, "--capacity", 24).failed(7, "standard")
    assert not out.exists()
    tfm("convert", bundle, out, "--capacity", 24).failed(2, "--time")
    tfm("convert", bundle, out, "--time", 4, "--layout", "genai").failed(2, "--time")
    tfm("convert", bundle, out).failed(2, "--layout")
