"""Does tfm write what transformers writes? Whisper on thirty recordings: tokens, times, segment by segment.

    PYTHONPATH=tests python -m reports.whisper_texts CHECKPOINT FILE...

CHECKPOINT is a Whisper's directory, in transformers' or CTranslate2's form; FILEs are speech, at least four.
Of them the others are made: cut, slowed, quieter, with drawn noise, beside one another for several windows;
beside them noise, tones, silence, and sentences that espeak-ng speaks, if it is on PATH. Both libraries
compute in float32, greedily, whatever is doubtful. What transformers writes of the silence that follows a
sound isn't compared: tfm doesn't hear it.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
import transformers
import typer
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.checkpoint.ctranslate2 import as_transformers, is_ctranslate2
from tfm.refimpl.checkpoint.formats.model_directory import Directory
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.decoding.speech import Limits
from tfm.refimpl.engine.sound import HOP, RATE
from tfm.runtime.sound_files import samples_of
from tfm.runtime.tasks.model import Model

SPOKEN = {
    "en-us": "The quick brown fox jumps over the lazy dog, while seven wizards make toxic brew.",
    "en-gb-scotland": "In nineteen sixty nine, three men flew to the moon, and two of them walked on it.",
    "en-us+f4": "Please call me back before half past nine, at five five five, oh one two three.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund, und niemand hat es gesehen.",
    "fr-fr": "Le petit chat boit du lait dans la cuisine pendant que la pluie tombe.",
    "es": "Mañana por la mañana iremos al mercado para comprar naranjas y pan.",
    "it": "La città era tranquilla, e la luna brillava sopra i tetti delle case.",
    "ru": "Завтра утром мы поедем на вокзал и купим билеты в Москву.",
}


def recordings(speech: list[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Thirty sounds by name: what is given, what is made of it, and what is drawn."""
    rng = np.random.default_rng(0)
    for i, one in enumerate(speech[:5]):
        yield f"speech {i}", one
    first, second, third, fourth, *_ = speech
    yield "cut in a word", first[: int(len(first) * 0.61)]
    yield "cut at both ends", second[len(second) // 5 : -len(second) // 4]
    yield "half a second", third[RATE : RATE + RATE // 2]
    yield "0.05 seconds", fourth[RATE : RATE + RATE // 20]
    yield "quiet", first * 0.01
    yield "slow", soxr.resample(second, RATE, RATE * 1.25)
    for level in (0.01, 0.05):
        yield f"in noise of {level}", third + rng.normal(size=len(third)) * level
    yield "backwards", fourth[::-1].copy()
    pause = np.zeros(3 * RATE)
    yield (
        "35 seconds",
        np.concatenate([first, pause, second, pause, third, pause, fourth, pause, first])[: 35 * RATE],
    )
    yield (
        "70 seconds",
        np.concatenate([part for one in (*speech, *speech, *speech) for part in (one, pause)])[: 70 * RATE],
    )
    yield "after 31 seconds of silence", np.concatenate([np.zeros(31 * RATE), second])
    yield "before silence", np.concatenate([third, np.zeros(40 * RATE)])
    yield "silence", np.zeros(10 * RATE)
    yield "white noise", rng.normal(size=8 * RATE) * 0.1
    yield "brown noise", np.cumsum(rng.normal(size=8 * RATE)) * 1e-3
    yield "tones", np.sin(np.arange(6 * RATE) * 0.17) * 0.3 + np.sin(np.arange(6 * RATE) * 0.05) * 0.2
    if shutil.which("espeak-ng"):
        for voice, text in SPOKEN.items():
            yield f"espeak-ng {voice}", spoken(text, voice)


def spoken(text: str, voice: str, speed: int = 150) -> np.ndarray:
    """A text as espeak-ng speaks it."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    samples, rate = soundfile.read(io.BytesIO(done.stdout))
    return soxr.resample(samples * 0.6, rate, RATE)


def theirs(folder: Path) -> Any:
    """transformers' model of the directory."""
    directory = Directory(folder)
    stated = json.loads((folder / "config.json").read_text())
    if not is_ctranslate2(directory, stated):
        return transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    config, generation, tensors = as_transformers(directory, stated)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**config)).eval()
    state = {name: torch.from_numpy(tensors.load(name).astype(np.float32)) for name in tensors.names}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert set(missing) <= {"proj_out.weight"}, missing
    model.generation_config = transformers.GenerationConfig(
        **generation, is_multilingual="lang_to_id" in generation
    )
    return model


def expected(model: Any, extractor: Any, samples: np.ndarray) -> list[tuple[list[int], float, float]]:
    """Tokens, begin and end of the segments that transformers writes."""
    long = len(samples) > 30 * RATE
    more = {"truncation": False, "padding": "longest"} if long else {}
    heard = extractor(samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, **more)
    asked: dict[str, Any] = {"task": "transcribe"} if model.generation_config.is_multilingual else {}
    with torch.no_grad():
        found = model.generate(
            heard.input_features, attention_mask=heard.attention_mask, return_timestamps=True,
            return_segments=True, temperature=0.0, condition_on_prev_tokens=False, **asked,
        )  # fmt: skip
    parts = found["segments"][0]
    return [(one["tokens"].tolist(), float(one["start"]), float(one["end"])) for one in parts]


def differs(got: list[Any], wanted: list[tuple[list[int], float, float]], seconds: float) -> str | None:
    """The first difference, in words; None without one."""
    for i, (said, (tokens, begin, end)) in enumerate(zip(got, wanted, strict=False)):
        if said.tokens != tokens:
            return f"segment {i}: {said.tokens} instead of {tokens}"
        ends = min(end, seconds) - min(said.end, seconds)
        if abs(said.start - begin) > 0.005 or abs(ends) > 0.03:
            return f"segment {i}: {said.start:.2f} to {said.end:.2f} instead of {begin:.2f} to {end:.2f}"
    if len(got) > len(wanted):
        return f"{len(got)} segments instead of {len(wanted)}"
    later = [begin for _, begin, _ in wanted[len(got) :]]
    if any(begin < seconds - HOP / RATE for begin in later):
        return f"{len(got)} segments instead of {len(wanted)}, which begin at {later[0]:.2f} s"
    return None


def main(checkpoint: Path, files: list[Path]) -> None:
    """Compare, and print a line for each recording."""
    model, source = theirs(checkpoint), open_checkpoint(checkpoint)
    extractor = transformers.WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    ours = Model(TorchEngine(source.config, source.params), source)
    speech = [np.concatenate([*samples_of(file)()]) for file in files]
    count = same = 0
    for name, samples in recordings(speech):
        got = list(ours.transcribe(samples, limits=Limits(), temperatures=[0]))
        difference = differs(got, expected(model, extractor, samples), len(samples) / RATE)
        count, same = count + 1, same + (difference is None)
        text = "".join(one.text for one in got)
        print(f"{'same' if difference is None else 'DIFFERS'}  {name}: {difference or text}", flush=True)
    print(f"{same} of {count}")


if __name__ == "__main__":
    typer.run(main)
