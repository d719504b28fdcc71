"""Voice activity detection: cut a sound at its pauses into utterances, while it comes in.

    how likely    ▁▁▃▇█▇▃▇█▇▁▁▁▁▁▁▁▁▁▁▂██▇▇▁▁▁
    utterances   └───────────────┘  └──────────┘      each with what is beside it

A model of speech says how likely somebody speaks in each chunk of 32 milliseconds. An utterance ends after a
pause. So its text is known after a delay: the length of that pause, and the time that the model needs to
transcribe it.
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
LONG_PAUSE, LONGEST_OF_FILE = 2.0, 300.0

Speaks = Callable[[np.ndarray], float]


def utterances(
    blocks: Iterable[np.ndarray], speaks: Speaks, *, pause: float = PAUSE, longest: float = LONGEST
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of the first sample and the samples [N] of each utterance.

    An utterance is yielded as soon as `pause` seconds of silence follow it. `blocks` are the samples of a
    sound. `speaks` returns how likely somebody speaks in the next CHUNK of them. An utterance that reaches
    `longest` seconds is cut at the place in its last third where speech is least likely.
    """
    held: list[np.ndarray] = []
    likely: list[float] = []
    speaking, quiet, end = False, 0, 0

    def taken(count: int) -> tuple[int, np.ndarray]:
        return end - sum(map(len, held)), np.concatenate(held[:count])

    for chunk in _chunks(blocks):
        held.append(chunk)
        likely.append(speaks(chunk))
        end += len(chunk)
        quiet = 0 if likely[-1] >= ENDS else quiet + 1
        if not speaking:
            speaking = likely[-1] >= BEGINS
            gone = 0 if speaking else len(held) - BESIDE
        elif quiet * CHUNK >= pause * RATE:
            yield taken(len(held))
            speaking, gone = False, len(held) - BESIDE
        elif len(held) * CHUNK >= longest * RATE:
            last = 2 * len(held) // 3
            gone = last + int(np.argmin(likely[last:])) + 1
            yield taken(gone)
        else:
            gone = 0
        del held[: max(0, gone)], likely[: max(0, gone)]
    if speaking:
        yield taken(len(held))


def _chunks(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The samples, CHUNK at a time; what remains at the end is shorter."""
    rest = np.zeros(0)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) - len(rest) % CHUNK
        yield from rest[:whole].reshape(-1, CHUNK)
        rest = rest[whole:]
    if len(rest):
        yield rest
