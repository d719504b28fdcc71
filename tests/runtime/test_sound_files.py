"""Sounds from files: the samples that were written, at another rate the same tone, and clear errors."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.refused import refused
from tfm.refimpl.engine.sound import RATE
from tfm.refimpl.errors import LimitError
from tfm.runtime import sound_files
from tfm.runtime.sound_files import sample_count, samples_of


def tone(seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)


def read(sound: Path | np.ndarray) -> np.ndarray:
    return np.concatenate([*samples_of(sound)()])


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_samples_are_those_of_the_file_as_often_as_they_are_asked(ending: str, tmp_path: Path):
    noise = np.random.default_rng(1).uniform(-1, 1, (5000, 2))
    soundfile.write(tmp_path / f"a.{ending}", noise, RATE, subtype="PCM_24")
    blocks = samples_of(tmp_path / f"a.{ending}")
    for _ in range(2):
        assert np.abs(np.concatenate([*blocks()]) - noise.mean(1)).max() < 2**-22


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8000, 44_100])
def test_another_rate_is_the_same_tone(
    ending: str, rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, tone(1.5, rate), rate)
    monkeypatch.setattr(sound_files, "BLOCK", 1000)
    found = read(path)
    assert abs(sample_count(path) - len(found)) <= 1
    assert abs(len(found) - 1.5 * RATE) < (
        3 if ending in ("wav", "flac") else 0.1 * RATE
    )  # a codec adds silence
    at = np.arange(2000, 20_000)
    waves = np.stack([np.sin(2 * np.pi * 440 * at / RATE), np.cos(2 * np.pi * 440 * at / RATE)], 1)
    parts, (rest,), *_ = np.linalg.lstsq(waves, found[at], rcond=None)
    assert abs(np.linalg.norm(parts) - 0.5) < 0.01
    assert np.sqrt(rest / len(at)) < 0.03  # MP3 at 8,000 Hz: 0.018


def test_an_array_is_its_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sound_files, "BLOCK", 7)
    noise = np.random.default_rng(2).uniform(-1, 1, 100).astype(np.float32)
    assert np.array_equal(read(noise), noise)
    assert sample_count(noise) == 100


@pytest.mark.parametrize(
    ("sound", "parts"),
    [
        (np.zeros(0), ("samples", "none")),
        (np.zeros((2, 5)), ("floats", [2, 5])),
        (np.zeros(5, np.int16), ("floats", "int16")),
        (np.array([0.0, 0.5, np.nan]), ("finite", 2, "nan")),
        (np.array([0.0, 2e9]), ("finite", 1)),
    ],
    ids=["empty", "two axes", "whole numbers", "not a number", "too loud"],
)
def test_arrays_that_are_no_sound_are_refused(sound: np.ndarray, parts: tuple[object, ...]):
    with refused(LimitError, *parts):
        samples_of(sound)


def test_files_that_are_no_sound_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.wav"
    with refused(LimitError, path.name, "No"):
        samples_of(path)
    path.write_bytes(b"no sound at all")
    with refused(LimitError, path.name, "flac"):
        samples_of(path)
    soundfile.write(path, np.zeros(0), RATE)
    with refused(LimitError, path.name, "samples", "none"):
        samples_of(path)
    soundfile.write(path, np.array([0, 0.5, np.nan, 0]), RATE, subtype="FLOAT")
    with refused(LimitError, path.name, "finite", 2, "nan"):
        read(path)
    monkeypatch.setattr(sound_files, "BLOCK", 2)
    soundfile.write(path, np.array([0, 0.5, 0, 0, np.inf, 0]), RATE, subtype="FLOAT")
    with refused(LimitError, path.name, "finite", 4, "inf"):
        read(path)
    soundfile.write(path, np.zeros(50), 500)
    with refused(LimitError, path.name, 1000, 500):
        samples_of(path)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_a_file_that_was_cut_is_refused(ending: str, share: float, tmp_path: Path):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.random.default_rng(3).uniform(-0.5, 0.5, 4 * RATE), RATE)
    whole = path.read_bytes()
    assert len(read(path)) >= 4 * RATE
    path.write_bytes(whole[: int(share * len(whole))])
    with refused(LimitError, path.name):
        read(path)


def test_samples_may_be_somewhat_louder_than_1():
    loud = np.array([1.0, -1.5, 3.0])
    assert np.concatenate([*samples_of(loud)()]).tolist() == loud.tolist()


def test_a_wav_whose_writer_didnt_know_its_length_is_read(tmp_path: Path):
    """From a pipe: the largest sizes, signed too, mean that."""
    file, path = io.BytesIO(), tmp_path / "piped.wav"
    soundfile.write(file, np.linspace(-0.5, 0.5, 1000), RATE, format="WAV", subtype="PCM_16")
    data = bytearray(file.getvalue())
    place = data.index(b"data") + 4
    for size, known in ((2**31 - 1, False), (2**32 - 1, False), (2**31 - 2**17, True)):
        data[place : place + 4] = size.to_bytes(4, "little")
        path.write_bytes(data)
        if known:
            with refused(LimitError, "piped.wav", size, 2000):
                list(samples_of(path)())
        else:
            assert sum(map(len, samples_of(path)())) == 1000
