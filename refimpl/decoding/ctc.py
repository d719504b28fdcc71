"""The transcript of a sound, from the likeliest token at each of its positions (connectionist temporal
classification, Graves et al. 2006).

    likeliest   . H H . E . L L . L O O | | W …        . is the blank, | comes between words
    runs          H     E   L     L O   |   W …        a token that is repeated counts once, unless a blank
    words       HELLO                       W …        comes between

The time of a run is from its first position to the position after its last one, as in transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple


@dataclass(frozen=True)
class CTCTokens:
    """The special tokens of a model with a CTC head, and the form of its input and its text.

    The token `blank` means that no token begins at a position. The token `delimiter` means that a word ends.
    With `normalized` the model reads sounds with a mean of 0 and a variance of 1. Texts are `lower` case, or
    `cleaned`: without spaces before English punctuation.
    """

    blank: int
    delimiter: int | None
    normalized: bool = True
    lower: bool = False
    cleaned: bool = False


class Heard(NamedTuple):
    """Consecutive tokens and their range of positions: from the first token's position to the one after the
    last token.

    `follows` says that these tokens continue a word.
    """

    tokens: tuple[int, ...]
    begin: int
    end: int
    follows: bool = False


def runs(likeliest: Iterable[int], blank: int) -> Iterator[Heard]:
    """Yield the transcribed tokens, one after the other."""
    at = 0
    for token, positions in groupby(likeliest):
        begin, at = at, at + sum(1 for _ in positions)
        if token != blank:
            yield Heard((token,), begin, at)


def heard_words(
    found: Iterable[Heard], delimiter: int | None, longest: int, *, follows: bool = False
) -> Iterator[Heard]:
    """Yield the words. A word longer than `longest` positions is split, and its later parts have `follows`
    set.

    With `follows` the first word continues an earlier one.
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
    """Yield the words in groups. A pause of `pause` or more positions begins a new group.

    A new group also begins before a word that would make the group longer than `longest` positions.
    """
    held: list[Heard] = []
    for word in words:
        if held and (word.begin - held[-1].end >= pause or word.end - held[0].begin > longest):
            yield held
            held = []
        held.append(word)
    yield from (held,) if held else ()
