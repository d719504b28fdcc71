"""Pre-tokenizers split a text into words, which a model tokenizes. Each takes and returns parts of a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any, TypeAlias

from ...errors import CheckpointError
from . import character_classes
from .components import ComponentType, Option, character, flag, listed, nullable, one_of, read_component, text
from .normalized_string import BEHAVIORS, Match, NormalizedString
from .normalizers import byte_level_characters
from .oniguruma import character_class
from .patterns import GPT2, Pattern, read_pattern, regex, split_characters

PreTokenizer: TypeAlias = Callable[[Sequence[NormalizedString]], list[NormalizedString]]
SCHEMES = ("first", "never", "always")


def _split_each(split_text: Callable[[str], list[Match]], behavior: str) -> PreTokenizer:
    """Return a pre-tokenizer that splits each part of a text by itself."""
    return lambda parts: [part for part in parts for part in part.split(split_text(part.text), behavior)]


def sequence(pretokenizers: list[PreTokenizer]) -> PreTokenizer:
    """Return a pre-tokenizer that applies several pre-tokenizers one after the other.

    Each of them splits the parts that the one before returned.
    """
    return lambda parts: reduce(lambda split, step: step(split), pretokenizers, list(parts))


@cache
def gpt2() -> Pattern:
    """Return the pattern that finds GPT-2's words (Radford et al. 2019).

    A word is a contraction, or a run of letters, of numbers or of other characters, with the space
    before it."""
    return regex(GPT2, "GPT-2's pattern")


def byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> PreTokenizer:
    """Return a pre-tokenizer that makes GPT-2's words, with a visible character for each byte.

    `trim_offsets` has no effect here; only the post-processor uses this option."""
    del trim_offsets

    def pre_tokenize(parts: Sequence[NormalizedString]) -> list[NormalizedString]:
        words: list[NormalizedString] = []
        for part in parts:
            if add_prefix_space and not part.text.startswith(" "):
                part = part.prepend(" ")
            words += part.split(gpt2().matches(part.text), "Isolated") if use_regex else [part]
        return [part.map(byte_level_characters) for part in words if part.text]

    return pre_tokenize


def split(pattern: Pattern, behavior: str, invert: bool) -> PreTokenizer:
    """Return a pre-tokenizer that splits at a pattern's matches.

    With `invert` it splits at the gaps between the matches."""

    def split_text(text: str) -> list[Match]:
        return [(at, to, matched != invert) for at, to, matched in pattern.matches(text)]

    return _split_each(split_text, behavior)


def digits(individual_digits: bool) -> PreTokenizer:
    """Return a pre-tokenizer that separates numbers (category N) from other characters.

    With `individual_digits` each number character is a part by itself; otherwise neighbours stay together.
    """
    return _split_each(
        split_characters(character_classes.is_number), "Isolated" if individual_digits else "Contiguous"
    )


def punctuation(behavior: str) -> PreTokenizer:
    """Return a pre-tokenizer that separates punctuation from other characters."""
    return _split_each(split_characters(character_classes.is_punctuation), behavior)


def white_space_split() -> PreTokenizer:
    """Return a pre-tokenizer that splits at white space and removes it."""
    return _split_each(split_characters(character_classes.is_space), "Removed")


@cache
def _words() -> Pattern:
    outside = character_classes.complement(
        character_classes.union([*character_classes.word(), *character_classes.WHITESPACE])
    )
    return Pattern(re.compile(f"{character_class(character_classes.word())}+|{character_class(outside)}+"))


def white_space() -> PreTokenizer:
    r"""Return a pre-tokenizer that splits by `\w+|[^\w\s]+` into words and runs of other characters.

    White space is removed.
    """
    return _split_each(
        lambda text: [(a, b, not matched) for a, b, matched in _words().matches(text)], "Removed"
    )


def bert() -> PreTokenizer:
    """Return a pre-tokenizer that splits at white space, and then separates punctuation (Devlin et al.
    2019).
    """
    return sequence([white_space_split(), punctuation("Isolated")])


def delimiter(delimiter: str) -> PreTokenizer:
    """Return a pre-tokenizer that splits at one character, and removes this character."""
    return _split_each(split_characters(lambda c: c == delimiter), "Removed")


def metaspace(
    replacement: str,
    prepend_scheme: str,
    split: bool | None,
    add_prefix_space: bool | None,
    str_rep: str | None,
) -> PreTokenizer:
    """Return a pre-tokenizer that makes SentencePiece's words.

    The character `replacement`, such as ▁, replaces each space. `prepend_scheme` says whether it is also put
    before the text. `add_prefix_space` is an older form of `prepend_scheme`. `str_rep` has no effect.
    """
    del str_rep
    if add_prefix_space is False and prepend_scheme != "never":
        raise CheckpointError(
            "pre_tokenizer: Metaspace.add_prefix_space is false, so prepend_scheme must be 'never', "
            f"got {prepend_scheme!r}"
        )

    def pre_tokenize(parts: Sequence[NormalizedString]) -> list[NormalizedString]:
        words: list[NormalizedString] = []
        for part in parts:
            part = part.replace(split_characters(lambda c: c == " ")(part.text), replacement)
            prepend = prepend_scheme == "always" or (prepend_scheme == "first" and part.start == 0)
            if prepend and not part.text.startswith(replacement):
                part = part.prepend(replacement)
            starts = split_characters(lambda c: c == replacement)
            words += part.split(starts(part.text), "MergedWithNext") if split is not False else [part]
        return [part for part in words if part.text]

    return pre_tokenize


def read_pre_tokenizer(value: Any, where: str) -> PreTokenizer:
    """Build the pre-tokenizer that a JSON object of tokenizer.json describes."""
    return read_component(value, COMPONENT_TYPES, where)


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
COMPONENT_TYPES = {
    "ByteLevel": ComponentType(byte_level, BYTE_LEVEL),
    "Split": ComponentType(
        split,
        {"pattern": Option(read_pattern), "behavior": Option(one_of(*BEHAVIORS)), "invert": Option(flag)},
    ),
    "Digits": ComponentType(digits, {"individual_digits": Option(flag)}),
    "Metaspace": ComponentType(metaspace, METASPACE),
    "BertPreTokenizer": ComponentType(bert),
    "Whitespace": ComponentType(white_space),
    "WhitespaceSplit": ComponentType(white_space_split),
    "Punctuation": ComponentType(punctuation, {"behavior": Option(one_of(*BEHAVIORS), "Isolated")}),
    "CharDelimiterSplit": ComponentType(delimiter, {"delimiter": Option(character)}),
    "Sequence": ComponentType(sequence, {"pretokenizers": Option(listed(read_pre_tokenizer))}),
}
