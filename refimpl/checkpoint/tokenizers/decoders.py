"""Decoders turn tokens back into text. Each takes and returns a list of strings, which are joined at
the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

from ...errors import LimitError
from . import pre_tokenizers
from .components import ComponentType, Option, character, count, flag, listed, read_component, text
from .normalized_string import MAX_LENGTH
from .normalizers import BYTE_TO_UNICODE
from .patterns import Pattern, read_pattern

Decoder: TypeAlias = Callable[[list[str]], list[str]]
UNICODE_TO_BYTE = {letter: byte for byte, letter in BYTE_TO_UNICODE.items()}
BYTE_TOKEN = re.compile(r"<0x([0-9a-fA-F]{2}|\+[0-9a-fA-F])>")  # Rust's numbers may carry a plus
_CLEANUP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def sequence(decoders: list[Decoder]) -> Decoder:
    """Return a decoder that applies several decoders one after the other."""
    return lambda tokens: reduce(lambda changed, step: step(changed), decoders, tokens)


def byte_level(**options: bool) -> Decoder:
    """Return a decoder that turns GPT-2's visible characters into bytes, and reads the bytes as UTF-8.

    If a token contains any other character, the token's own UTF-8 bytes are used.
    """
    del options  # the pre-tokenizer's

    def spell(token: str) -> bytes:
        if all(c in UNICODE_TO_BYTE for c in token):
            return bytes(UNICODE_TO_BYTE[c] for c in token)
        return token.encode()

    return lambda tokens: [b"".join(map(spell, tokens)).decode(errors="replace")]


def byte_fallback() -> Decoder:
    """Return a decoder that joins neighbouring byte tokens, such as <0xC3><0xA9>, and reads them as UTF-8.

    If these bytes aren't UTF-8, each of them becomes a replacement character."""

    def decode(tokens: list[str]) -> list[str]:
        decoded: list[str] = []
        run = bytearray()
        for token in [*tokens, None]:
            byte = BYTE_TOKEN.fullmatch(token) if token is not None else None
            if byte:
                run.append(int(byte[1], 16))
                continue
            try:
                decoded += [run.decode()] if run else []
            except UnicodeDecodeError:
                decoded += ["\ufffd"] * len(run)
            run.clear()
            decoded += [token] if token is not None else []
        return decoded

    return decode


def wordpiece(prefix: str, cleanup: bool) -> Decoder:
    """Return a decoder that puts a space before each token that begins a word.

    `cleanup` removes the space around English punctuation."""

    def decode(tokens: list[str]) -> list[str]:
        decoded: list[str] = []
        for i, token in enumerate(tokens):
            if i:
                token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
            for old, new in _CLEANUP if cleanup else ():
                token = token.replace(old, new)
            decoded.append(token)
        return decoded

    return decode


def metaspace(replacement: str, prepend_scheme: str, **options: Any) -> Decoder:
    """Return a decoder that writes a space for each `replacement` character, such as ▁.

    If the encoder added this character before the text, the decoder drops it from the first token."""
    del options
    first = " " if prepend_scheme == "never" else ""
    return lambda tokens: [p.replace(replacement, " " if i else first) for i, p in enumerate(tokens)]


def bpe(suffix: str) -> Decoder:
    """Return a decoder that replaces the end-of-word suffix by a space, or by nothing after the last word."""
    return lambda tokens: [
        p.replace(suffix, " " if i < len(tokens) - 1 else "") if suffix else p for i, p in enumerate(tokens)
    ]


def replace(pattern: Pattern, content: str) -> Decoder:
    """Return a decoder that replaces each match of a pattern by `content`."""

    def change(token: str) -> str:
        parts = [content if matched else token[a:b] for a, b, matched in pattern.matches(token)]
        if (length := sum(map(len, parts))) > MAX_LENGTH:
            raise LimitError(f"a decoded token may have at most {MAX_LENGTH} characters, but it has {length}")
        return "".join(parts)

    return lambda tokens: [change(token) for token in tokens]


def strip(content: str, start: int, stop: int) -> Decoder:
    """Return a decoder that removes the character `content` from the ends of each token.

    The decoder removes up to `start` characters at the beginning and up to `stop` at the end.
    """

    def change(token: str) -> str:
        left = min(start, len(token) - len(token.lstrip(content)))
        right = min(stop, len(token) - len(token.rstrip(content)), len(token) - left)
        return token[left : len(token) - right]

    return lambda tokens: [change(token) for token in tokens]


def fuse() -> Decoder:
    """Return a decoder that joins all tokens into one string."""
    return lambda tokens: ["".join(tokens)]


def read_decoder(value: Any, where: str) -> Decoder:
    """Build the decoder that a JSON object of tokenizer.json describes."""
    return read_component(value, COMPONENT_TYPES, where)


COMPONENT_TYPES = {
    "ByteLevel": ComponentType(byte_level, pre_tokenizers.BYTE_LEVEL),
    "WordPiece": ComponentType(wordpiece, {"prefix": Option(text), "cleanup": Option(flag)}),
    "Metaspace": ComponentType(metaspace, pre_tokenizers.METASPACE),
    "BPEDecoder": ComponentType(bpe, {"suffix": Option(text)}),
    "ByteFallback": ComponentType(byte_fallback),
    "Fuse": ComponentType(fuse),
    "Strip": ComponentType(
        strip, {"content": Option(character), "start": Option(count), "stop": Option(count)}
    ),
    "Replace": ComponentType(replace, {"pattern": Option(read_pattern), "content": Option(text)}),
    "Sequence": ComponentType(sequence, {"decoders": Option(listed(read_decoder))}),
}
