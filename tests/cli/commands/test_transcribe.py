"""`tfm-cli transcribe`: formats, files, what Ctrl-C leaves, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import hearing_models
from helpers.hearing_models import sound
from matplotlib.figure import Figure
from tfm.cli.commands.transcribe import Look, picture
from tfm.refimpl.engine.sound import RATE
from tfm.runtime.tasks import transcribe
from tfm.runtime.text.subtitles import FORMATS, Segment, Word


@pytest.fixture(scope="session")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearing")
    hearing_models.write(folder, 1, multilingual=False)
    return folder


@pytest.fixture
def run(tfm: Any, hearing: Path, tmp_path: Path) -> Any:
    """Transcribes two sounds by the specification."""
    for number in (1, 2):
        soundfile.write(tmp_path / f"{number}.wav", sound(number, 90), RATE)
    shared = ("--model", hearing, "--engine", "numpy", "--no-fallback")
    return lambda *given: tfm("transcribe", *shared, *given)


def test_each_format_has_the_same_segments(run: Any, tmp_path: Path):
    file = tmp_path / "1.wav"
    told = run(file, "--format", "json").json
    segments = told["segments"]
    assert len(segments) > 1
    assert told["text"] == "".join(one["text"] for one in segments).strip()
    assert {"id", "start", "end", "text", "tokens", "avg_logprob"} < segments[0].keys()
    assert [line.strip() for line in run(file).out.splitlines()] == [one["text"].strip() for one in segments]
    rows = [line.split("\t") for line in run(file, "--format", "tsv").out.splitlines()]
    assert rows[0] == ["start", "end", "text"]
    assert [int(row[0]) for row in rows[1:]] == [round(1000 * one["start"]) for one in segments]
    first = segments[0]
    times = [f"00:00:{first[name]:06.3f}" for name in ("start", "end")]
    assert run(file, "--format", "vtt").out.startswith(f"WEBVTT\n\n{' --> '.join(times)}\n")
    assert run(file, "--format", "srt").out.startswith(f"1\n{' --> '.join(times).replace('.', ',')}\n")


def test_words_have_times_of_their_own(run: Any, tmp_path: Path):
    """The model's tokens have no spaces between them, so each segment is one word."""
    file = tmp_path / "1.wav"
    plain = run(file, "--format", "json").json["segments"]
    assert not any("words" in one for one in plain)
    segments = run(file, "--format", "json", "--words").json["segments"]
    words = [word for one in segments for word in one["words"]]
    assert words
    assert all(word.keys() == {"word", "start", "end"} for word in words)
    assert any(word["start"] != one["start"] for one in segments for word in one["words"])
    rows = [line.split("\t") for line in run(file, "--format", "tsv", "--words").out.splitlines()[1:]]
    wanted = [[round(1000 * word["start"]), round(1000 * word["end"])] for word in words]
    assert [[int(row[0]), int(row[1])] for row in rows] == wanted
    assert [row[2] for row in rows] == [word["word"].strip() for word in words]
    assert run(file, "--words").out == run(file).out


def test_the_picture_has_each_word_where_it_is_said(run: Any, tmp_path: Path):
    """A sound of 1.6 seconds, and one of two rows; and where the decoder looked for each word."""
    file, path = tmp_path / "1.wav", tmp_path / "picture.png"
    asked = (file, "--format", "json")
    assert run(*asked, "--plot", path).json == run(*asked).json
    assert path.read_bytes().startswith(b"\x89PNG")
    figure, words = Figure(), [Word(0.5, 0.8, " $a_1$"), Word(10.25, 11.0, " b.")]
    segment = Segment(0.5, 11.0, " $a_1$ b.", [], None, 0.0, 1.0, 0.0, words=tuple(words))
    weights = np.random.default_rng(1).random((2, 300)).astype(np.float32)
    frames = np.random.default_rng(0).normal(size=(1200, 80))
    picture(figure, frames, [segment], [Look(words, weights, 6.5)])  # 6.5 to 12.5 seconds
    first, below, second, last = figure.axes
    for axes, row, begin in ((below, weights[0, :175], 0), (last, weights[1, 175:], 10)):
        (image,) = axes.images
        assert image.get_extent() == [begin, begin + 10, 1, 0]
        lines = np.asarray(image.get_array())
        place = slice(325, 500) if begin == 0 else slice(0, 125)
        assert np.allclose(lines[0, place], row, atol=1e-6)
        assert np.count_nonzero(lines) == len(row)
    assert [text.get_text() for text in below.get_yticklabels()] == ["$a_1$"]
    for axes, word, begin in ((first, words[0], 0), (second, words[1], 10)):
        assert axes.get_xlim() == (begin, begin + 10)
        (text,), (line,) = axes.texts, axes.lines
        assert text.get_text() == word.text.strip()
        assert text.get_position()[0] == word.start == np.asarray(line.get_xdata())[0]
        assert axes.images[0].get_extent() == [0, 12, 0, 80]
    alone = Figure()
    picture(alone, frames, [segment], [])
    assert len(alone.axes) == 2
    run(file, tmp_path / "2.wav", "--plot", path).failed(2, "--plot")
    soundfile.write(tmp_path / "long.wav", np.zeros(601 * 8000), 8000)
    run(tmp_path / "long.wav", "--plot", path).failed(2, "--plot", "10 minutes")


def test_a_doubtful_text_is_drawn_again_unless_it_may_not(run: Any, tmp_path: Path):
    soundfile.write(tmp_path / "short.wav", sound(1, 30), RATE)
    first, again = (run(tmp_path / "short.wav", *more).out for more in ((), ("--fallback",)))
    assert first != again == run(tmp_path / "short.wav", "--fallback").out


def test_a_model_of_texts_is_refused_before_it_is_fetched(tfm: Any, run: Any, tmp_path: Path):
    tfm("transcribe", tmp_path / "1.wav", "--model", "minilm-l6").failed(
        4, "minilm-l6", "embed", "transcribe"
    )


def test_files_are_written_one_for_each_sound(run: Any, tmp_path: Path):
    sounds = (tmp_path / "1.wav", tmp_path / "2.wav")
    told = run(*sounds, "--output", tmp_path / "out", "--format", "srt")
    assert (told.code, told.out) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.srt", "2.srt"]
    for path in sounds:
        there = (tmp_path / "out" / f"{path.stem}.srt").read_text()
        assert there == run(path, "--format", "srt").out
        assert run(path, "--output", tmp_path / "one.srt", "--format", "srt").code == 0
        assert (tmp_path / "one.srt").read_text() == there
    (tmp_path / "more").mkdir()
    again = tmp_path / "more" / "1.flac"
    soundfile.write(again, sound(1, 50), RATE)
    run(*sounds, again, "--output", tmp_path / "out").failed(2, "--output", "1, 2, 1")


def test_ctrl_c_keeps_what_there_is_and_an_error_nothing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, place = tmp_path / "1.wav", tmp_path / "out.json"
    whole = run(file, "--format", "json").json["segments"]
    heard = transcribe._segments

    def stopped(error: BaseException) -> Any:
        def segments(*given: Any) -> Any:
            yield next(heard(*given))
            raise error

        return segments

    monkeypatch.setattr(transcribe, "_segments", stopped(KeyboardInterrupt()))
    assert run(file, "--format", "json", "--output", place).code == 130
    assert json.loads(place.read_text())["segments"] == whole[:1]
    place.unlink()
    monkeypatch.setattr(transcribe, "_segments", stopped(MemoryError()))
    assert run(file, "--format", "json", "--output", place).code != 0
    assert not list(tmp_path.glob("*out*"))


def test_what_comes_on_stdin_is_heard_as_it_comes(
    run: Any, tfm: Any, hearing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transcribe, "Voice", lambda _: lambda chunk: float(np.abs(chunk).max() > 1e-3))
    pause = np.zeros(RATE // 2)
    samples = np.concatenate([pause, sound(1, 90), pause, sound(2, 60), pause])
    pcm = np.round(samples * 32767).astype("<i2")
    soundfile.write(tmp_path / "live.wav", pcm, RATE)
    model = ("--model", hearing, "--engine", "numpy", "--no-fallback", "--format", "json")
    told = tfm("transcribe", "-", "--live", *model, stdin=pcm.tobytes()).json["segments"]
    assert told[0]["start"] < 0.5 < 1.5 < told[-1]["start"]
    assert told != run(tmp_path / "live.wav", "--format", "json").json["segments"]
    for given in (("-",), (tmp_path / "live.wav", "--live"), ("-", tmp_path / "live.wav", "--live")):
        tfm("transcribe", *given, "--model", hearing).failed(2, "--live", "stdin", "arecord")
    tfm("transcribe", "-", "--live", "--batch", 2, "--model", "none").failed(2, "--live", "--batch")


def test_errors_come_before_the_model(tfm: Any, hearing: Path, tmp_path: Path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF of nothing")
    tfm("transcribe", bad, "--model", "no-such-model").failed(9, "bad.wav", "flac")
    tfm("transcribe", tmp_path / "none.wav", "--model", hearing).failed(2, "none.wav")
    for command in ("generate", "translate", "summarize", "classify"):
        tfm(command, "hello", "--model", hearing).failed(4, "transcribe", command)


def test_subtitles_have_hours_and_one_line(tmp_path: Path):
    said = Segment(3661.0405, 7200, " a\n\tb --> c ", [1], None, -1.0, 1.0, 0.0)
    assert FORMATS["srt"].each(7, said) == "7\n01:01:01,040 --> 02:00:00,000\na b -> c\n\n"
    assert FORMATS["tsv"].each(1, said) == "3661040\t7200000\ta b -> c\n"
