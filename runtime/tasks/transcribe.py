"""Transcribe a sound with times, by Whisper's sequential algorithm (Radford et al. 2022, §3.8 and §4.5).

The model reads a window of 30 seconds and generates segments between timestamps, greedily or with beams. If a
text repeats itself or is unlikely, the window is decoded again by sampling at higher temperatures. The next
window begins where the last whole segment ended, so no word is cut.

Texts and times match transformers' `generate`, with two exceptions: no text is generated for the silence
after a recording shorter than a window, and sampling uses other random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...refimpl.config import CTC, ConvStem, SampleStem
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
from ..sound_files import Blocks, checked, sample_count, samples_of
from ..text.spoken_words import WITHOUT_SPACES, spoken_words
from ..text.subtitles import Segment, Word
from .base import TaskModel, expect_hearing
from .hear_by_ctc import heard_segments
from .hear_in_spans import written_segments
from .utterances import LONG_PAUSE, LONGEST, LONGEST_OF_FILE, Utterance, loud_spans, utterances

TASK = "transcribe"
DRAWS = range(1, 65)  # texts of a window that may be drawn to choose one

# Called with the words of a segment, where the decoder looked while it wrote each of them [W, S], and the
# second at which the first of these S steps of 0.02 seconds begins.
OnAttention = Callable[[Sequence[Word], np.ndarray, float], None]


class _Heard(NamedTuple):
    """The text that a model wrote for a window, at a temperature.

    `ended` says that the model wrote the end token. If the times of words were asked for, `begins` has the
    time at which each token begins, and then the time at which the last token ends, in seconds. `attention`
    [T, S] then has the attention weights from which these times were found, averaged over heads."""

    tokens: list[int]
    ended: bool
    logprob: float
    compression: float
    no_speech: float
    temperature: float
    begins: Sequence[float] = ()
    attention: np.ndarray | None = None

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
    batch: int = 1,
    beams: int | None = None,
    best_of: int = 1,
    on_attention: OnAttention | None = None,
    progress: Progress = silent,
) -> Iterator[Segment]:
    """Yield the segments of a sound, each as soon as it is known.

    `sound` is a file, samples [N] at 16,000 samples a second, or an iterator that gives samples [N] as they
    come. The samples of an iterator are cut at short pauses, see `utterances`. A model with a CTC head
    (`hear_by_ctc`) takes only the options `words` and `vad`. A model that writes no times (`hear_in_spans`)
    takes only `vad` and `beams`. Such a model transcribes a file in spans of at most 29 seconds, cut where
    the sound is quietest.

    - `language`: a name or a code. By default it comes from the model's files, or is detected in the first
      window.
    - `task`: transcribe, or translate to English.
    - `condition`: the model also reads the text of the earlier windows. This keeps the style consistent, but
      an error may spread to later windows.
    - `limits`, `temperatures`, `seed`: a window with a text beyond `limits` is transcribed again at the next
      of `temperatures`, with random numbers from `seed`. The `doubts` of a segment name the limits that the
      last attempt exceeded. A window of silence is left out.
    - `words`: segments have the times of their words. To find the times, the decoder reads each window's text
      once more.
    - `vad`: transcribe only the speech between long pauses, each utterance as a sound of its own.
    - `batch`: above 1, transcribe this many utterances at once. This implies `vad`, with utterances that fit
      into a window. Iterators and `condition` don't allow a batch above 1.
    - `beams`: the number of beams at temperature 0; by default, the number that the model's files ask for.
    - `best_of`: above temperature 0, sample this many texts and keep the one with the largest mean
      log-probability.
    - `on_attention`: with `words`, called for each segment that has words, with the weights of the decoder's
      attention to the sound. The weights have a row for each word: the mean over the word's tokens, and over
      the heads that find the words' times. With an iterator, this includes texts that are thrown away because
      the utterance continues.

    Raises ConfigError for a model that can't transcribe, CheckpointError if the model's files don't state how
    the model writes times, and LimitError for a sound or an option that the model can't take.
    """
    expect_hearing(model.config)
    search = {"beams": 1, **model.generation.search, **({} if beams is None else {"beams": beams})}
    require(TextOptions, search)
    if isinstance(model.config.stem, SampleStem):
        spells = isinstance(model.config.head, CTC)
        given = {
            "language": (language, None), "task": (task or TASK, TASK), "condition": (condition, False),
            "limits": (limits, PAPER), "temperatures": (tuple(temperatures), TEMPERATURES),
            "seed": (seed, 0), "batch": (batch, 1), "best_of": (best_of, 1),
            "on_attention": (on_attention, None),
            **({"beams": (beams or 1, 1)} if spells else {"words": (words, False)}),
        }  # fmt: skip
        if odd := [name for name, (value, only) in given.items() if value != only]:
            needed = "generates text, not one with a CTC head" if spells else "writes times, as Whisper does"
            raise LimitError(f"`{odd[0]}` needs a model that {needed}: don't set `{odd[0]}`")

        def hear(first: int, samples: np.ndarray) -> Iterator[Segment]:
            if spells:
                return heard_segments(
                    model, samples_of(samples), len(samples), silent, words=words, first=first
                )
            return written_segments(model, [(first, samples)], search, silent, len(samples))

        if isinstance(sound, Iterator):
            return _as_it_comes(sound, hear, progress)
        if not spells:
            spans = _utterances(sound, progress, vad=vad, longest=LONGEST) or loud_spans(samples_of(sound)())
            return written_segments(model, spans, search, progress, sample_count(sound))
        said = _utterances(sound, progress, vad=vad)
        if said is None:
            return heard_segments(model, samples_of(sound), sample_count(sound), progress, words=words)
        return (one for first, samples in said for one in hear(first, samples))
    speech = model.generation.speech
    if speech is None:
        raise CheckpointError(
            "tfm can't find the model's timestamp tokens: generation_config.json must have the key "
            "no_timestamps_token_id"
        )
    if len(model.generation.eos) != 1:
        raise CheckpointError(
            f"the model must have exactly one eos_token_id, got {list(model.generation.eos)}"
        )
    if batch < 1:
        raise LimitError(f"`batch` must be at least 1, got {batch}")
    if batch > 1 and isinstance(sound, Iterator):
        raise LimitError(
            f"`batch` must be 1 for live sound, which is transcribed one utterance at a time, got {batch}"
        )
    if batch > 1 and condition:
        raise LimitError(
            "`batch` can't be used with `condition`, because each window then needs the previous "
            "window's text"
        )
    if not temperatures or not all(0 <= one < np.inf for one in temperatures):
        raise LimitError(f"temperatures must be at least one number of at least 0, got {[*temperatures]}")
    if best_of not in DRAWS:
        raise LimitError(f"best_of must be {DRAWS.start} to {DRAWS.stop - 1}, got {best_of}")
    code = _language(speech, language or speech.language)
    task_id = _task(speech, task or speech.task)
    ask = _Asked(
        model, speech, code, task_id, condition, limits, temperatures, seed, search, best_of, words,
        on_attention,
    )  # fmt: skip
    if isinstance(sound, Iterator):
        alone = partial(_Sound, ask)
        return _as_it_comes(
            sound, lambda first, samples: _segments([alone(samples_of(samples), first)], silent), progress
        )
    found = _utterances(sound, progress, vad=vad, batch=batch)
    if found is None:
        return _segments([_Sound(ask, samples_of(sound))], progress)
    sounds = (_Sound(ask, samples_of(samples), first) for first, samples in found)
    at_once = iter(lambda: list(islice(sounds, batch)), [])
    return (one for some in at_once for one in _segments(some, silent))


def _as_it_comes(
    sound: Iterator[np.ndarray], hear: Callable[[int, np.ndarray], Iterator[Segment]], progress: Progress
) -> Iterator[Segment]:
    """Yield the segments of a live sound, one utterance after the other. `hear` transcribes an utterance.

    Transcription starts as soon as an utterance may have ended, before the pause is long enough to be
    sure.
    """
    heard: Utterance | None = None
    said: list[Segment] = []

    def hear_early(one: Utterance) -> None:
        nonlocal heard, said
        heard, said = one, list(hear(*one))

    for one in utterances(checked(sound), Voice(progress), on_pause=hear_early):
        yield from said if one is heard else hear(*one)


def _utterances(
    sound: Path | str | np.ndarray,
    progress: Progress,
    *,
    vad: bool,
    batch: int = 1,
    longest: float = LONGEST_OF_FILE,
) -> Iterator[Utterance] | None:
    """Return the utterances of a sound, or None for a sound that is transcribed as a whole."""
    if not (vad or batch > 1):
        return None
    longest = LONGEST if batch > 1 else longest
    return utterances(samples_of(sound)(), Voice(progress), pause=LONG_PAUSE, longest=longest)


def _language(speech: SpeechTokens, name: str | None) -> str | None:
    """Return the code of the language that `name` names, or None if `name` is None.

    For an English-only model the result is None, because its prompts don't name a language. Raises LimitError
    if the model doesn't transcribe the language.
    """
    if name is None:
        return None
    from ...refimpl.checkpoint.tokenizers.auto_tokenizer.classes import whisper_language

    code = name if name in speech.languages else whisper_language(name)
    if code == "en" and not speech.languages:
        return None
    if code not in speech.languages:
        known = ", ".join(speech.languages) or "only English"
        raise LimitError(f"language must be one that the model transcribes ({known}), got {name!r:.40}")
    return code


def _task(speech: SpeechTokens, name: str | None) -> int | None:
    if not speech.tasks and name in (None, TASK):
        return None
    if (name or TASK) not in speech.tasks:
        raise LimitError(f"task must be one of {', '.join(speech.tasks) or TASK}, got {name!r:.40}")
    return speech.tasks[name or TASK]


@dataclass(frozen=True)
class _Asked:
    """A request to transcribe: the model, the language's code, the id of the task, and the options."""

    model: TaskModel
    speech: SpeechTokens
    language: str | None
    task: int | None
    condition: bool
    limits: Limits
    temperatures: Sequence[float]
    seed: int
    search: Mapping[str, Any]
    best_of: int
    words: bool
    on_attention: OnAttention | None


class _Sound:
    """A sound that is transcribed window by window. The next window begins at frame `seek`.

    `said` contains segments that are finished but weren't yielded yet. If the sound is a part of a longer
    sound, `first` is the index of its first sample there."""

    def __init__(self, ask: _Asked, blocks: Blocks, first: int = 0) -> None:
        stem = ask.model.config.stem
        assert isinstance(stem, ConvStem)
        size, bands = stem.least(ask.model.config.text_context), stem.bands
        self.ask, self.first = ask, first
        self.frames = Spectrogram(blocks, bands=bands, size=size)
        self.language, self.seek, self.calm = ask.language, 0, True
        self.before: list[int] = []
        self.said: list[Segment] = []
        self.rng = np.random.default_rng(ask.seed)

    def start(self) -> list[int]:
        """Return the tokens with which each window's text begins."""
        ask = self.ask
        told = [] if self.language is None else [ask.speech.languages[self.language]]
        return [*ask.model.generation.prompt, *told, *([] if ask.task is None else [ask.task])]

    def earlier(self) -> list[int]:
        """Return the tokens before the start tokens: the end of the text written so far, at most half of the
        context long.

        Returns no tokens unless the user asked for `condition` and the last window was transcribed at a low
        temperature.
        """
        ask = self.ask
        if not (ask.condition and self.before and self.calm):
            return []
        if ask.speech.previous is None:
            raise CheckpointError(
                "`condition` needs the key prev_sot_token_id in generation_config.json, but the key is "
                "missing"
            )
        return [ask.speech.previous, *self.before[-(ask.model.config.context // 2 - 1) :]]

    def take(self, heard: _Heard) -> None:
        """Add the segments of the window's text to `said`, and move `seek` to the next window.

        A window of silence adds no segments.
        """
        model, first, seek = self.ask.model, self.ask.speech.first_timestamp, self.seek
        found, self.calm = heard.doubts(self.ask.limits), heard.temperature < CALM
        frames = min(self.frames.size, self.frames.total - seek)
        if found == {"silence"}:
            self.seek += frames
            return
        parts, done = pieces(heard.tokens, first=first, frames=frames)
        before, place = self.first / RATE, 0
        for part in parts:
            begin, end = (before + (seek + STEP * of) * HOP / RATE for of in (part.begin, part.end))
            text = model.text.decode([token for token in part.tokens if token < first])
            figures = (heard.logprob, heard.compression, heard.no_speech)
            how = {"seek": self.first // HOP + seek, "temperature": heard.temperature}
            said = Segment(
                begin, end, text, part.tokens, self.language, *figures, tuple(sorted(found)), **how
            )
            if heard.begins:
                times = [before + seek * HOP / RATE + time for time in heard.begins[place:]]
                words = _words(model, part.tokens, times, self.language)
                said = replace(said, words=tuple(word for word, _ in words))
                if self.ask.on_attention is not None and heard.attention is not None and words:
                    rows = heard.attention[place:]  # without the last token of a text that was cut off
                    weights = np.stack([rows.take(of, 0, mode="clip").mean(0) for _, of in words])
                    self.ask.on_attention(said.words, weights, before + seek * HOP / RATE)
            place += len(part.tokens)
            self.said.append(said)
        if self.ask.condition:
            written = [*self.before, *(token for part in parts for token in _closed(part.tokens, first))]
            self.before = written[-model.config.context :]
        self.seek += done


def _segments(sounds: Sequence[_Sound], progress: Progress) -> Iterator[Segment]:
    """Transcribe several sounds, one window of each at once, and yield the segments sound by sound."""
    while going := [one for one in sounds if one.seek < one.frames.real]:
        progress("listening", going[0].seek, going[0].frames.real)
        _hear_next(going)
        for one in sounds:
            yield from one.said
            one.said = []
            if one.seek < one.frames.real:
                break
    progress("listening", sounds[0].frames.real, sounds[0].frames.real)


def _hear_next(sounds: Sequence[_Sound]) -> None:
    """Transcribe the next window of each sound.

    The temperatures are tried in order until the text of a window leaves no doubts. The last temperature's
    text is always taken.
    """
    ask = sounds[0].ask
    windows = np.stack([one.frames.window(one.seek) for one in sounds])
    cache = ask.model.engine.start(len(sounds), windows)
    if ask.speech.languages and any(one.language is None for one in sounds):
        cache = _detect(sounds, cache)
    *others, last = ask.temperatures
    left = list(sounds)
    for temperature in others:
        heard, kept = _hear(left, cache, temperature)
        doubtful = [i for i, one in enumerate(heard) if not one.doubts(ask.limits) <= {"silence"}]
        for i, (sound, one) in enumerate(zip(left, heard, strict=True)):
            if i not in doubtful:
                sound.take(one)
        if not doubtful:
            return
        left, windows = [left[i] for i in doubtful], windows[doubtful]
        if kept is None:
            cache = ask.model.engine.start(len(left), windows)
        else:
            cache = kept.select(np.array(doubtful))
    for sound, one in zip(left, _hear(left, cache, last)[0], strict=True):
        sound.take(one)


def _detect(sounds: Sequence[_Sound], cache: Cache) -> Cache:
    """Detect the language of each sound that has no language yet, from its present window. Return the emptied
    cache.
    """
    ask = sounds[0].ask
    logits, cache = ask.model.engine.step(np.array([ask.model.generation.prompt] * len(sounds)), cache)
    for one, row in zip(sounds, logits[:, 0], strict=True):
        likeliest = spoken_language(row, ask.speech.languages.values())
        code = next(code for code, id in ask.speech.languages.items() if id == likeliest)
        one.language = one.language or code
    return cache.truncate(np.zeros(len(sounds), np.int64))


def _closed(tokens: list[int], first: int) -> list[int]:
    """Return a segment's tokens without the last one, if that is a timestamp with which the next window
    begins.
    """
    return tokens[:-1] if len(tokens) > 2 and tokens[-2] >= first else tokens


def _token_begins(
    model: TaskModel, speech: SpeechTokens, cache: Cache, prompt: list[int], heard: _Heard, frames: int
) -> tuple[list[float], np.ndarray | None]:
    """Return when each token of a window begins, in seconds from the window's begin, and then when the last
    token ends.

    Also returns the attention weights [T, S] from which the times were computed. Only the first `frames`
    frames of the window are sound; the rest is padding. As in transformers, the decoder doesn't read the last
    token that it wrote."""
    engine = model.engine
    if not isinstance(engine, AttentiveEngine):
        raise LimitError(
            "`words` needs an engine that returns cross-attention: use the engine onnx or numpy, or "
            "don't set `words`"
        )
    # Without a list of heads: all of the upper half's, as openai has it.
    crosses = [(i, layer.cross) for i, layer in enumerate(model.config.layers) if layer.cross is not None]
    upper = crosses[len(crosses) // 2 :]
    heads = speech.alignment_heads or [(i, head) for i, cross in upper for head in range(cross.heads)]
    read = heard.tokens if heard.ended else heard.tokens[:-1]
    if not read:
        return [0.0, 0.0], None
    attention = engine.cross_attention(np.array([[*prompt, *read]]), cache, heads)
    attention = attention[:, len(prompt) :, : max(1, frames // STEP)]
    begins = token_begins(attention) * (STEP * HOP / RATE)
    last = [begins[-1]] * (len(heard.tokens) + 1 - len(begins))
    return [*begins.tolist(), *last], attention.mean(0)


def _words(
    model: TaskModel, tokens: list[int], times: list[float], language: str | None
) -> list[tuple[Word, list[int]]]:
    """Return the words of a segment, each with the indices of its tokens.

    `times` are the seconds at which each token begins, and then the second at which the last token ends."""
    (end,) = model.generation.eos  # all tokens that aren't of texts come after it
    places = [i for i, token in enumerate(tokens) if token < end]
    texts = [tokens[i] for i in places]
    found = spoken_words(texts, model.text.decode, spaces=language not in WITHOUT_SPACES)
    words = [(text, [places[i] for i in of]) for text, of in found]
    return [(Word(times[of[0]], times[of[-1] + 1], text), of) for text, of in words]


def _hear(sounds: Sequence[_Sound], cache: Cache, temperature: float) -> tuple[list[_Heard], Cache | None]:
    """Transcribe the windows in the cache, one row for each sound, at one temperature.

    Also returns the cache, emptied so that it can be used again, or None if rows were removed from it when
    their texts had ended.
    """
    ask = sounds[0].ask
    model, generation = ask.model, ask.model.generation
    earlier = [one.earlier() for one in sounds]
    prompts = [[*before, *one.start()] for before, one in zip(earlier, sounds, strict=True)]
    time = len(prompts[0])
    room = model.config.context - time
    if generation.max_new_tokens is not None:
        room = min(room, generation.max_new_tokens)
    alone = [cache.copy(row) for row in range(len(sounds))] if ask.words else []
    at = np.array([[len(before), time - 1] for before in earlier])
    logits, cache = model.engine.step(np.array(prompts), cache, at=at)
    (end,) = generation.eos
    first, latest = ask.speech.first_timestamp, ask.speech.latest_first
    rules = partial(timestamp_rules, first=first, end=end, latest=latest)
    kept: Cache | None
    if temperature == 0 and ask.search["beams"] > 1:
        rows = [cache.copy(row) for row in range(len(sounds))]
        of = zip(prompts, rows, logits[:, 1], strict=True)
        texts = [_searched(model, one, prompt, row, room, rules, ask.search) for prompt, one, row in of]
        kept = cache
    else:
        copies = ask.best_of if temperature > 0 else 1
        of = [i for i in range(len(sounds)) for _ in range(copies)]
        cache = cache if copies == 1 else cache.select(np.array(of))
        given = [sounds[i] for i in of], cache, [prompts[i] for i in of], logits[of, 1]
        drawn, kept = _drawn(*given, room, rules, temperature)
        several = [drawn[i : i + copies] for i in range(0, len(drawn), copies)]
        texts = [max(one, key=partial(_likelihood, end=end)) for one in several]
        kept = kept if kept is None or copies == 1 else kept.select(np.arange(len(sounds)) * copies)
    found = []
    for i, (written, mean) in enumerate(texts):
        no_speech = no_speech_probability(logits[i, 0], ask.speech.no_speech)
        compression = compression_ratio(written, model.config.embedding.vocabulary)
        text = written[:-1] if written[-1] == end else written
        heard = _Heard(text, len(text) < len(written), mean, compression, no_speech, temperature)
        if ask.words:
            frames = sounds[i].frames.real - sounds[i].seek
            begins, attention = _token_begins(model, ask.speech, alone[i], prompts[i], heard, frames)
            heard = heard._replace(begins=begins, attention=attention)
        found.append(heard)
    return found, None if kept is None else kept.truncate(np.zeros(len(sounds), np.int64))


def _likelihood(text: tuple[list[int], float], end: int) -> float:
    """Return the number by which openai's code ranks sampled texts (`MaximumLikelihoodRanker`).

    The number is the sum of all log-probabilities, divided by the number of tokens without the end token."""
    tokens, mean = text
    return mean * len(tokens) / max(1, len(tokens) - (tokens[-1] == end))


def _penalties(model: TaskModel) -> Sampler:
    """Return a Sampler with the penalties that the model's files state, without a temperature: the caller
    chooses the temperature.
    """
    return Sampler(**{**model.generation.defaults, "temperature": None})


def _drawn(
    sounds: Sequence[_Sound],
    cache: Cache,
    prompts: Sequence[list[int]],
    rows: np.ndarray,
    room: int,
    rules: Rules,
    temperature: float,
) -> tuple[list[tuple[list[int], float]], Cache | None]:
    """Sample a text of at most `room` tokens after each prompt. `rows` [B, N] are the logits of the first
    tokens.

    Temperature 0 is greedy. Returns each text with its mean log-probability, and the cache. The cache is None
    if rows of ended texts were removed from it.
    """
    model = sounds[0].ask.model
    (end,) = model.generation.eos
    sampler, drawing = _penalties(model), Sampler(temperature=temperature or None)
    texts: list[list[int]] = [[] for _ in sounds]
    totals = [0.0] * len(sounds)
    going = list(range(len(sounds)))  # whose text each row of the cache is
    while True:
        for i, row in zip(going, rows, strict=True):
            written = texts[i]
            adjusted = process_logits(row, sampler, np.array([*prompts[i], *written]), len(written), {end})
            ruled = rules(adjusted, written)
            check_any_allowed(ruled.max())
            written.append(sample(ruled, drawing, sounds[i].rng.random()))
            totals[i] += logprob(ruled, written[-1])
        unfinished = [row for row, i in enumerate(going) if texts[i][-1] != end and len(texts[i]) < room]
        if not unfinished:
            whole = len(going) == len(sounds)
            means = [total / len(text) for total, text in zip(totals, texts, strict=True)]
            return list(zip(texts, means, strict=True)), cache if whole else None
        if len(unfinished) < len(going):
            cache, going = cache.select(np.array(unfinished)), [going[row] for row in unfinished]
        logits, cache = model.engine.step(np.array([texts[i][-1:] for i in going]), cache)
        rows = logits[:, 0]


def _searched(
    model: TaskModel,
    cache: Cache,
    prompt: list[int],
    row: np.ndarray,
    room: int,
    rules: Rules,
    options: Mapping[str, Any],
) -> tuple[list[int], float]:
    """Return the likeliest text that beam search finds, and the text's mean log-probability.

    The search adds up log-probabilities that aren't normalized again after `rules` excluded tokens. The
    returned mean is of normalized ones, as in greedy decoding and sampling.
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
    return written, total / len(written)
