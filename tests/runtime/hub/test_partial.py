"""A fetch that is interrupted ends at once, keeps what has come, and the next one goes on from it."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from helpers.hub import COMMIT
from helpers.refused import refused
from helpers.wheels import everything
from huggingface_hub import constants
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.bundle.atomic_dir import locked
from tfm.runtime.hub.cache_dir import cached, model_path, partial_path, remove
from tfm.runtime.hub.locate import fetch
from tfm.runtime.hub.partial import CHUNK, SUFFIX, TransferError
from tfm.runtime.progress import silent

NAME = "hf:org/name"
WEIGHTS = os.urandom(6 * CHUNK + 123)
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS}
WHEEL = "pkg-1.0-py3-none-any.whl"


def stored_wheel() -> bytes:
    """A wheel of a model of many chunks, which don't get smaller."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pkg/model.gguf", WEIGHTS)
        # Without these pip 24.2 refuses it.
        archive.writestr("pkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n")
        archive.writestr("pkg-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    return buffer.getvalue()


def fetched(name: str) -> int:
    """The bytes that are there of the file that is being fetched; whole ones are renamed."""
    with suppress(FileNotFoundError):
        return max((part.stat().st_size for part in partial_path(name).rglob(f"*{SUFFIX}")), default=0)
    return 0


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("name", "number", "code"),
    [(NAME, signal.SIGINT, 130), (NAME, signal.SIGKILL, -9), ("pypi:pkg", signal.SIGTERM, 143)],
)
def test_a_signal_ends_a_fetch_and_the_next_one_goes_on(cache, hub, monkeypatch, name, number, code):
    hub.files, hub.wheels, hub.rate = FILES, {WHEEL: stored_wheel()}, CHUNK
    settings = {"PIP_INDEX_URL": f"{hub.url}/simple", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    for key, value in {**settings, "HF_ENDPOINT": hub.url, "NO_PROXY": "*"}.items():
        monkeypatch.setenv(key, value)
    command = [sys.executable, "-m", "tfm.cli", "pull", name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while fetched(name) < 2 * CHUNK:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    hub.rate = CHUNK / 60  # the rest would take minutes
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "Traceback" not in told
    there = fetched(name)
    assert there % CHUNK == 0
    assert not model_path(name).exists()
    assert [(entry.kind, entry.bytes >= there) for entry in cached()] == [("partial", True)]
    hub.rate, stages = float("inf"), []
    path = fetch(name, lambda stage, *_: stages.append(stage))
    assert hub.asked[-1][1] == there
    assert any(f", {there / 1e6:.0f} MB are already on disk" in stage for stage in stages)
    assert (path if path.is_file() else path / "model.safetensors").read_bytes() == WEIGHTS
    assert [entry.kind for entry in cached()] == ["model"]


def left(name: str, data: bytes, file: str = "model.safetensors") -> Path:
    """What an interruption leaves of a file."""
    part = partial_path(name) / COMMIT / (file + SUFFIX)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    return part


def test_a_connection_that_is_cut_is_taken_up_within_a_run(cache, hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits before it asks again
    hub.files, hub.cuts = {"model.gguf": WEIGHTS}, 2
    assert fetch(NAME, silent).read_bytes() == WEIGHTS
    begins = [begin for _, begin in hub.asked]
    assert begins == sorted(begins)
    assert len(set(begins)) == 3


@pytest.mark.parametrize("stalls", [1, 99])
def test_a_connection_that_stalls_is_taken_up_or_given_up(cache, hub, monkeypatch, stalls):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.files, hub.stalls = {"model.gguf": WEIGHTS}, stalls
    if stalls > 1:
        with refused(TransferError, "continues", "downloaded"):
            fetch(NAME, silent)
        assert fetched(NAME) > 0
        hub.stalls = 0
    assert fetch(NAME, silent).read_bytes() == WEIGHTS
    begins = [begin for _, begin in hub.asked]
    assert begins == sorted(begins)
    assert begins[-1] > 0


@pytest.mark.parametrize(
    ("status", "does", "where"),
    [
        ("429", "HF_TOKEN", "code"),
        ("500", "later", "code"),
        ("429", "HF_TOKEN", "code_after_cuts"),
        ("503", "later", "code_after_cuts"),
        ("404", "later", "code_after_cuts"),
    ],
)
def test_a_hub_that_answers_an_error_is_named_and_what_came_is_kept(
    cache, hub, monkeypatch, status, does, where
):
    """The API, or a file of which some has come."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.files = {"model.gguf": WEIGHTS}
    hub.cuts = int(where != "code")
    setattr(hub, where, status)
    with pytest.raises(TransferError) as error:
        fetch(NAME, silent)
    assert status in str(error.value)
    assert does in str(error.value)
    hub.code = hub.code_of_files = hub.code_after_cuts = ""
    assert fetch(NAME, silent).read_bytes() == WEIGHTS
    assert [begin > 0 for _, begin in hub.asked] == ([False] if where == "code" else [False, True])


def test_what_a_dead_hub_sent_is_kept(cache, hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.files, hub.cuts, hub.code_after_cuts = {"model.gguf": WEIGHTS}, 1, "Broken"
    with refused(TransferError, "continues", "downloaded"):
        fetch(NAME, silent)
    there = fetched(NAME)
    hub.code_of_files = hub.code_after_cuts = ""
    assert fetch(NAME, silent).read_bytes() == WEIGHTS
    assert hub.asked == [("model.gguf", 0), ("model.gguf", there)]
    assert there > 0


@pytest.mark.parametrize("ranges", [True, False])
def test_only_the_rest_is_asked_for_and_a_hub_without_ranges_sends_all(cache, hub, ranges):
    hub.files, hub.ranges = {"model.gguf": WEIGHTS}, ranges
    left(NAME, WEIGHTS[:CHUNK], "model.gguf")
    shares = []
    path = fetch(NAME, lambda _, done, total: shares.append((done, total)))
    assert path.read_bytes() == WEIGHTS
    assert hub.asked == [("model.gguf", CHUNK if ranges else 0)]
    assert shares[-1] == (5 * CHUNK + 123,) * 2
    assert all(0 <= done <= total for done, total in shares)


def test_of_shards_only_the_rest_of_the_second_is_asked_for(cache, hub):
    first, second = WEIGHTS[: 2 * CHUNK], WEIGHTS[2 * CHUNK :]
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = b'{"weight_map": {"a": "%b", "b": "%b"}}' % tuple(name.encode() for name in names)
    hub.files = {
        "config.json": FILES["config.json"],
        "model.safetensors.index.json": index,
        **dict(zip(names, (first, second), strict=True)),
    }

    def interrupt(_: str, done: int = 0, total: int = 0) -> None:
        if done > len(first) + 2 * CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, interrupt)
    assert not model_path(NAME).exists()
    hub.asked.clear()
    path = fetch(NAME, silent)
    assert {name: (path / name).read_bytes() for name in hub.files} == hub.files
    assert [(name, begin > 0) for name, begin in hub.asked] == [(names[1], True)]


@pytest.mark.parametrize("file", ["model.gguf", "config.json"])
@pytest.mark.parametrize("hashes", [True, False])
def test_a_damaged_part_isnt_taken_for_the_file(cache, hub, file, hashes):
    """A hub that gives no hash gives a size at least."""
    hub.files = {**FILES, "model.gguf": WEIGHTS} if file == "config.json" else {"model.gguf": WEIGHTS}
    hub.hashes = hashes
    name = NAME if file == "model.gguf" else f"{NAME}:config.json"
    whole = hub.files[file]
    left(name, b"x" * 9 if hashes else whole + b"x", file)
    if hashes:
        with refused(CheckpointError, file, "hash"):
            fetch(name, silent)
        assert not partial_path(name).exists()
    path = fetch(name, silent)
    assert (path / file if path.is_dir() else path).read_bytes() == whole


def test_one_damaged_file_costs_no_other(cache, hub):
    hub.files = FILES
    left(NAME, b"x" * CHUNK)
    with refused(TransferError, "safetensors", "hash"):
        fetch(NAME, silent)
    fetch(NAME, silent)
    assert hub.asked == [("config.json", 0), ("model.safetensors", CHUNK), ("model.safetensors", 0)]


def test_a_hub_that_sends_more_than_it_said_is_refused(cache, hub, monkeypatch):
    hub.files = {"model.gguf": WEIGHTS}
    real = hub._about
    monkeypatch.setattr(hub, "_about", lambda name: real(name) | {"size": CHUNK})
    with refused(CheckpointError, CHUNK, "bytes"):
        fetch(NAME, silent)
    assert everything(cache) == []


def test_what_came_of_another_commit_is_dropped(cache, hub):
    hub.files = {"model.gguf": WEIGHTS}
    other = partial_path(NAME) / "beef"
    other.mkdir(parents=True)
    (other / f"model.gguf{SUFFIX}").write_bytes(WEIGHTS[:CHUNK])
    stays = []
    assert fetch(NAME, lambda *_: stays.append(other.exists())).read_bytes() == WEIGHTS
    assert stays[-1] is False
    assert hub.asked == [("model.gguf", 0)]
    assert not partial_path(NAME).exists()


def test_what_has_come_is_removed_by_the_name_of_the_model(cache):
    left(NAME, b"1")
    assert [entry.kind for entry in remove(NAME)] == ["partial"]
    assert cached() == []


def test_one_process_alone_adds_to_a_part(cache, hub):
    """The lock of the model's place is that of its parts."""
    hub.files = {"model.gguf": WEIGHTS}
    model_path(NAME).parent.mkdir(parents=True)

    class WaitsError(Exception):
        """What the wait for the other process was told."""

    def notify(stage, done, total):
        raise WaitsError(stage)

    with locked(model_path(NAME).resolve()), refused(WaitsError, "process", "writing"):
        fetch(NAME, notify)
    assert hub.asked == []
