"""`--ray` without Ray: what goes together, and a folder that is complete."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import task_models
from helpers.exported import exported
from tfm.refimpl import config
from tfm.runtime.fleet import Embed
from tfm.runtime.fleet.compute import results
from tfm.runtime.fleet.folder import opened
from tfm.runtime.fleet.job import Job

TEXTS = ["the cat", "is", "the cat is"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for embeddings."""
    tiny = task_models.config(config.Pool("mean", unit=True))
    return exported(tmp_path_factory.mktemp("fleet"), tiny, 5, texts=[task_models.WORDS.to_str()]).path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return tmp_path / "in.jsonl"


def test_what_goes_together(tfm, encoder: Path, file: Path, tmp_path: Path):
    job = ("embed", "--model", encoder, "--ray", "local")
    tfm(*job).failed(2, "--ray", "--file", "--out")
    tfm("embed", "--out", tmp_path / "out", "--file", file).failed(2, "--ray", "--file", "--out")
    job = (*job, "--file", file, "--out", tmp_path / "out")
    tfm(*job, "the cat").failed(2, "--ray", "TEXT")
    tfm(*job, "--similarity").failed(2, "--ray", "--similarity")
    tfm(*job, "--engine", "numpy").failed(2, "--ray", "--engine")
    tfm(*job, "--device", "auto").failed(2, "--ray", "--device", "cpu", "cuda")
    (tmp_path / "in.txt").write_text("the cat\n")
    tfm(*job[:-3], tmp_path / "in.txt", *job[-2:]).failed(2, ".jsonl", ".parquet")
    assert not (tmp_path / "out").exists()


def test_each_command_states_its_job(tfm, file: Path, tmp_path: Path, monkeypatch):
    """With what decides its results, and nothing that doesn't."""
    stated = {}

    def run(job: Job, out: Path, address: str, workers: int | None, progress: object) -> tuple[int, int]:
        stated[job.task] = job, address, workers
        return 3, 0

    monkeypatch.setattr("tfm.runtime.fleet.pipeline.run", run)
    monkeypatch.setattr("tfm.cli.fleet.find_spec", lambda name: name)
    monkeypatch.setattr("tfm.cli.model_loading.located_bundle", lambda name, *_, **__: Path(name))
    monkeypatch.setattr("tfm.runtime.bundle.bundle.open_bundle", lambda path: SimpleNamespace(config=None))
    monkeypatch.setattr("tfm.runtime.tasks.base.check_task", lambda *_: None)
    given = ("--ray", "auto", "--file", file, "--out", tmp_path / "out", "--model", tmp_path, "--workers", 2)
    asked = {
        "embed": ("--batch", 3),
        "classify": ("--threads", 2),
        "tag": ("--aggregation", "first", "--outside", "X"),
        "generate": ("--temperature", 0.5, "--presence-penalty", 0, "--raw", "--stop", "a", "--seed", 4),
    }
    for task, more in asked.items():
        assert tfm(task, *given, *more).code == 0
    own = {
        "embed": {"batch": 3},
        "classify": {"batch": 32, "threads": 2},
        "tag": {"batch": 32, "aggregation": "first", "outside": ["X"]},
        "generate": {
            "batch": 8, "temperature": 0.5, "presence_penalty": 0, "raw": True, "stop": ["a"], "seed": 4,
            "greedy": False,
        },
    }  # fmt: skip
    for task, options in own.items():
        want = Job(task, tmp_path.resolve(), {"device": "cpu", "threads": 1, **options}, file)
        assert stated[task] == (want, "auto", 2)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("classify", ("--pair", "a")),
        ("classify", ("--top", 1)),
        ("generate", ("--beams", 2)),
        ("generate", ("--draft", "none")),
        ("generate", ("--json",)),
        ("tag", ("--json",)),
    ],
)
def test_options_that_rows_of_a_file_have_no_use_for(tfm, file: Path, tmp_path: Path, task, options):
    told = tfm(task, "--ray", "local", "--file", file, "--out", tmp_path / "out", *options)
    told.failed(2, "--ray", options[0])


def test_rows_are_checked_before_a_cluster_is_asked_for(
    tfm, encoder: Path, file: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    job = ("embed", "--model", encoder, "--ray", "local", "--file", file, "--out", tmp_path / "out")
    tfm(*job).failed(1, "'tfm-cli[ray]'")
    tfm(*job, "--column", "words").failed(7, "column", "'text'", "'words'")
    file.write_text('{"text": "a"}\n{"text": ""}\n')
    tfm(*job[:-1], tmp_path / "other").failed(2, "in.jsonl", "row", "1", "'text'")
    file.write_text("")
    tfm(*job[:-1], tmp_path / "none").failed(2, "in.jsonl", "rows")


def test_a_missing_cluster_is_told_before_a_model_is_exported(
    tfm, encoder: Path, file: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))
    job = ("embed", "--model", encoder.with_name("model"), "--ray", "local", "--file", file)
    tfm(*job, "--out", tmp_path / "out").failed(1, "'tfm-cli[ray]'")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_complete_needs_no_cluster(
    tfm, encoder: Path, file: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = {"batch": 5, "device": "cpu", "threads": 1}
    with opened(tmp_path / "out", Job("embed", encoder, options, file, rows=2)) as folder:
        for i in range(2):
            folder.write(i, results(Embed(encoder, **options), 2 * i, TEXTS[2 * i : 2 * i + 2], "jsonl"))
    job = ("embed", "--model", encoder, "--ray", "local", "--file", file, "--out", tmp_path / "out")
    done = tfm(*job, "--block", 2, "--batch", 5)
    assert (done.code, done.out) == (0, "")
    assert re.search("out: 3 rows; .* 0 blocks\n$", done.err)
    tfm(*job, "--block", 2).failed(7, "batch", "5", "32")
