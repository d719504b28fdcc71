"""Blocks of a job: which rows are read, what a restart computes, and which files and folders are refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import serving
from helpers.refused import refused
from helpers.task_models import tiny_reader
from tfm.refimpl import config
from tfm.refimpl.errors import ArgumentError, BundleError, CheckpointError, ExportError, LimitError, TfmError
from tfm.runtime.bundle.atomic_dir import BusyError
from tfm.runtime.fleet import Classify, Embed, Generate
from tfm.runtime.fleet.compute import ComputeBlock, results
from tfm.runtime.fleet.folder import MANIFEST, opened
from tfm.runtime.fleet.job import Job
from tfm.runtime.fleet.rows import LINE, blocks, texts

TEXTS = ["the cat", "is", "the cat is", "a", "cat cat cat the"]
OPTIONS = {"batch": 2, "device": "cpu", "threads": 1}


def rows(path: Path, some: list[str] = TEXTS) -> Path:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(some)))
    return path


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job of three blocks; of the bundle only the manifest is read."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "tfm.json").write_text("{}")
    return Job("embed", tmp_path / "bundle", OPTIONS, rows(tmp_path / "in.jsonl"), rows=2)


def test_rows_in_blocks(job: Job):
    assert list(blocks(job.file, "text", 2)) == [TEXTS[:2], TEXTS[2:4], TEXTS[4:]]
    assert list(blocks(job.file, "text", 5)) == [TEXTS]
    job.file.write_bytes(job.file.read_bytes().removesuffix(b"\n"))
    assert list(texts(job.file, "text")) == TEXTS


def test_a_block_becomes_lines_with_the_numbers_of_its_rows():
    model = tiny_reader(config.Pool())
    read = [json.loads(line) for line in results(Embed(model), 7, TEXTS, "jsonl").splitlines()]
    assert [row["row"] for row in read] == [7, 8, 9, 10, 11]
    assert list(read[0]) == ["row", "embedding"]
    same = np.array([row["embedding"] for row in read], np.float32)
    assert np.array_equal(same, model.embed(TEXTS)), "nine digits are enough for each bit"

    labels = tiny_reader(config.Classify(2), ("no", "yes"))
    read = [json.loads(line) for line in results(Classify(labels), 0, TEXTS[:2], "jsonl").splitlines()]
    want = [[one._asdict() for one in row] for row in labels.classify(TEXTS[:2])]
    assert read == [{"row": i, "labels": row} for i, row in enumerate(want)]

    chat, options = serving.model(), {"max_new_tokens": 5, "temperature": 1.4}
    want = chat.generate_many(TEXTS, **options)
    read = [
        json.loads(line) for line in results(Generate(chat, **options), 2, TEXTS[2:4], "jsonl").splitlines()
    ]
    assert read == [
        {"row": i, "completion": want[i].text, "finish_reason": want[i].finish_reason} for i in (2, 3)
    ]


def test_an_error_names_the_rows():
    with refused(LimitError, "rows", "7", "8", "text", "2", "tokens"):
        results(Embed(tiny_reader(config.Pool())), 7, ["a", "the " * 99], "jsonl")


def test_another_bundle_on_a_machine_is_refused(job: Job):
    """Before it is loaded."""
    with refused(BundleError, "bundle", "job"):
        ComputeBlock("embed", job.bundle, OPTIONS, "0" * 64, 2, "jsonl")


def test_a_restart_finds_what_is_finished(job: Job, tmp_path: Path):
    out = tmp_path / "deep" / "out"
    with opened(out, job) as folder:
        assert [folder.has(block) for block in range(3)] == [False] * 3
        folder.write(1, b"one\n")
    with opened(out, job) as folder:
        assert [folder.has(block) for block in range(3)] == [False, True, False]
        folder.write(0, b"zero\n")
        folder.write(2, b"two\n")
    written = sorted(file.name for file in out.iterdir())
    assert written.pop() == MANIFEST
    assert b"".join((out / name).read_bytes() for name in written) == b"zero\none\ntwo\n"
    assert [name[:8] for name in written] == ["00000000", "00000001", "00000002"]
    assert len({name[8:] for name in written}) == 1


def test_what_a_killed_process_left_is_removed(job: Job, tmp_path: Path):
    with opened(tmp_path / "out", job) as folder:
        partial = folder.path / f".{folder.file(2).name}.4711"
    partial.write_bytes(b"half of a li")
    with opened(tmp_path / "out", job) as folder:
        assert not partial.exists()
        assert not folder.has(2)


def test_a_failed_write_leaves_no_block(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with opened(tmp_path / "out", job) as folder:
        monkeypatch.setattr(os, "fsync", full)
        with refused(OSError, "space"):
            folder.write(0, b"zero\n")
        assert not folder.has(0)
        assert [file.name for file in folder.path.iterdir()] == [MANIFEST]


def test_one_process_at_a_time(job: Job, tmp_path: Path):
    with opened(tmp_path / "out", job), pytest.raises(BusyError), opened(tmp_path / "out", job):
        pass


def changed(job: Job, **fields: object) -> Job:
    given = {name: getattr(job, name) for name in ("task", "bundle", "options", "file", "column", "rows")}
    return Job(**{**given, **fields})


def test_another_job_is_refused(job: Job, tmp_path: Path):
    """Another task, bundle, option, input, column, or size of blocks; each is named."""
    with opened(tmp_path / "out", job) as folder:
        folder.write(0, b"zero\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "tfm.json").write_text("{ }")
    others = {
        "task": changed(job, task="classify"),
        "bundle": changed(job, bundle=other),
        "batch": changed(job, options={**OPTIONS, "batch": 3}),
        "raw": changed(job, options={**OPTIONS, "raw": True}),
        "input": changed(job, file=rows(other / "in.jsonl", [*TEXTS[:4], "cat"])),
        "column": changed(job, column="id"),
        "rows": changed(job, rows=3),
    }
    for what, one in others.items():
        with refused(ExportError, "another", "job", what), opened(tmp_path / "out", one):
            pass
    moved = job.bundle.rename(tmp_path / "moved")
    with opened(tmp_path / "out", changed(job, bundle=moved)) as folder:
        assert folder.has(0), "the same bundle at another place is the same job"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"{}", "bundle None"),
        (b"[]", "manifest []"),
        (b"{", "JSON"),
        (b"[" * 10**5, "nested"),
        (b" " * (5 * 2**20), "4194304 bytes"),
    ],
)
def test_a_damaged_manifest_is_refused(job: Job, tmp_path: Path, manifest: bytes, message: str):
    with opened(tmp_path / "out", job):
        pass
    (tmp_path / "out" / MANIFEST).write_bytes(manifest)
    with refused(ExportError, *message.split()), opened(tmp_path / "out", job):
        pass


def test_a_folder_with_other_files_is_refused(job: Job, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("!")
    with (
        refused(ExportError, "new", "empty", "job"),
        opened(tmp_path / "out", job),
    ):
        pass
    with opened(tmp_path / "new", job):
        pass
    (tmp_path / "new" / "00000001-0123456789ab.jsonl").write_text("")
    with refused(ExportError, "another", "job"), opened(tmp_path / "new", job):
        pass
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / MANIFEST)
    with refused(ExportError, "regular", "file"), opened(tmp_path / "pipe", job):
        pass


GOOD = b'{"text": "the cat"}\n'


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (GOOD + b"{", ArgumentError, "in.jsonl 1 JSON"),
        (GOOD + b"\n" + GOOD, ArgumentError, "row 1 JSON"),
        (GOOD + b'"the cat"', ArgumentError, "row 1 object 'text' 'the"),
        (b'{"texts": "a"}', ArgumentError, "row 0 object 'text'"),
        (b'{"text": 7}', ArgumentError, "0 'text' 7"),
        (b'{"text": null}', ArgumentError, "row 0 None"),
        (b'{"text": " \\t"}', ArgumentError, "row 0 blank"),
        (b'{"text": "\\ud800"}', ArgumentError, "0 surrogate"),
        (b'{"text": "a", "text": "b"}', ArgumentError, "'text' twice"),
        (b'{"text": "\xff"}', ArgumentError, "JSON UTF-8"),
        (b'{"text": "a", "x": 1e999}', ArgumentError, "finite"),
        (b'{"text": "a", "x": ' + b"[" * 10**5, ArgumentError, "nested"),
        (GOOD + b'{"text": "' + b"a" * LINE + b'"}', LimitError, "row 1 1048576 bytes"),
    ],
)
def test_hostile_rows_are_refused(tmp_path: Path, data: bytes, error: type[TfmError], message: str):
    (tmp_path / "in.jsonl").write_bytes(data)
    with refused(error, *message.split()):
        list(texts(tmp_path / "in.jsonl", "text"))


@pytest.mark.parametrize(
    ("names", "failure", "message"),
    [
        (["x", "text"], None, None),
        (["text", "text"], None, "must have exactly one column 'text', but it has 2 columns of this name"),
        (["x\n"], None, r"must have exactly one column 'text', but it has ['x\n']"),
        (
            ["text"],
            "Couldn't deserialize thrift:\n bad\n",
            "must be Parquet: Couldn't deserialize thrift: bad",
        ),
    ],
)
def test_parquet_is_refused_in_one_line(tmp_path: Path, monkeypatch, names, failure, message):
    """Over a stand-in for pyarrow; `test_ray` has the library itself."""

    class ParquetFile:
        def __init__(self, path: Path) -> None:
            self.schema_arrow = SimpleNamespace(names=names)

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

        def iter_batches(self, size: int, columns: list[str]):
            if failure:
                raise OSError(failure)
            yield SimpleNamespace(column=lambda _: SimpleNamespace(to_pylist=lambda: ["a", "b"]))

    parquet = SimpleNamespace(ParquetFile=ParquetFile)
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(parquet=parquet, ArrowException=ValueError))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    if message is None:
        assert list(texts(tmp_path / "in.parquet", "text")) == ["a", "b"]
        return
    with pytest.raises(ArgumentError) as error:
        list(texts(tmp_path / "in.parquet", "text"))
    assert str(error.value) == f"in.parquet {message}"


def test_other_files_are_refused(job: Job, tmp_path: Path):
    (tmp_path / "in.csv").write_text("text\na\n")
    with refused(ArgumentError, ".jsonl", ".parquet", "'in.csv'"):
        next(texts(tmp_path / "in.csv", "text"))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with refused(CheckpointError, "regular", "file"):
        _ = changed(job, file=tmp_path / "pipe.jsonl").manifest
