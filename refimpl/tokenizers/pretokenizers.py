"""Pre-tokenizers: how a text is cut into the words that a model then splits. Pieces in, pieces out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from ..errors import CheckpointError
from . import characters
from .aligned import BEHAVIORS, Aligned, Match
from .normalizers import letters
from .oniguruma import written
from .options import Kind, Option, character, component, flag, listed, nullable, one_of, text
from .patterns import GPT2, Pattern, read_pattern, regex, single

PreTokenizer: TypeAlias = Callable[[Sequence[Aligned]], list[Aligned]]
SCHEMES = ("first", "never", "always")


def _cut(cut: Callable[[str], list[Match]], behavior: str) -> PreTokenizer:
    """Each piece cut by itself."""
    return lambda pieces: [part for piece in pieces for part in piece.split(cut(piece.text), behavior)]


def sequence(pretokenizers: list[PreTokenizer]) -> PreTokenizer:
    """One after the other, each on the pieces of the one before."""

    def cut(pieces: Sequence[Aligned]) -> list[Aligned]:
        for step in pretokenizers:
            pieces = step(pieces)
        return list(pieces)

    return cut


@cache
def gpt2() -> Pattern:
    """GPT-2's words (Radford et al. 2019): contractions, letters, numbers or others after a space."""
    return regex(GPT2, "GPT-2's pattern")


def byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> PreTokenizer:
    """GPT-2's words as letters for bytes. `trim_offsets` is the post-processor's."""
    del trim_offsets

    def cut(pieces: Sequence[Aligned]) -> list[Aligned]:
        made: list[Aligned] = []
        for piece in pieces:
            if add_prefix_space and not piece.text.startswith(" "):
                piece = piece.prepend(" ")
            made += piece.split(gpt2().matches(piece.text), "Isolated") if use_regex else [piece]
        return [piece.each(letters) for piece in made if piece.text]

    return cut


def split(pattern: Pattern, behavior: str, invert: bool) -> PreTokenizer:
    """Cut at what a pattern matches, or, inverted, at what it doesn't."""

    def cut(text: str) -> list[Match]:
        return [(at, to, matched != invert) for at, to, matched in pattern.matches(text)]

    return _cut(cut, behavior)


def digits(individual_digits: bool) -> PreTokenizer:
    """Numbers (category N) apart: each, or together."""
    return _cut(single(characters.is_number), "Isolated" if individual_digits else "Contiguous")


def punctuation(behavior: str) -> PreTokenizer:
    """Punctuation apart."""
    return _cut(single(characters.is_punctuation), behavior)


def white_space_split() -> PreTokenizer:
    """Cut at white space, which goes."""
    return _cut(single(characters.is_space), "Removed")


@cache
def _words() -> Pattern:
    outside = characters.complement(characters.union([*characters.word(), *characters.WHITESPACE]))
    return Pattern(re.compile(f"{written(characters.word())}+|{written(outside)}+"))


def white_space() -> PreTokenizer:
    r"""`\w+|[^\w\s]+`: words and what stands between them; white space goes."""
    return _cut(lambda text: [(a, b, not matched) for a, b, matched in _words().matches(text)], "Removed")


def bert() -> PreTokenizer:
    """Cut at white space, then punctuation apart (Devlin et al. 2019)."""
    return sequence([white_space_split(), punctuation("Isolated")])


def delimiter(delimiter: str) -> PreTokenizer:
    """Cut at one character, which goes."""
    return _cut(single(lambda c: c == delimiter), "Removed")


def metaspace(
    replacement: str,
    prepend_scheme: str,
    split: bool | None,
    add_prefix_space: bool | None,
    str_rep: str | None,
) -> PreTokenizer:
    """SentencePiece's words: a visible character for a space, and one before the text's beginning.

    `add_prefix_space` is what older files say for `prepend_scheme`, `str_rep` says nothing.
    """
    del str_rep
    if add_prefix_space is False and prepend_scheme != "never":
        raise CheckpointError("pre_tokenizer: Metaspace.add_prefix_space must agree with prepend_scheme")

    def cut(pieces: Sequence[Aligned]) -> list[Aligned]:
        made: list[Aligned] = []
        for piece in pieces:
            piece = piece.replace(single(lambda c: c == " ")(piece.text), replacement)
            wanted = prepend_scheme == "always" or (prepend_scheme == "first" and piece.start == 0)
            if wanted and not piece.text.startswith(replacement):
                piece = piece.prepend(replacement)
            at = single(lambda c: c == replacement)
            made += piece.split(at(piece.text), "MergedWithNext") if split is not False else [piece]
        return [piece for piece in made if piece.text]

    return cut


def read_pretokenizer(value: Any, where: str) -> PreTokenizer:
    """The pre-tokenizer that a JSON object states."""
    return component(value, KINDS, where)


METASPACE = {
    "replacement": Option(character),
    "prepend_scheme": Option(one_of(*SCHEMES), "always"),
    "split": Option(nullable(flag), True),
    "add_prefix_space": Option(nullable(flag), None),
    "str_rep": Option(nullable(text), None),
}
BYTE_LEVEL = {
    "add_prefix_space": Option(flag),
    "trim_offsets": Option(flag),
    "use_regex": Option(flag, True),
}
KINDS = {
    "ByteLevel": Kind(byte_level, BYTE_LEVEL),
    "Split": Kind(
        split,
        {"pattern": Option(read_pattern), "behavior": Option(one_of(*BEHAVIORS)), "invert": Option(flag)},
    ),
    "Digits": Kind(digits, {"individual_digits": Option(flag)}),
    "Metaspace": Kind(metaspace, METASPACE),
    "BertPreTokenizer": Kind(bert),
    "Whitespace": Kind(white_space),
    "WhitespaceSplit": Kind(white_space_split),
    "Punctuation": Kind(punctuation, {"behavior": Option(one_of(*BEHAVIORS), "Isolated")}),
    "CharDelimiterSplit": Kind(delimiter, {"delimiter": Option(character)}),
    "Sequence": Kind(sequence, {"pretokenizers": Option(listed(read_pretokenizer))}),
}
