"""Voice activity detection: cut a sound at its pauses into utterances, while it comes in.

    how likely    ▁▁▃▇█▇▃▇█▇▁▁▁▁▁▁▁▁▁▁▂██▇▇▁▁▁
    utterances   └───────────────┘  └──────────┘      each with some sound before and after the speech

A voice model says how likely somebody speaks in each chunk of 32 milliseconds. An utterance ends at a pause
that is long enough. Each pause may become long enough, so transcription starts while the pause is still
short. If the pause becomes long enough, the text is known by then, or soon after. If the speaker continues,
the text is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ...refimpl.engine.sound import RATE
from ..ort.voice import CHUNK

BEGINS, ENDS = 0.5, 0.35  # probabilities at which speech begins, and below which it ends
BESIDE = 10  # chunks before an utterance: a word begins softly
# Seconds of the pause that ends an utterance, and at which it is cut: as it comes, and of a file.
PAUSE, LONGEST = 0.4, 29.0
EARLY = 0.2  # seconds of a pause that may be the end: shorter ones are within words
LONG_PAUSE, LONGEST_OF_FILE = 2.0, 300.0

Speaks = Callable[[np.ndarray], float]
Utterance = tuple[int, np.ndarray]  # the index of its first sample, and its samples [N]


def utterances(
    blocks: Iterable[np.ndarray],
    speaks: Speaks,
    *,
    pause: float = PAUSE,
    longest: float = LONGEST,
    on_pause: Callable[[Utterance], None] | None = None,
) -> Iterator[Utterance]:
    """Yield each utterance.

    An utterance is yielded as soon as `pause` seconds of silence follow it. `blocks` are the samples of a
    sound. `speaks` returns the probability that somebody speaks in the next CHUNK samples. An utterance that
    reaches `longest` seconds is cut at the place in its last third where speech is least likely. `on_pause`
    is called with a possible utterance as soon as EARLY seconds of silence follow it. If the possible
    utterance turns out to be complete, the same object is yielded.
    """
    held: list[np.ndarray] = []
    likely: list[float] = []
    speaking, quiet, end = False, 0, 0
    early: Utterance | None = None

    def taken(count: int) -> Utterance:
        return end - sum(map(len, held)), np.concatenate(held[:count])

    for chunk in _chunks(blocks):
        held.append(chunk)
        likely.append(speaks(chunk))
        end += len(chunk)
        quiet = 0 if likely[-1] >= ENDS else quiet + 1
        if quiet == 0:
            early = None
        if not speaking:
            speaking = likely[-1] >= BEGINS
            gone = 0 if speaking else len(held) - BESIDE
        elif quiet * CHUNK >= pause * RATE:
            yield early or taken(len(held))
            speaking, gone, early = False, len(held) - BESIDE, None
        elif len(held) * CHUNK >= longest * RATE:
            last = 2 * len(held) // 3
            gone = last + int(np.argmin(likely[last:])) + 1
            yield taken(gone)
            early = None
        else:
            gone = 0
            if on_pause is not None and early is None and quiet * CHUNK >= EARLY * RATE:
                early = taken(len(held))
                on_pause(early)
        del held[: max(0, gone)], likely[: max(0, gone)]
    if speaking:
        yield early or taken(len(held))


def loud_spans(blocks: Iterable[np.ndarray], *, longest: float = LONGEST) -> Iterator[Utterance]:
    """Cut a sound into spans without gaps, and yield them.

    A span has `longest` seconds at most. It ends after the quietest chunk of its last third, so that it
    rarely cuts a word.
    """

    def loudness(chunk: np.ndarray) -> float:
        return 1 + float(np.sqrt(np.mean(chunk**2)))  # above 1 for speech throughout: no pause ends a span

    return utterances(blocks, loudness, pause=np.inf, longest=longest)


def _chunks(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the samples in arrays of CHUNK samples. The last array may be shorter."""
    rest = np.zeros(0)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) - len(rest) % CHUNK
        yield from rest[:whole].reshape(-1, CHUNK)
        rest = rest[whole:]
    if len(rest):
        yield rest
