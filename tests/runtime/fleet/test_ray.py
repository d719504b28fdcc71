"""Jobs on clusters of several node processes, with Ray in an environment of its own."""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import peers, serving, task_models, tiny_models
from helpers.exported import exported
from tfm.refimpl import config
from tfm.runtime.fleet import Embed
from tfm.runtime.fleet.compute import results
from tfm.runtime.fleet.rows import blocks
from tfm.runtime.tasks import load

pytestmark = pytest.mark.peers
JOBS = Path(__file__).with_name("cluster_jobs.py")
ROWS, BLOCKS = 10, 24


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peers.python_over(tmp_path_factory.mktemp("ray"), "ray[data,serve]>=2.60,<3")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for Ray, whose sockets' paths must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray ends a proxy that takes 5 s to start, or 10 s to answer, as on a busy machine.
        monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "300")
        monkeypatch.setenv("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "300")
        yield Path(folder)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder for embeddings."""
    tiny = task_models.config(config.Pool("mean", unit=True))
    return exported(tmp_path_factory.mktemp("fleet"), tiny, 5, texts=[task_models.WORDS.to_str()]).path


def rows(path: Path) -> Path:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(["the", "cat", "is", "a"], k=1 + i % 9)) for i in range(ROWS * BLOCKS - 3)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.usefixtures("temporary")
def test_no_row_is_lost_where_an_actor_and_a_node_are_killed(python: Path, bundle: Path, tmp_path: Path):
    """And each block has the bytes that one machine computes for it."""
    file, out = rows(tmp_path / "in.jsonl"), tmp_path / "out"
    options = {"batch": 4, "device": "cpu", "threads": 1}
    job = {"task": "embed", "bundle": str(bundle), "options": options, "file": str(file), "rows": ROWS}
    told = json.loads(peers.run([python, JOBS, "killed"], {"out": str(out), **job}).splitlines()[-1])
    assert told == {"rows": ROWS * BLOCKS - 3, "blocks": BLOCKS, "actors": 1, "nodes": 1}
    made = sorted(out.glob("*.jsonl"))
    task = Embed(bundle, **options)
    want = [results(task, i * ROWS, texts, "jsonl") for i, texts in enumerate(blocks(file, "text", ROWS))]
    assert [one.read_bytes() for one in made] == want


def test_parquet_that_cant_be_read_is_one_line(python: Path, tmp_path: Path):
    told = json.loads(peers.run([python, JOBS, "parquet"], {"folder": str(tmp_path)}).splitlines()[-1])
    assert told["x text"] == ["c", "d"]
    assert re.search("one column 'text', .* 2", told["text text"])
    assert re.search(r"one column 'text', .* \['x\\n', 'y'\]", told["x\n y"])
    refused = [one for one in told["damaged"] if isinstance(one, str)]
    assert len(refused) > 50
    assert [one for one in refused if len(one.splitlines()) != 1] == []


@pytest.mark.usefixtures("temporary")
def test_a_replica_is_killed(python: Path, tmp_path: Path):
    """Its stream ends with an error; who waited for it is answered by the one that takes its place."""
    tiny = tiny_models.llama(vocabulary=serving.TOKENIZER.get_vocab_size(), context=2**17, layers=1)
    bundle = exported(tmp_path, tiny, 3, texts=[serving.TOKENIZER.to_str(), serving.CHAT], quant="int8").path
    messages, options = serving.messages(3), {"seed": 4, "temperature": 1.2}
    chat = {"messages": messages, "max_tokens": 9, **options}
    given = {"bundle": str(bundle), "chat": chat, "waiting": 3}
    told = json.loads(peers.run([python, JOBS, "broken"], given).splitlines()[-1])
    assert told["first"]["choices"][0]["delta"]["role"] == "assistant"
    assert told["last"]["error"]["type"] == "server_error"
    want = str(load(bundle, threads=1).chat(messages, max_new_tokens=9, **options))
    assert told["answers"] == [want] * 3
    counts = told["counts"]
    asked = counts.pop("answered")
    assert counts == {"retried": 3, "broken": 1, "failed": 0}
    assert asked >= 3
