"""Compute how much longer the normalizer of a tokenizer.json can make a text.

A normalizer can replace each character by any text, in any number of steps. So a short text can fill the
memory, because the library uses a hundred bytes or more for each character.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import tokenizers
from tokenizers import Regex, normalizers

from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.errors import LimitError

TIMES, SHORT = 8, 2**18  # normalized texts have at most so many times the characters, or so many
STEPS = 100  # of a normalizer
DECODED = 2**16  # characters that a decoder makes of one
# What one character becomes at most in the steps that may add some: NFKC has a ligature of 18.
FACTORS = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "ByteLevel": 4, "BertNormalizer": 5}
EMPTY = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}


class Growth:
    """The steps of a tokenizer.json's normalizer that can make a text longer.

    Raises LimitError for more steps than any real tokenizer has. Also raises LimitError for added tokens that
    become too long, since the library normalizes these tokens when it reads the file.
    """

    def __init__(self, tokenizer_json: str) -> None:
        stated = _stated(tokenizer_json, "normalizer")
        definitions = [leaf for value in stated for leaf in _leaves(value, "normalizers")]
        if len(definitions) > STEPS:
            raise LimitError(
                f"tokenizer.json: a normalizer may have at most {STEPS} steps, got {len(definitions)}"
            )
        self._steps = [_step(definition) for definition in definitions]
        self._added: tuple[str, ...] = ()
        for tokens in _stated(tokenizer_json, "added_tokens") if self._steps else ():
            if isinstance(tokens, list):
                self.check(*(token["content"] for token in tokens if token.get("normalized", True)))
                self._added = tuple(token["content"] for token in tokens if token["content"])

    def check(self, *texts: str) -> None:
        """Raise LimitError if the normalizer makes these texts, taken together, too long."""
        length = sum(map(len, texts))
        most = max(TIMES * length, SHORT)
        longest, added = float(length), 0.0
        for step in self._steps:
            longest, added = longest * step.factor, added * step.factor + step.added
        if longest + added * (length + len(texts)) <= most:  # each character may be a part of its own
            return
        for part in (part for text in texts for part in _borders(self._added).split(text)):
            for step in self._steps:
                part = step.normalized(part, most)
            most -= len(part)


class Step(NamedTuple):
    """A step of the normalizer that turns N characters into at most `factor` · N + `added` characters."""

    definition: dict[str, Any]
    normalizer: Any
    factor: float
    added: int

    def normalized(self, text: str, most: int) -> str:
        """Return the normalized text. Raises LimitError as soon as the text would have more than `most`
        characters.
        """
        match self.definition:
            case {"type": "Prepend"}:
                _check_length(len(text) + self.added, most)
            case {"type": "Replace", "pattern": dict(pattern)}:
                old = Regex(pattern["Regex"]) if "Regex" in pattern else pattern["String"]
                none, one = (len(normalizers.Replace(old, new).normalize_str(text)) for new in ("", "-"))
                _check_length(none + (one - none) * self.added, most)
            case _:
                return self._in_parts(text, most)
        return self.normalizer.normalize_str(text)

    def _in_parts(self, text: str, most: int) -> str:
        """Return the normalized text of a step that normalizes each character by itself. The text is
        normalized part by part.
        """
        done, size = "", max(1, int(SHORT / self.factor))
        for start in range(0, len(text), size):
            done += self.normalizer.normalize_str(text[start : start + size])
            _check_length(len(done), most)
        return done


@lru_cache(4)  # few texts need it, and of Gemma's tokens it takes 0.2 s
def _borders(added: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of the added tokens. The library splits a text at these tokens before it normalizes
    the parts.
    """
    return re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise LimitError(
            f"tokenizer.json's normalizer may make a text at most {TIMES} times as long, or {SHORT} "
            "characters long, but this text becomes longer"
        )


def check_decoder(definition: Any) -> None:
    """Raise LimitError for a decoder that can make more text from one character than any real
    decoder does.
    """
    steps = [leaf for leaf in _leaves(definition, "decoders") if leaf["type"] == "Replace"]
    if (factor := math.prod(_bounds(step)[0] for step in steps)) > DECODED:
        raise LimitError(
            f"tokenizer.json: a decoder may turn one character into at most {DECODED} characters, but this "
            f"decoder may turn one character into {factor:.0f}"
        )


def _bounds(definition: dict[str, Any]) -> tuple[float, int]:
    """Return `factor` and `added` of a step; see `Step`."""
    match definition:
        case {"type": "Prepend", "prepend": str(text)}:
            return 1, len(text)
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
            return max(1, len(new) / len(old)), len(new)
        case {"type": "Replace", "content": str(new)}:  # it may match between all characters
            return 1 + len(new), len(new)
        case {"type": "Precompiled", "precompiled_charsmap": str(charsmap)}:
            return _longest_rule(base64.b64decode(charsmap)), 0
    return FACTORS.get(definition["type"], 1), 0


def _step(definition: dict[str, Any]) -> Step:
    """Make a step from a part of the normalizer's definition.

    Raises any exception of the library if the library doesn't know the step.
    """
    normalizer = tokenizers.Tokenizer.from_str(json.dumps({**EMPTY, "normalizer": definition})).normalizer
    return Step(definition, normalizer, *_bounds(definition))


def _longest_rule(charsmap: bytes) -> int:
    """Return the number of characters of the longest replacement in a precompiled charsmap, at least 1.

    A charsmap contains the size of a trie in bytes, the trie, and the replacements.
    """
    rules = charsmap[4 + int.from_bytes(charsmap[:4], "little") :]
    return max(1, *(len(rule) for rule in rules.decode(errors="replace").split("\0")))


def _leaves(definition: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield the single steps of a normalizer or decoder. A sequence has its steps under `key`.

    A definition that isn't a JSON object, such as null or the id of a token, has no steps.
    """
    if isinstance(definition, dict) and definition.get("type") == "Sequence":
        for one in definition[key]:
            yield from _leaves(one, key)
    elif isinstance(definition, dict):
        yield definition


def _stated(tokenizer_json: str, key: str) -> Iterator[Any]:
    """Yield the values of a key in a tokenizer.json.

    To save time, the whole file is parsed only if it contains Unicode escapes. Otherwise the key is searched
    for as text.
    """
    if "\\u" in tokenizer_json:
        definition = parse(tokenizer_json, "tokenizer.json")
        yield definition.get(key) if isinstance(definition, dict) else None
        return
    for place in re.finditer(rf'"{key}"\s*:\s*', tokenizer_json):
        yield json.JSONDecoder().raw_decode(tokenizer_json, place.end())[0]
