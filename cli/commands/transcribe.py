"""The command `tfm-cli transcribe`, which transcribes audio and prints the time of each segment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from ...runtime.text.subtitles import FORMATS, FormatName, by_word
from .. import options as o
from ..console import escape, generated, out, progress, say
from ..plot import Plot, draw

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ...runtime.text.subtitles import Segment, Word

GROUP = "Write texts"
STDIN = Path("-")
ROW, ROWS = 10, 60  # seconds in a row of the picture, and the rows that it may have


class Look(NamedTuple):
    """The arguments of a call of `OnAttention`."""

    words: Sequence[Word]
    weights: np.ndarray
    begin: float


@o.grouped
def command(
    *,
    file: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="The audio files to transcribe, in the format wav, flac, ogg or mp3. With --live, the "
            "argument is - and tfm reads audio from stdin.",
            exists=True,
            dir_okay=False,
            allow_dash=True,
        ),
    ],
    model: o.Model = "whisper-tiny.en",
    language: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE",
            help="The language of the speech, such as german or de. Without this option, the model detects "
            "the language.",
        ),
    ] = None,
    task: Annotated[
        Literal["transcribe", "translate"] | None,
        typer.Option(
            help="The task of the model. transcribe writes the speech in its own language. "
            "translate writes the speech in English."
        ),
    ] = None,
    condition: Annotated[
        bool,
        typer.Option(
            "--condition",
            help="For each window of 30 seconds, let the model also read the text of the earlier windows.",
        ),
    ] = False,
    fallback: Annotated[
        bool,
        typer.Option(
            help="If a text is unlikely or repetitive, transcribe the same part again at a higher "
            "temperature."
        ),
    ] = True,
    beams: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Use beam search: extend N texts at the same time, and keep the likeliest text."
        ),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(
            "--best-of",
            metavar="N",
            help="At each temperature above 0, sample N texts and keep the likeliest text.",
        ),
    ] = 1,
    words: Annotated[
        bool,
        typer.Option(
            "--words",
            help="Write the time of each word. In subtitles and tables, each word gets its own entry. In "
            "JSON, each segment lists its words.",
        ),
    ] = False,
    vad: Annotated[
        bool,
        typer.Option(
            "--vad",
            help="Use voice activity detection: transcribe only the parts of the audio with speech. tfm "
            "leaves out pauses of 2 seconds or more.",
        ),
    ] = False,
    batch: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Transcribe N parts of a file at the same time. If N is above 1, tfm cuts the file at "
            "pauses, as with --vad, into parts of at most 29 seconds.",
        ),
    ] = 1,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Transcribe audio from stdin while it arrives. The audio must have one channel and 16,000 "
            "samples of 16 bits per second. After each short pause, tfm writes the text of the "
            "utterance before the pause.",
        ),
    ] = False,
    format: Annotated[
        FormatName,
        typer.Option(
            "--format", help="The format of the output. srt and vtt are subtitles, and tsv is a table."
        ),
    ] = "txt",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write the text to this file instead of stdout. For several audio files, PATH is a folder, "
            "and tfm writes one file for each audio file.",
        ),
    ] = None,
    plot: Plot = None,
    running: o.Running,
    no_escape: o.NoEscape = False,
) -> None:
    """Transcribe audio files of any length. tfm prints each segment of text as soon as it is complete.

    Ctrl-C ends the transcription, and tfm keeps the segments that are complete. With --output, tfm writes the
    file at the end or after Ctrl-C.

    Example: tfm-cli transcribe talk.mp3 --format srt --output talk.srt

    Example: arecord -f S16_LE -r 16000 -c 1 | tfm-cli transcribe - --live
    """
    from ...refimpl.checkpoint.formats.whole_file import write_whole
    from ...refimpl.decoding.speech import TEMPERATURES
    from ...runtime.live_sound import live_samples
    from ...runtime.sound_files import samples_of

    if live != (file == [STDIN]) or (live and sys.stdin.isatty()):
        raise typer.BadParameter(
            "--live must be given with the file name '-' and '-' with --live, to transcribe a sound that a "
            "program writes to stdin: arecord -f S16_LE -r 16000 -c 1 | tfm-cli transcribe - --live"
        )
    if live and batch > 1:
        raise typer.BadParameter("--live transcribes one utterance at a time: remove --batch")
    into = output is not None and (len(file) > 1 or output.is_dir())
    if output is not None and into:
        names = [path.stem for path in file]
        if len(set(names)) < len(names):
            raise typer.BadParameter(
                f"--output: audio files must have different names, got {', '.join(names)}"
            )
        output.mkdir(parents=True, exist_ok=True)
    pipe: Any = sys.stdin.buffer  # its type doesn't say that it has read1
    heard = live_samples(pipe) if live else None  # from now on, while the model is loaded
    if plot is not None and (live or len(file) > 1):
        raise typer.BadParameter("--plot needs exactly one audio file")
    for path in [] if live else file:
        samples_of(path)  # an error comes before the model is loaded
    frames = None if plot is None else _frames(file[0])
    loaded = running.load(model, "transcribe")
    looks: list[Look] = []
    # A model with a CTC head has no decoder that could look anywhere.
    looking = plot is not None and "decoder" in loaded.config.stacks
    for path in file:
        place = output / f"{path.stem}.{format}" if output is not None and into else output
        segments = loaded.transcribe(
            heard if heard is not None else path, language=language, task=task, condition=condition,
            temperatures=TEMPERATURES if fallback else TEMPERATURES[:1], words=words or plot is not None,
            vad=vad, batch=batch, beams=beams, best_of=best_of, progress=progress(),
            on_attention=(lambda *look: looks.append(Look(*look))) if looking else None,
        )  # fmt: skip
        said: list[Segment] = []
        segments = _noted(segments, said)
        if not words:  # the picture's alone
            segments = (replace(segment, words=()) for segment in segments)
        elif format not in ("txt", "json"):
            segments = (word for segment in segments for word in by_word(segment))
        if place is None:
            _write(segments, format, lambda text: out(generated(text, raw=no_escape), end=""))
        else:
            parts: list[str] = []
            try:
                _write(segments, format, parts.append)
            except KeyboardInterrupt:
                write_whole(place, "".join(parts).encode())
                say(f"{place} has the text up to where the transcription was stopped")
                raise
            write_whole(place, "".join(parts).encode())
        if plot is not None and frames is not None:
            height = 1 + (4.8 if looking else 2.2) * _rows(frames)
            draw(plot, 14, height, partial(picture, frames=frames, said=said, looks=looks))


def _frames(path: Path) -> np.ndarray:
    """Return the spectrogram [T, C] of an audio file, for the picture of the file."""
    import numpy as np

    from ...refimpl.engine.sound import HOP, RATE, features
    from ...runtime.sound_files import samples_of

    samples = np.concatenate([*samples_of(path)()])
    if len(samples) > ROW * ROWS * RATE:
        minutes = len(samples) / RATE / 60
        raise typer.BadParameter(
            f"--plot draws at most {ROW * ROWS // 60} minutes of sound, but {path} has {minutes:.0f} minutes"
        )
    return features(samples, bands=80)[: max(1, len(samples) // HOP)]


def _rows(frames: np.ndarray) -> int:
    from ...refimpl.engine.sound import HOP, RATE

    return -(-len(frames) * HOP // (ROW * RATE))


def picture(figure: Figure, frames: np.ndarray, said: list[Segment], looks: list[Look]) -> None:
    """Draw an audio file's spectrogram with ROW seconds in a row, and each word at the time when the word is
    said.

    With `looks`, each row also contains a map with one line for each word. The line is brighter where the
    decoder attended more to the sound.
    """
    from ...refimpl.engine.sound import HOP, RATE

    rows, seconds = _rows(frames), len(frames) * HOP / RATE
    words = [word for one in said for word in one.words]
    kinds = 2 if looks else 1
    grid = figure.subplots(rows * kinds, 1, squeeze=False)[:, 0].reshape(rows, kinds)
    for i, (axes, *map_axes) in enumerate(grid):
        begin = i * ROW
        for below in map_axes:
            _draw_looks(below, looks, begin)
        axes.imshow(
            frames.T, origin="lower", aspect="auto", extent=(0, seconds, 0, frames.shape[1]), cmap="magma",
            vmin=float(frames.min()), vmax=float(frames.max()),
        )  # fmt: skip
        axes.set(xlim=(begin, begin + ROW), ylabel="mel band", xlabel="seconds" if i == rows - 1 else "")
        for word in words:
            if begin <= word.start < begin + ROW:
                axes.axvline(word.start, color="white", linewidth=0.6)
                text = escape(word.text.strip())
                place = (word.start, frames.shape[1])
                axes.text(*place, text, rotation=45, fontsize=8, va="bottom", parse_math=False)


def _draw_looks(axes: Axes, looks: list[Look], begin: float) -> None:
    """Draw to which part of the sound the decoder attended while it wrote each word of a row."""
    import numpy as np

    from ...refimpl.decoding.speech import STEP
    from ...refimpl.engine.sound import HOP, RATE

    step = STEP * HOP / RATE
    names, lines = [], []
    for words, weights, first in looks:
        for word, row in zip(words, weights, strict=True):
            if begin <= word.start < begin + ROW:
                times = first + step * np.arange(len(row))
                names.append(escape(word.text.strip()))
                lines.append(np.interp(begin + step * np.arange(ROW / step), times, row, 0, 0))
    if lines:
        axes.imshow(np.stack(lines), aspect="auto", extent=(begin, begin + ROW, len(lines), 0), vmin=0)
    axes.yaxis.set_ticks(np.arange(len(names)) + 0.5, names, fontsize=7, parse_math=False)
    axes.set(xlim=(begin, begin + ROW), xlabel="seconds")


def _noted(segments: Iterator[Segment], said: list[Segment]) -> Iterator[Segment]:
    """Yield the same segments, and record each segment as soon as it is complete."""
    for one in segments:
        said.append(one)
        yield one


def _write(segments: Iterator[Segment], format: FormatName, write: Callable[[str], None]) -> None:
    """Write each segment as soon as it is complete. Ctrl-C ends the output as if nothing more were said."""
    form, known = FORMATS[format], []
    write(form.begin)
    try:
        for segment in segments:
            known.append(segment)
            write(form.each(len(known), segment))
    finally:
        write(form.end(known))
