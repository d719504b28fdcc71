"""Transcribe a sound from the likeliest token at each of its positions.

The method is connectionist temporal classification (CTC, Graves et al. 2006).

    likeliest   . H H . E . L L . L O O | | W …        . is the blank, | comes between words
    runs          H     E   L     L O   |   W …        a token that is repeated counts once, unless a blank
    words       HELLO                       W …        comes between

A run begins at its first position and ends at the position after its last one, as in transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple


@dataclass(frozen=True)
class CTCTokens:
    """The special tokens of a model with a CTC head, and how its sounds and texts are written.

    The token `blank` means that no token begins at a position. The token `delimiter` means that a word ends.
    With `normalized` the model reads sounds with mean 0 and variance 1. With `lower` its texts are converted
    to lower case; with `cleaned` spaces before English punctuation are removed.
    """

    blank: int
    delimiter: int | None
    normalized: bool = True
    lower: bool = False
    cleaned: bool = False


class Heard(NamedTuple):
    """Consecutive transcribed tokens and their range of positions in the sound.

    The range begins at the first token's position and ends after the last token's position. `follows` says
    that the tokens continue a word that was split.
    """

    tokens: tuple[int, ...]
    begin: int
    end: int
    follows: bool = False


def runs(likeliest: Iterable[int], blank: int) -> Iterator[Heard]:
    """Yield each transcribed token with its range of positions, from the likeliest token at each position.

    Equal tokens in a row become one token, and blanks are left out.
    """
    at = 0
    for token, positions in groupby(likeliest):
        begin, at = at, at + sum(1 for _ in positions)
        if token != blank:
            yield Heard((token,), begin, at)


def heard_words(
    found: Iterable[Heard], delimiter: int | None, longest: int, *, follows: bool = False
) -> Iterator[Heard]:
    """Group transcribed tokens into words, which end at the token `delimiter`.

    A word longer than `longest` positions is split, and `follows` is set in all its parts but the first. With
    the argument `follows`, the first word continues an earlier word.
    """
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
    """Group words that were spoken without a long pause between them.

    A new group begins after a pause of at least `pause` positions, and before a word that would make the
    group longer than `longest` positions.
    """
    held: list[Heard] = []
    for word in words:
        if held and (word.begin - held[-1].end >= pause or word.end - held[0].begin > longest):
            yield held
            held = []
        held.append(word)
    yield from (held,) if held else ()
