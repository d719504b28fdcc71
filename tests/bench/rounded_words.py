"""Which words a Whisper writes otherwise because its weights are rounded: a bundle's texts beside float32's.

    python tests/bench/rounded_words.py BUNDLE CHECKPOINT TEXT FILE... --words 3000

BUNDLE was exported from CHECKPOINT, which is computed in float32 by torch. Sounds are the FILEs, and lines of
TEXT, a file of sentences, as espeak-ng speaks them in three voices with drawn noise, until they have so many
words. Both write greedily. Words are compared without case and punctuation: how many must change.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
import soxr
import tfm
import typer
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.engine.sound import RATE
from tfm.runtime.sound_files import samples_of
from tfm.runtime.tasks.model import Model
from tfm.runtime.verification.checks.words import changes, words_of

VOICES = (("en-us", 150), ("en-gb", 160), ("en-us+f3", 155))
NOISES = (0.0, 0.003, 0.01)


def sounds(text: Path, files: list[Path], count: int) -> Iterator[np.ndarray]:
    """The files, and as many lines of the text, spoken, as have so many words."""
    for file in files:
        yield np.concatenate([*samples_of(file)()])
    rng, voices, noises = np.random.default_rng(0), cycle(VOICES), cycle((*NOISES, NOISES[-1]))
    for line in text.read_text().splitlines():
        if count <= 0:
            break
        count -= len(words_of(line))
        voice, speed = next(voices)
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout"]
        done = subprocess.run(command, input=line.encode(), capture_output=True, check=True)
        spoken, rate = soundfile.read(io.BytesIO(done.stdout))
        spoken = soxr.resample(spoken * 0.6, rate, RATE)
        yield np.clip(spoken + rng.normal(size=len(spoken)) * next(noises), -1, 1)


def heard(model: Model, samples: np.ndarray, language: str | None) -> list[str]:
    """The words that a model writes."""
    said = model.transcribe(samples, temperatures=(0.0,), language=language)
    return words_of(" ".join(one.text for one in said))


def main(
    bundle: Path, checkpoint: Path, text: Path, files: list[Path], words: int = 3000, language: str = ""
) -> None:
    """Compare, and print a line for each sound with a difference."""
    source = open_checkpoint(checkpoint)
    whole, rounded = Model(TorchEngine(source.config, source.params), source), tfm.load(bundle)
    total = differ = 0
    for i, samples in enumerate(sounds(text, files, words)):
        wanted, got = (heard(model, samples, language or None) for model in (whole, rounded))
        changed = changes(got, wanted)
        total, differ = total + len(wanted), differ + changed
        if changed:
            typer.echo(f"{i}: {changed} of {len(wanted)}\n  {' '.join(wanted)}\n  {' '.join(got)}")
    typer.echo(f"{differ} of {total} words differ, {differ / total:.2%}")


if __name__ == "__main__":
    typer.run(main)
