"""What is heard, of the likeliest token at each position of a sound (connectionist temporal classification,
Graves et al. 2006).

    likeliest   . H H . E . L L . L O O | | W …        . is the blank, | comes between words
    runs          H     E   L     L O   |   W …        a token that is repeated counts once, unless a blank
    words       HELLO                       W …        comes between

A run says when its token is heard: from its first position to behind its last one, as in transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

__all__ = ["CTCTokens", "Heard", "heard_words", "runs", "said_together"]


@dataclass(frozen=True)
class CTCTokens:
    """How a model with a CTC head says what it hears, and what it wants to hear.

    `blank` says that nothing begins at a position, `delimiter` that a word ends. With `normalized` a sound
    has a mean of 0 and a variance of 1. Texts are `lower` case, or `cleaned`: without spaces before English
    punctuation.
    """

    blank: int
    delimiter: int | None
    normalized: bool = True
    lower: bool = False
    cleaned: bool = False


class Heard(NamedTuple):
    """Tokens in a row, and the positions from the first to behind the last. `follows` says that they go on
    within a word."""

    tokens: tuple[int, ...]
    begin: int
    end: int
    follows: bool = False


def runs(likeliest: Iterable[int], blank: int) -> Iterator[Heard]:
    """The tokens that are heard, one after the other."""
    at = 0
    for token, positions in groupby(likeliest):
        begin, at = at, at + sum(1 for _ in positions)
        if token != blank:
            yield Heard((token,), begin, at)


def heard_words(
    found: Iterable[Heard], delimiter: int | None, longest: int, *, follows: bool = False
) -> Iterator[Heard]:
    """The words; what is longer than `longest` positions goes on as a word that follows. With `follows` the
    first one does."""
    held: Heard | None = None
    for run in found:
        if run.tokens == (delimiter,):
            yield from () if held is None else (held,)
            held, follows = None, False
        elif held is None:
            held, follows = run._replace(follows=follows), False
        elif run.end - held.begin > longest:
            yield held
            held = run._replace(follows=True)
        else:
            held = Heard(held.tokens + run.tokens, held.begin, run.end, held.follows)
    yield from () if held is None else (held,)


def said_together(words: Iterable[Heard], pause: int, longest: int) -> Iterator[Sequence[Heard]]:
    """The words between pauses of so many positions, and no longer together than `longest`."""
    held: list[Heard] = []
    for word in words:
        if held and (word.begin - held[-1].end >= pause or word.end - held[0].begin > longest):
            yield held
            held = []
        held.append(word)
    yield from (held,) if held else ()
