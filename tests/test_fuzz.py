"""Files that a reader once failed on stay refused in one line; the fuzzer notices each kind of failure."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import fuzz
import pytest
from helpers import fuzz_readers
from helpers.fuzz_readers import READERS, Reader
from tfm.export import bundle_writer
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.errors import CheckpointError, TfmError

CASES = sorted((Path(__file__).parent / "fuzz_cases").glob("*/*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    fuzz_readers.prepare(path)
    for source, bundle in fuzz_readers.BUNDLES.items():
        bundle_writer.export(open_checkpoint(path / source), path / bundle, verify=False)
    return path


def test_there_are_cases():
    assert {case.parent.name for case in CASES} <= set(READERS)
    assert len(CASES) >= 10


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_a_file_that_failed_once(folder, case):
    _, _, wrong = fuzz.outcome(READERS[case.parent.name], folder, case.read_bytes())
    assert wrong == ""


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read_and_mutants_differ(folder, name):
    reader = READERS[name]
    sound = reader.sound(folder)
    for data in sound:
        passed: list[bool] = []
        reader.read(folder, data, lambda passed=passed: passed.append(True))
        assert passed, "the outer form of a sound file was read"
    mutants = [fuzz.mutant(name, sound, 1, i) for i in range(20)]
    assert mutants == [fuzz.mutant(name, sound, 1, i) for i in range(20)]
    assert len(set(mutants) - set(sound)) >= 10
    assert mutants != [fuzz.mutant(name, sound, 2, i) for i in range(20)]


def refuse(_: bytes) -> None:
    raise CheckpointError("x: must be another file")


def raise_untyped(_: bytes) -> None:
    raise KeyError("x")


def raise_root(_: bytes) -> None:
    raise TfmError("no exit code of its own")


def raise_lines(_: bytes) -> None:
    raise CheckpointError("two\nlines")


def take_memory(_: bytes) -> None:
    bytearray(100 * 2**20)


def take_more(_: bytes) -> None:
    bytearray(2**32)


def take_time(_: bytes) -> None:
    while True:
        pass


def die(_: bytes) -> None:
    os.abort()


@pytest.mark.parametrize(
    ("harm", "wrong"),
    [
        (refuse, None),
        (raise_untyped, "KeyError: 'x'"),
        (raise_root, "without an exit code"),
        (raise_lines, "several lines"),
        (take_memory, "1 bytes took"),
        (take_more, "MemoryError"),
        (take_time, "took longer than"),
        (die, "ended the process: SIGABRT"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_kind_of_failure_is_found(
    tmp_path, monkeypatch, harm: Callable[[bytes], None], wrong: str | None
):
    """The fourth of eight mutants does harm."""

    def mutate(_: bytes, rng: random.Random) -> bytes:
        return b"%d" % rng.randrange(4)

    def read(_: Path, data: bytes, passed: Callable[[], None]) -> None:
        passed()
        if data == b"3":
            harm(data)

    monkeypatch.setitem(READERS, "fake", Reader(lambda _: [b"0"], mutate, read))
    monkeypatch.setattr(fuzz, "BATCH", 8)
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    (tmp_path / "sound").mkdir()

    def harms(seed: int) -> list[bool]:
        return [fuzz.mutant("fake", [b"0"], seed, i) == b"3" for i in range(8)]

    seed = next(seed for seed in range(10_000) if harms(seed) == [False] * 3 + [True] + [False] * 4)
    tallies = fuzz.run(["fake"], seed, time.monotonic(), tmp_path)
    tally = tallies["fake"]
    assert tally.passed >= 3
    if wrong is None:
        assert tally.failures == []
        assert tally.outcomes["CheckpointError"] > 0
        return
    ((index, cause),) = tally.failures
    assert index == 3
    assert wrong in cause
    (line,) = fuzz.save(tallies, seed, tmp_path / "sound", tmp_path / "out")
    assert Path(line.split(": ")[0]).read_bytes() == b"3"
    assert "fake" in fuzz.table(tallies)
