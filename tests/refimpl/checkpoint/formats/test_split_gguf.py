"""GGUF models of several files, as gguf's own writer splits them; parts that lie about each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.fuzz_readers import write_gguf
from helpers.refused import refused
from tfm.refimpl.checkpoint.formats.gguf import GGUF
from tfm.refimpl.checkpoint.formats.gguf_parts import models_of
from tfm.refimpl.checkpoint.formats.split_gguf import open_gguf
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.params.tree import flatten

NAME = "m-{:05}-of-{:05}.gguf"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    write_gguf(folder / "m.gguf")
    write_gguf(folder / "m.gguf", split_max_tensors=4)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "split"))


def count(folder: Path) -> int:
    return len(list(folder.glob("m-*.gguf")))


def test_parts_are_the_whole(written):
    whole, parts = GGUF(written / "m.gguf"), open_gguf(written / NAME.format(1, count(written)))
    assert count(written) == 3
    assert sorted(parts.names) == sorted(whole.names)
    for name in whole.names:
        assert (parts.kind(name), parts.shape(name)) == (whole.kind(name), whole.shape(name))
        np.testing.assert_array_equal(parts.load(name), whole.load(name), strict=True)
    assert parts.metadata.keys() == whole.metadata.keys()
    one, other = (open_checkpoint(file) for file in (whole.path, written / NAME.format(1, 3)))
    assert one.config == other.config
    for (name, leaf), (_, same) in zip(flatten(one.params), flatten(other.params), strict=True):
        assert np.array_equal(leaf, same), name
    assert other.source["name"] == "m-00001-of-00003.gguf"
    assert list(other.files) == [NAME.format(i, 3) for i in (1, 2, 3)]


def test_what_must_be_named_and_there(folder):
    with refused(CheckpointError, "m-00001-of-00003"):
        open_checkpoint(folder / NAME.format(2, 3))
    (folder / NAME.format(3, 3)).unlink()
    with refused(CheckpointError, 1, "parts", "m-00003-of-00003"):
        open_checkpoint(folder / NAME.format(1, 3))
    first = (folder / NAME.format(1, 3)).rename(folder / NAME.format(1, 99_999))
    with refused(CheckpointError, 1000, "parts", 99999):
        open_checkpoint(first)
    with refused(ConfigError, "split.count", 1):
        open_checkpoint(first.rename(folder / "alone.gguf"))


def test_parts_that_contradict_each_other(folder):
    first, second, third = (folder / NAME.format(i, 3) for i in (1, 2, 3))
    shutil.copy(second, folder / "kept")
    third.rename(second)
    shutil.copy(folder / "kept", third)
    with refused(CheckpointError, "m-00002-of-00003.gguf", "(1, 3, 11)", 2, 3):
        open_gguf(first)
    shutil.copy(folder / "kept", second)
    with refused(CheckpointError, "split.tensors.count", "(0, 3, 8)", "(0, 3, 11)"):
        open_gguf(first)
    write_gguf(third)
    with refused(CheckpointError, "split.no", "split.count", "split.tensors.count"):
        open_gguf(first)


def test_models_among_names():
    names = ["a.Q8_0.gguf", "b/m-00002-of-00002.gguf", "b/m-00001-of-00002.gguf", "mmproj-a.gguf", "x.bin"]
    assert models_of(names) == {
        "a.Q8_0.gguf": ["a.Q8_0.gguf"],
        "b/m-00001-of-00002.gguf": ["b/m-00001-of-00002.gguf", "b/m-00002-of-00002.gguf"],
    }
