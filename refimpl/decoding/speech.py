"""Whisper's decoding rules: which tokens the logits allow, and how a window's tokens become segments.

A window is 30 seconds of a sound. Its text is written between timestamps, which are tokens for 0.00, 0.02, …
30.00 seconds after the start of the window. The timestamps are the last ids of the vocabulary:

    <|0.00|> Some words.<|3.40|><|3.40|> More words, which go on<|eos|>
    └ a segment ───────────────┘└ cut off: the next window begins at 3.40 s

The source of the rules is Radford et al. 2022, §3.8, and their code. A sampler's `suppress_tokens` are never
chosen, and its `begin_suppress_tokens` are never chosen as the first token.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .logprobs import log_softmax

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

STEP = 2  # frames from one timestamp to the next


@dataclass(frozen=True)
class SpeechTokens:
    """The special tokens of a speech model such as Whisper.

    The token `no_timestamps` says that the text has no timestamps. The id before it means silence, and the
    ids after it are the timestamps. `languages` maps language codes to tokens, and `tasks` maps task names to
    tokens; both are empty if the model has only one language or task. `previous` is the token that begins an
    earlier text. The first timestamp of a window has at most the number `latest_first`. `language` and `task`
    are the settings in the model's files. `alignment_heads` lists heads of the decoder, as (layer, head),
    that attend to the part of the sound that is being transcribed.
    """

    no_timestamps: int
    languages: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    previous: int | None = None
    latest_first: int | None = None
    language: str | None = None
    task: str | None = None
    alignment_heads: tuple[tuple[int, int], ...] = field(default=(), metadata={"optional": True})

    @property
    def no_speech(self) -> int:
        return self.no_timestamps - 1

    @property
    def first_timestamp(self) -> int:
        return self.no_timestamps + 1


class Limits(NamedTuple):
    """Limits for trusting the text of a window. `doubts` applies these limits; None means no limit."""

    compression: float | None = None
    logprob: float | None = None
    no_speech: float | None = None


# Radford et al. 2022, §4.5: a doubtful window is written again, drawn at the next of these temperatures.
PAPER = Limits(compression=2.4, logprob=-1.0, no_speech=0.6)
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CALM = 0.5  # a window that was drawn at this or above isn't read by the next one


class Piece(NamedTuple):
    """Consecutive tokens of a window, with the numbers of the timestamps at which they begin and end."""

    begin: int
    end: int
    tokens: list[int]


def timestamp_rules(
    logits: Float[Array, " N"], written: Sequence[int], *, first: int, end: int, latest: int | None = None
) -> Float[Array, " N"]:
    """Apply Whisper's rules for timestamps: set tokens that can't follow `written` in a window to −∞.

    Timestamps are the ids from `first` on.

    1. `<|notimestamps|>`, the id before the first timestamp, is never chosen.
    2. Timestamps come in pairs, the end of one segment and the start of the next, except for the first one.
       After a single timestamp no text token below the id `end` may follow, and after a pair no timestamp.
    3. Time increases: a timestamp may equal the one before it only if it completes that timestamp's pair.
    4. A window begins with a timestamp, at most number `latest`.
    5. If all timestamps together are likelier than the likeliest other token, one of them is chosen.
    """
    ruled = logits.copy()
    ruled[first - 1] = -np.inf
    last_is_time = bool(written) and written[-1] >= first
    paired = len(written) < 2 or written[-2] >= first
    if last_is_time and paired:
        ruled[first:] = -np.inf
    elif last_is_time:
        ruled[:end] = -np.inf
    if told := [token for token in written if token >= first]:
        ruled[first : told[-1] + (0 if last_is_time and not paired else 1)] = -np.inf
    if not written:
        ruled[:first] = -np.inf
        if latest is not None:
            ruled[first + latest + 1 :] = -np.inf
    times, others = ruled[first:].astype(np.float64), ruled[:first]
    most = times.max()
    if most > -np.inf and most + np.log(np.exp(times - most).sum()) > others.max():
        others[:] = -np.inf
    return ruled


def no_speech_probability(logits: Float[Array, " N"], no_speech: int) -> float:
    """Return the probability of silence: softmax(logits) at the token `no_speech`.

    The logits are the model's output after the start token.
    """
    return float(np.exp(log_softmax(logits[None].astype(np.float64))[0, no_speech]))


def spoken_language(logits: Float[Array, " N"], languages: Collection[int]) -> int:
    """Return the likeliest of the tokens `languages`. The logits are the model's output after the start
    token.
    """
    among = np.array(sorted(languages))
    return int(among[np.argmax(logits[among])])


def compression_ratio(tokens: Sequence[int], vocabulary: int) -> float:
    """Return by what factor zlib compresses a window's tokens. The ratio is large for a text that repeats
    itself.

    Conventions: a token has ⌊log₂(N) / 8⌋ + 1 bytes, as in transformers. OpenAI's code compresses the text
    instead.
    """
    length = (vocabulary.bit_length() - 1) // 8 + 1
    packed = b"".join(token.to_bytes(length, "little") for token in tokens)
    return len(packed) / len(zlib.compress(packed))


def doubts(compression: float, logprob: float, no_speech: float, limits: Limits) -> frozenset[str]:
    """Return the reasons for decoding a window again at a higher temperature, or an empty set.

    A text is decoded again if it repeats itself or is unlikely. If "silence" is the only reason, nobody
    spoke: the text is unlikely, and silence is likely. The window is then left out.
    """
    found = set()
    unlikely = limits.logprob is not None and logprob < limits.logprob
    if limits.no_speech is not None and no_speech > limits.no_speech and unlikely:
        return frozenset({"silence"})
    if limits.compression is not None and compression > limits.compression:
        found.add("repetition")
    return frozenset(found | {"unlikely"} if unlikely else found)


def pieces(tokens: Sequence[int], *, first: int, frames: int) -> tuple[list[Piece], int]:
    """Split a window's tokens into segments; return them, and how many of the window's `frames` are done.

    Two timestamps in a row end a segment and begin the next one. The next window reads everything after the
    last pair again, unless the window ends with a single timestamp. Without a pair the window is one segment,
    which ends at the last timestamp.
    """
    times = [token >= first for token in tokens]
    cuts = [i for i in range(1, len(tokens)) if times[i - 1] and times[i]]
    if not cuts:
        told = [token - first for token in tokens if token >= first]
        end = told[-1] if told and told[-1] else frames // STEP
        return [Piece(0, end, list(tokens))], frames
    closed = times[-2:] == [False, True]
    # A window that isn't closed keeps the timestamp from which the next one goes on.
    cuts = [*cuts, len(tokens)] if closed else [*cuts[:-1], cuts[-1] + 1]
    found = []
    for begin, end in zip([0, *cuts], cuts, strict=False):
        part = list(tokens[begin:end])
        last = part[-2] if end == cuts[-1] and not closed else part[-1]
        found.append(Piece(part[0] - first, last - first, part))
    return found, frames if closed else STEP * found[-1].end
