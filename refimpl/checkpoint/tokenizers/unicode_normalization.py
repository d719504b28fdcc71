"""Unicode normalization (UAX 15) that also reports from which old characters each new character comes.

`unicodedata.normalize` returns only the text. Offsets of tokens need to know where characters come from,
so the algorithm is written out here: decompose each character, put marks in canonical order, and compose
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias
from unicodedata import combining, normalize

Change: TypeAlias = tuple[str, int]  # (character, change): see normalized_string.py


def decomposed(text: str, compatible: bool) -> Iterator[Change]:
    """Normalize a text to NFD, or to NFKD if `compatible` is true. Yield each character with its change."""
    form = "NFKD" if compatible else "NFD"
    marks: list[Change] = []
    for old in text:
        for i, new in enumerate(normalize(form, old)):
            if combining(new):
                marks.append((new, int(i > 0)))
                continue
            yield from sorted(marks, key=lambda mark: combining(mark[0]))
            marks.clear()
            yield (new, int(i > 0))
    yield from sorted(marks, key=lambda mark: combining(mark[0]))


def composed(text: str, compatible: bool) -> Iterator[Change]:
    """Normalize a text to NFC, or to NFKC if `compatible` is true. Yield each character with its change.

    A composed character replaces all its parts. A change c means that 1 − c old characters are replaced. So
    parts with the changes a and b give the change a + b − 1.
    """
    starter: Change | None = None
    between: list[Change] = []  # marks after the starter that weren't composed with it
    last = 0  # combining class of the last of them
    for new, change in decomposed(text, compatible):
        rank = combining(new)
        if starter is None:
            if rank:
                yield (new, change)
            else:
                starter = (new, change)
            continue
        if not between or last < rank:
            joined = normalize("NFC", starter[0] + new)
            if len(joined) == 1:
                starter = (joined, starter[1] + change - 1)
                continue
        if rank == 0:
            yield starter
            yield from between
            starter, between = (new, change), []
        else:
            between.append((new, change))
            last = rank
    if starter is not None:
        yield starter
    yield from between
