"""`--adapter` and `--no-adapter`, and what bundles state of an adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.refused import refused
from safetensors.numpy import save_file
from tfm.cli.options import adapter_choice, with_flags
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.errors import BundleError, CheckpointError
from tfm.runtime.bundle import manifest
from tfm.runtime.hub.cache_dir import bundle_path
from tfm.runtime.hub.locate import adapted, locate
from tfm.runtime.progress import silent

NORM = "base_model.model.decoder.norm.weight"


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny model: another last norm, under tfm's own names."""
    path = tmp_path_factory.mktemp("adapters") / "other-norm"
    path.mkdir()
    norm = open_checkpoint(checkpoint).leaf("decoder.norm.weight")
    save_file(
        {NORM: norm * np.linspace(-3, 3, len(norm), dtype=np.float32)}, path / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "base_model_name_or_path": "somebody/tiny", "modules_to_save": ["norm"]}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture
def both(checkpoint: Path, adapter: Path, tmp_path: Path) -> Path:
    """The tiny model with the adapter beside it."""
    path = tmp_path / "tiny"
    shutil.copytree(checkpoint, path)
    shutil.copytree(adapter, path, dirs_exist_ok=True)
    return path


def test_a_text_with_and_without_the_adapter(tfm, checkpoint, adapter, both):
    asked = ("generate", "hello", "--engine", "numpy", "--max-new-tokens", 4, "--greedy", "--model")
    alone, merged = tfm(*asked, checkpoint).out, tfm(*asked, checkpoint, "--adapter", adapter)
    assert alone != merged.out
    assert "4 tokens: raise --max-new-tokens" in merged.err
    assert tfm(*asked, both, "--no-adapter").out == alone
    assert tfm(*asked, both, "--adapter", both).out == merged.out
    tfm(*asked, both, "--no-adapter", "--adapter", adapter).failed(2, "--adapter", "--no-adapter")


def test_commands_refuse_to_choose_and_pass_the_choice_on(tfm, both, tmp_path):
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.mkdir()
    text.write_text("hello hello hello")
    tasks = (
        "generate",
        "attention",
        "bench",
        "chat",
        "classify",
        "embed",
        "fill",
        "summarize",
        "tag",
        "translate",
    )
    silent = ("bench", "chat")  # these take no text
    commands = [(task, *(() if task in silent else ("hello",)), "--model", both) for task in tasks]
    commands += [("answer", "who?", "hello", "--model", both), ("context", both, "--text", text)]
    commands += [("export", both, tmp_path / "out"), ("inspect", both)]
    for command in commands:
        tfm(*command).failed(3, "--adapter", f"'{both}'", "--no-adapter")
        tfm(*command, "--adapter", empty).failed(3, empty, "adapter")


def test_an_adapter_alone_and_one_for_a_bundle(tfm, adapter, bundle):
    wanted = f"give the base 'somebody/tiny' as the model, and --adapter '{adapter}'"
    tfm("generate", "hello", "--model", adapter).failed(3, *wanted.split())
    tfm("inspect", adapter).failed(3, *wanted.split())
    tfm("generate", "hello", "--model", bundle, "--adapter", adapter).failed(3, "--adapter")
    tfm("inspect", "llama-3-70b", "--adapter", adapter).failed(3, "--adapter")


def test_inspect_names_the_adapter(tfm, checkpoint, adapter):
    assert tfm("inspect", checkpoint, "--adapter", adapter, "--json").json["adapter"] == (
        "other-norm, changes 1 weights"
    )
    assert "adapter" not in tfm("inspect", checkpoint, "--json").json


def test_a_bundle_states_its_adapter_and_is_verified_with_it(tfm, checkpoint, adapter, both, tmp_path):
    out = tmp_path / "bundle"
    assert tfm("export", both, out, "--adapter", adapter, "--quant", "fp32").code == 0
    stated = json.loads((out / "tfm.json").read_text())
    merged = open_checkpoint(checkpoint, adapter)
    assert stated["adapter"] == merged.adapter_source
    assert stated["adapter"]["name"] == "other-norm"
    assert stated["source"]["sha256"] == merged.source["sha256"]
    assert tfm("verify", out, "--source", both, "--adapter", adapter).code == 0
    certificate = json.loads((out / "certificate.json").read_text())
    assert {row["name"]: row["ok"] for row in certificate["rows"]}["weights equal the source's"] is True
    assert tfm("inspect", out, "--json").json["adapter"] == "other-norm"
    said = "'other-norm' --adapter DIR"
    for more in ((checkpoint,), (both, "--no-adapter")):
        tfm("verify", out, "--source", *more).failed(3, *said.split())
    # A manifest without the field is one without an adapter, and one with null isn't ours.
    loaded = manifest.load(json.dumps({k: v for k, v in stated.items() if k != "adapter"}).encode(), "here")
    assert loaded.adapter is None
    assert "adapter" not in json.loads(manifest.dump(loaded))
    with refused(BundleError, "adapter"):
        manifest.load(json.dumps(stated | {"adapter": {"name": "x"}}).encode(), "here")


def test_cached_bundles_of_other_adapters_lie_elsewhere(checkpoint, adapter, both, tmp_path):
    other = shutil.copytree(adapter, tmp_path / "other")
    base = locate(str(checkpoint), silent)
    sources = [base, *(adapted(base, one) for one in (adapter, other))]
    assert adapted(base, False).digest() == adapted(base, None).digest() == base.digest()
    before = [bundle_path(source, "int8", "ort-cpu") for source in sources]
    assert len(set(before)) == 3
    (other / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text() + " ")
    after = [bundle_path(source, "int8", "ort-cpu") for source in sources]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False]
    with refused(CheckpointError, "adapter"):
        adapted(locate(str(both), silent), None)


def test_library_errors_name_the_flags():
    assert with_flags("adapter='x', adapter=False") == "--adapter 'x', --no-adapter"
    assert adapter_choice(None, no_adapter=True) is False
    assert adapter_choice(None, no_adapter=False) is None
