"""Transcribe a sound with a decoder that writes no timestamps, such as Moonshine's.

Each span of a sound is transcribed by itself, and becomes a segment with the span's start and end. Its text
is decoded greedily or with beams, as by transformers' `generate` with the same `max_length`. A text has at
most 6.5 tokens for each second, so that a text that repeats itself ends. A span without a text is left
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ...refimpl.config import SampleStem
from ...refimpl.decoding.beam import BeamSearch, beam_search
from ...refimpl.decoding.loop import GeneratedSequence, generate
from ...refimpl.decoding.sampler import Sampler
from ...refimpl.decoding.speech import compression_ratio
from ...refimpl.engine.sound import HOP, RATE
from ..progress import Progress
from ..text.subtitles import Segment
from .base import TaskModel

# The most tokens a second; the first token of a decoder counts among them. Moonshine's authors use the same.
PACE = 6.5


def written_segments(
    model: TaskModel,
    spans: Iterable[tuple[int, np.ndarray]],
    search: Mapping[str, Any],
    progress: Progress,
    total: int,
) -> Iterator[Segment]:
    """Yield the segments of a sound of about `total` samples.

    `spans` are the parts of the sound, each with the index of its first sample. `search` are keyword
    arguments for `BeamSearch`.
    """
    stem = model.config.stem
    assert isinstance(stem, SampleStem)
    for first, samples in spans:
        progress("listening", first // HOP, total // HOP)
        if len(samples) < stem.least(1):
            continue
        tokens, logprob = _written(model, samples.astype(np.float32), search)
        if text := model.text.decode(tokens):
            begin, end = first / RATE, (first + len(samples)) / RATE
            ratio = compression_ratio(tokens, model.config.embedding.vocabulary)
            yield Segment(begin, end, f" {text}", tokens, None, logprob, ratio, 0.0, seek=first // HOP)
    progress("listening", total // HOP, total // HOP)


def _written(model: TaskModel, samples: Any, search: Mapping[str, Any]) -> tuple[list[int], float]:
    """Transcribe one span. Return the tokens of its text, and their mean log-probability."""
    generation = model.generation
    most = max(1, int(len(samples) * PACE / RATE) - 1)
    if generation.max_new_tokens is not None:
        most = min(most, generation.max_new_tokens)
    sampler = Sampler(**{**generation.defaults, "temperature": None})
    given = {
        "prompt": generation.prompt, "sampler": sampler, "stop_ids": frozenset(generation.eos),
        "max_new_tokens": most, "encoder_ids": samples,
    }  # fmt: skip
    if search["beams"] > 1:
        searching = BeamSearch(**given, **search)
        best = beam_search(model.engine, searching)[0]
        count = len(best.tokens) + (best.finish_reason == "stop")
        return best.tokens, best.score * count ** (searching.length_penalty - 1)
    sequence = GeneratedSequence(**given, logprobs=0)
    tokens = list(generate(model.engine, sequence))
    return tokens, float(np.mean([one.logprob for one in sequence.token_logprobs] or [0.0]))
