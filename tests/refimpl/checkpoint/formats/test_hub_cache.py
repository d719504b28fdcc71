"""A directory as the hub's client lays out its cache, opened as a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import tiny_models
from helpers.fuzz_readers import write_gguf
from helpers.refused import refused
from tfm.refimpl.checkpoint.formats.hub_cache import model_in_cache
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.hub.locate import locate
from tfm.runtime.progress import silent

CONFIG = tiny_models.llama(layers=1)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two snapshots, whose files are links into blobs."""
    root = tmp_path / "models--org--name"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    for commit in ("aaa", "bbb"):
        save_checkpoint(tmp_path / "files", CONFIG, tiny_models.weights(CONFIG))
        (root / "snapshots" / commit).mkdir(parents=True)
        for file in (tmp_path / "files").iterdir():
            shutil.copy(file, root / "blobs" / f"{commit}{file.name}")
            (root / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{commit}{file.name}")
    (root / "refs" / "main").write_text("bbb\n")
    return root


def test_the_branchs_snapshot_is_opened(cache):
    opened = open_checkpoint(cache)
    assert (opened.path, opened.config) == (cache / "snapshots" / "bbb", CONFIG)
    assert opened.source["name"] == "org/name"
    located = locate(str(cache), silent)
    assert (located.kind, located.path) == ("checkpoint", cache / "snapshots" / "bbb")
    assert open_checkpoint(cache / "snapshots" / "aaa").path == cache / "snapshots" / "aaa"


def test_several_snapshots_without_a_branch(cache):
    for stated in ("ccc", "../../x", ""):
        (cache / "refs" / "main").write_text(stated)
        with refused(CheckpointError, "refs/main", 2):
            open_checkpoint(cache)
    shutil.rmtree(cache / "snapshots" / "bbb")
    assert model_in_cache(cache) == cache / "snapshots" / "aaa"


def test_gguf_files(cache, tmp_path):
    snapshot = cache / "snapshots" / "bbb"
    shutil.rmtree(snapshot)
    snapshot.mkdir()
    write_gguf(cache / "blobs" / "g")
    (snapshot / "m.Q8_0.gguf").symlink_to("../../blobs/g")
    opened = open_checkpoint(cache)
    assert (opened.path, opened.source["name"]) == (snapshot / "m.Q8_0.gguf", "m.Q8_0.gguf")
    assert locate(str(cache), silent).path == snapshot / "m.Q8_0.gguf"
    (snapshot / "m.Q4_0.gguf").symlink_to("../../blobs/g")
    with refused(CheckpointError, "m.Q4_0.gguf", "m.Q8_0.gguf"):
        open_checkpoint(cache)
    (snapshot / "m.Q4_0.gguf").unlink()
    (snapshot / "m.Q8_0.gguf").unlink()
    (snapshot / "m.Q8_0.gguf").symlink_to(tmp_path / "elsewhere")
    with refused(CheckpointError, "directory", "links"):
        open_checkpoint(cache)


def test_other_directories_stay_as_they_are(cache, tmp_path):
    assert model_in_cache(tmp_path / "files") == tmp_path / "files"
    (tmp_path / "files" / "snapshots").mkdir()
    assert model_in_cache(tmp_path / "files") == tmp_path / "files"
    assert model_in_cache(tmp_path / "nowhere") == tmp_path / "nowhere"
