"""What is said in a sound, and when: Whisper's sequential algorithm (Radford et al. 2022, §3.8 and §4.5).

The model hears a window of 30 seconds and writes segments between timestamps, greedily or with beams; a text
that repeats itself or is unlikely is drawn again at higher temperatures. The next window begins where the
last whole segment ended, so no word is cut. Texts and times are those of transformers' `generate`, except
that nothing is written of the silence that follows a recording shorter than a window; what is drawn is drawn
by other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...refimpl.decoding.beam import BeamSearch, Rules
from ...refimpl.decoding.logprobs import logprob
from ...refimpl.decoding.options import TextOptions, require
from ...refimpl.decoding.penalties import check_any_allowed
from ...refimpl.decoding.sampler import Sampler
from ...refimpl.decoding.sampling import process_logits, sample
from ...refimpl.decoding.speech import (
    CALM,
    PAPER,
    STEP,
    TEMPERATURES,
    Limits,
    SpeechTokens,
    compression_ratio,
    doubts,
    no_speech_probability,
    pieces,
    spoken_language,
    timestamp_rules,
)
from ...refimpl.decoding.word_times import token_begins
from ...refimpl.engine.protocol import AttentiveEngine, Cache
from ...refimpl.engine.sound import HOP, RATE, Spectrogram
from ...refimpl.errors import CheckpointError, LimitError
from ..ort.voice import Voice
from ..progress import Progress, silent
from ..sound_files import Blocks, checked, samples_of
from ..text.spoken_words import WITHOUT_SPACES, spoken_words
from ..text.subtitles import Segment, Word
from .base import TaskModel, expect_hearing
from .utterances import LONG_PAUSE, LONGEST_OF_FILE, utterances

TASK = "transcribe"


class _Heard(NamedTuple):
    """What a window was heard to say, at a temperature; `ended` says that the text has its last token."""

    tokens: list[int]
    ended: bool
    logprob: float
    compression: float
    no_speech: float
    temperature: float

    def doubts(self, limits: Limits) -> frozenset[str]:
        return doubts(self.compression, self.logprob, self.no_speech, limits)


def transcribe(
    model: TaskModel,
    sound: Path | str | np.ndarray | Iterator[np.ndarray],
    *,
    language: str | None = None,
    task: str | None = None,
    condition: bool = False,
    limits: Limits = PAPER,
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    words: bool = False,
    vad: bool = False,
    beams: int | None = None,
    progress: Progress = silent,
) -> Iterator[Segment]:
    """The segments of a sound, each as soon as it is known: a file, or samples [N], 16,000 a second.

    With `vad` only what lies between long pauses is heard, each utterance as a sound of its own. An iterator
    gives samples [N] as they come: they are cut at short pauses, see `utterances`.
    `language` is a name or code; without it the model's files say, or the first window tells. `task` is
    transcribe, or translate to English. With `condition` the model reads what it wrote before: texts of one
    style, but an error may go on. A window beyond `limits` is written again at the next of `temperatures`,
    drawn from `seed`; its doubts are those of the last time. One of silence is left out. At temperature 0
    `beams` texts are written side by side, by default as many as the model's files ask for. With `words`
    segments have the times of their words, for which the decoder reads each window's text once more. Raises
    ConfigError for a model that doesn't hear, CheckpointError where its files don't say how it writes,
    LimitError for a sound or an option that it can't take.
    """
    expect_hearing(model.config)
    speech = model.generation.speech
    if speech is None:
        raise CheckpointError(
            "the model doesn't say how it writes times: its generation_config.json must name "
            "no_timestamps_token_id"
        )
    if len(model.generation.eos) != 1:
        raise CheckpointError(f"the model must name one eos_token_id, got {list(model.generation.eos)}")
    search = {"beams": 1, **model.generation.search, **({} if beams is None else {"beams": beams})}
    require(TextOptions, search)
    if not temperatures or not all(0 <= one < np.inf for one in temperatures):
        raise LimitError(f"temperatures must be at least one number from 0 up, got {[*temperatures]}")
    code = _language(speech, language or speech.language)
    task_id = _task(speech, task or speech.task)
    hear = partial(_until_sure, model, speech, limits, temperatures, np.random.default_rng(seed), search)
    begins = partial(_token_begins, model, speech) if words else None

    def segments(blocks: Blocks, progress: Progress) -> Iterator[Segment]:
        return _segments(model, blocks, speech, code, task_id, condition, limits, hear, begins, progress)

    if isinstance(sound, Iterator):
        found = utterances(checked(sound), Voice(progress))
    elif vad:
        found = utterances(samples_of(sound)(), Voice(progress), pause=LONG_PAUSE, longest=LONGEST_OF_FILE)
    else:
        return segments(samples_of(sound), progress)
    return (_later(one, at) for at, samples in found for one in segments(samples_of(samples), silent))


def _later(said: Segment, first: int) -> Segment:
    """A segment of an utterance that begins with the sample `first` of a sound."""
    seconds = first / RATE
    words = tuple(Word(one.start + seconds, one.end + seconds, one.text) for one in said.words)
    start, end, seek = said.start + seconds, said.end + seconds, said.seek + first // HOP
    return replace(said, start=start, end=end, seek=seek, words=words)


def _language(speech: SpeechTokens, name: str | None) -> str | None:
    """The code of a language that is named; LimitError if the model hasn't it."""
    if name is None:
        return None
    from ...refimpl.checkpoint.tokenizers.auto_tokenizer.classes import whisper_language

    code = name if name in speech.languages else whisper_language(name)
    if code not in speech.languages:
        known = ", ".join(speech.languages) or "no other language than its own"
        raise LimitError(f"the model hears {known}: language can't be {name!r:.40}")
    return code


def _task(speech: SpeechTokens, name: str | None) -> int | None:
    if not speech.tasks and name in (None, TASK):
        return None
    if (name or TASK) not in speech.tasks:
        raise LimitError(f"task must be one of {', '.join(speech.tasks) or TASK}, got {name!r:.40}")
    return speech.tasks[name or TASK]


def _segments(
    model: TaskModel,
    blocks: Blocks,
    speech: SpeechTokens,
    language: str | None,
    task: int | None,
    condition: bool,
    limits: Limits,
    hear: Callable[[Cache, list[int], int], tuple[_Heard, Cache]],
    begins: Callable[[Cache, list[int], _Heard, int], list[float]] | None,
    progress: Progress,
) -> Iterator[Segment]:
    assert model.config.frames is not None
    size, bands = model.config.frames
    sound = Spectrogram(blocks, bands=bands, size=size)
    first, seek, before, calm = speech.first_timestamp, 0, [], True
    while seek < sound.real:
        progress("listening", seek, sound.real)
        cache = model.engine.start(1, sound.window(seek)[None])
        if language is None and speech.languages:
            language, cache = _detect(model, speech, cache)
        start = _start(model, speech, language, task)
        prompt = [*_earlier(model, speech, before), *start] if condition and before and calm else start
        heard, cache = hear(cache, prompt, len(prompt) - len(start))
        found, calm = heard.doubts(limits), heard.temperature < CALM
        frames = min(size, sound.total - seek)
        if found == {"silence"}:
            seek += frames
            continue
        parts, done = pieces(heard.tokens, first=first, frames=frames)
        times = None if begins is None else begins(cache, prompt, heard, sound.real - seek)
        place = 0
        for part in parts:
            begin, end = ((seek + STEP * of) * HOP / RATE for of in (part.begin, part.end))
            text = model.text.decode([token for token in part.tokens if token < first])
            figures = (heard.logprob, heard.compression, heard.no_speech)
            doubtful, how = tuple(sorted(found)), {"seek": seek, "temperature": heard.temperature}
            said = Segment(begin, end, text, part.tokens, language, *figures, doubtful, **how)
            if times is not None:
                later = [seek * HOP / RATE + time for time in times[place:]]
                said = replace(said, words=_words(model, part.tokens, later, language))
            place += len(part.tokens)
            yield said
        closed = [_closed(part.tokens, first) for part in parts] if condition else []
        before = [*before, *(token for part in closed for token in part)][-model.config.context :]
        seek += done
    progress("listening", sound.real, sound.real)


def _detect(model: TaskModel, speech: SpeechTokens, cache: Cache) -> tuple[str, Cache]:
    """The code of the language that a window is in, and the cache, empty again."""
    logits, cache = model.engine.step(np.array([model.generation.prompt]), cache)
    likeliest = spoken_language(logits[0, 0], speech.languages.values())
    code = next(code for code, id in speech.languages.items() if id == likeliest)
    return code, cache.truncate(np.zeros(1, np.int64))


def _start(model: TaskModel, speech: SpeechTokens, language: str | None, task: int | None) -> list[int]:
    """What each window's text begins with."""
    told = [] if language is None else [speech.languages[language]]
    return [*model.generation.prompt, *told, *([] if task is None else [task])]


def _earlier(model: TaskModel, speech: SpeechTokens, before: Sequence[int]) -> list[int]:
    """The end of what was written before, for half of the context at most."""
    if speech.previous is None:
        raise CheckpointError("the model can't read what it wrote: it names no prev_sot_token_id")
    return [speech.previous, *before[-(model.config.context // 2 - 1) :]]


def _closed(tokens: list[int], first: int) -> list[int]:
    """A segment's tokens without the timestamp from which the next window goes on."""
    return tokens[:-1] if len(tokens) > 2 and tokens[-2] >= first else tokens


def _until_sure(
    model: TaskModel,
    speech: SpeechTokens,
    limits: Limits,
    temperatures: Sequence[float],
    rng: np.random.Generator,
    search: Mapping[str, Any],
    cache: Cache,
    prompt: list[int],
    begin: int,
) -> tuple[_Heard, Cache]:
    """The first text of a window that has no doubts, or the last one; and the cache, empty again."""
    *others, last = temperatures
    for temperature in others:
        heard, cache = _hear(model, speech, cache, prompt, begin, temperature, rng, search)
        if heard.doubts(limits) <= {"silence"}:
            return heard, cache
    return _hear(model, speech, cache, prompt, begin, last, rng, search)


def _token_begins(
    model: TaskModel, speech: SpeechTokens, cache: Cache, prompt: list[int], heard: _Heard, frames: int
) -> list[float]:
    """When each token of a window was said, in seconds from its begin, and what comes after the last one; of
    the window only `frames` are sound. As in transformers the last token that was written isn't read."""
    engine = model.engine
    if not isinstance(engine, AttentiveEngine):
        raise LimitError("this engine can't say where a model looks: leave out words")
    # Without a list of heads: all of the upper half's, as openai has it.
    crosses = [(i, layer.cross) for i, layer in enumerate(model.config.layers) if layer.cross is not None]
    upper = crosses[len(crosses) // 2 :]
    heads = speech.alignment_heads or [(i, head) for i, cross in upper for head in range(cross.heads)]
    read = heard.tokens if heard.ended else heard.tokens[:-1]
    if not read:
        return [0.0, 0.0]
    attention = engine.cross_attention(np.array([[*prompt, *read]]), cache, heads)
    begins = token_begins(attention[:, len(prompt) :, : max(1, frames // STEP)]) * (STEP * HOP / RATE)
    return [*begins.tolist(), *[begins[-1]] * (len(heard.tokens) + 1 - len(begins))]


def _words(model: TaskModel, tokens: list[int], times: list[float], language: str | None) -> tuple[Word, ...]:
    """The words of a segment, by when each of its tokens was said and what comes after them."""
    (end,) = model.generation.eos  # all tokens that aren't of texts come after it
    places = [i for i, token in enumerate(tokens) if token < end]
    texts = [tokens[i] for i in places]
    found = spoken_words(texts, model.text.decode, spaces=language not in WITHOUT_SPACES)
    return tuple(Word(times[places[of[0]]], times[places[of[-1]] + 1], text) for text, of in found)


def _hear(
    model: TaskModel,
    speech: SpeechTokens,
    cache: Cache,
    prompt: list[int],
    begin: int,
    temperature: float,
    rng: np.random.Generator,
    search: Mapping[str, Any],
) -> tuple[_Heard, Cache]:
    """What the model writes of the window that the cache holds, and the cache, empty again; the start is at
    `begin`."""
    generation = model.generation
    room = model.config.context - len(prompt)
    if generation.max_new_tokens is not None:
        room = min(room, generation.max_new_tokens + 1)  # it counted the first token of a decoder
    at = np.array([[begin, len(prompt) - 1]])
    logits, cache = model.engine.step(np.array([prompt]), cache, at=at)
    no_speech = no_speech_probability(logits[0, 0], speech.no_speech)
    (end,) = generation.eos
    rules = partial(timestamp_rules, first=speech.first_timestamp, end=end, latest=speech.latest_first)
    if temperature == 0 and search["beams"] > 1:
        written, logprob, cache = _searched(model, cache, prompt, logits[0, 1], room, rules, search)
    else:
        written, logprob, cache = _drawn(model, cache, prompt, logits[0, 1], room, rules, temperature, rng)
    compression = compression_ratio(written, model.config.embedding.vocabulary)
    text = written[:-1] if written[-1] == end else written
    heard = _Heard(text, len(text) < len(written), logprob, compression, no_speech, temperature)
    return heard, cache.truncate(np.zeros(1, np.int64))


def _penalties(model: TaskModel) -> Sampler:
    """What the model's files do to logits; at which temperature a window is written is asked for."""
    return Sampler(**{**model.generation.defaults, "temperature": None})


def _drawn(
    model: TaskModel,
    cache: Cache,
    prompt: list[int],
    row: np.ndarray,
    room: int,
    rules: Rules,
    temperature: float,
    rng: np.random.Generator,
) -> tuple[list[int], float, Cache]:
    """At most `room` tokens after a first row of logits, and their mean log-probability."""
    (end,) = model.generation.eos
    sampler = _penalties(model)
    drawing, written, total = Sampler(temperature=temperature or None), [], 0.0
    while True:
        adjusted = process_logits(row, sampler, np.array([*prompt, *written]), len(written), {end})
        ruled = rules(adjusted, written)
        check_any_allowed(ruled.max())
        written.append(sample(ruled, drawing, rng.random()))
        total += logprob(ruled, written[-1])
        if written[-1] == end or len(written) >= room:
            return written, total / len(written), cache
        logits, cache = model.engine.step(np.array([written[-1:]]), cache)
        row = logits[0, 0]


def _searched(
    model: TaskModel,
    cache: Cache,
    prompt: list[int],
    row: np.ndarray,
    room: int,
    rules: Rules,
    options: Mapping[str, Any],
) -> tuple[list[int], float, Cache]:
    """The likeliest text of several that are written side by side, and its mean log-probability.

    The search adds what rules leave of probabilities; the mean is of those that are normalized again, as for
    the other ways to write.
    """
    left: dict[tuple[int, ...], float] = {}  # by the tokens before, the logarithm of what rules leave of 1

    def noted(row: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
        ruled = rules(row, tokens)
        best = int(ruled.argmax())
        if ruled[best] > -np.inf:
            left[tuple(tokens)] = float(ruled[best]) - logprob(ruled, best)
        return ruled

    ends = frozenset(model.generation.eos)
    sampler = _penalties(model)
    search = BeamSearch(prompt, sampler=sampler, stop_ids=ends, max_new_tokens=room, rules=noted, **options)
    step = search.advance(row[None])
    while step is not None:
        rows, tokens = step
        logits, cache = model.engine.step(tokens[:, None], cache.select(rows))
        step = search.advance(logits[:, 0])
    best = search.hypotheses[0]
    written = [*best.tokens, *ends] if best.finish_reason == "stop" else best.tokens
    total = best.score * len(written) ** search.length_penalty
    if not search.renormalize:
        total -= sum(left[tuple(written[:i])] for i in range(len(written)))
    return written, total / len(written), cache.select(np.zeros(1, np.int64))
