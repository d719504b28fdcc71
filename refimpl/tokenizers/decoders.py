"""Decoders: how pieces become a text again. Pieces in, pieces out; at the end they are joined."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from . import pretokenizers
from .normalizers import BYTE_LETTERS
from .options import Kind, Option, character, component, count, flag, listed, text
from .patterns import Pattern, read_pattern

Decoder: TypeAlias = Callable[[list[str]], list[str]]
_LETTER_BYTES = {letter: byte for byte, letter in BYTE_LETTERS.items()}
_BYTE = re.compile(r"<0x([0-9a-fA-F]{2}|\+[0-9a-fA-F])>")  # Rust's numbers may carry a plus
_ENGLISH = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def sequence(decoders: list[Decoder]) -> Decoder:
    """One after the other."""

    def decode(pieces: list[str]) -> list[str]:
        for step in decoders:
            pieces = step(pieces)
        return pieces

    return decode


def byte_level(**options: bool) -> Decoder:
    """Letters as bytes, bytes as UTF-8; a piece with any other character stands for its own bytes."""
    del options  # the pre-tokenizer's

    def spell(piece: str) -> bytes:
        if all(c in _LETTER_BYTES for c in piece):
            return bytes(_LETTER_BYTES[c] for c in piece)
        return piece.encode()

    return lambda pieces: [b"".join(map(spell, pieces)).decode(errors="replace")]


def byte_fallback() -> Decoder:
    """Runs of <0x..> as UTF-8; each is a replacement character if the run isn't UTF-8."""

    def decode(pieces: list[str]) -> list[str]:
        made: list[str] = []
        run = bytearray()
        for piece in [*pieces, None]:
            found = _BYTE.fullmatch(piece) if piece is not None else None
            if found:
                run.append(int(found[1], 16))
                continue
            try:
                made += [run.decode()] if run else []
            except UnicodeDecodeError:
                made += ["\ufffd"] * len(run)
            run.clear()
            made += [piece] if piece is not None else []
        return made

    return decode


def wordpiece(prefix: str, cleanup: bool) -> Decoder:
    """A space before each piece that begins a word; `cleanup` undoes it around English punctuation."""

    def decode(pieces: list[str]) -> list[str]:
        made: list[str] = []
        for i, piece in enumerate(pieces):
            if i:
                piece = piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}"
            for old, new in _ENGLISH if cleanup else ():
                piece = piece.replace(old, new)
            made.append(piece)
        return made

    return decode


def metaspace(replacement: str, prepend_scheme: str, **options: Any) -> Decoder:
    """The visible character as a space; in the first piece it goes where the encoder put it."""
    del options
    first = " " if prepend_scheme == "never" else ""
    return lambda pieces: [p.replace(replacement, " " if i else first) for i, p in enumerate(pieces)]


def bpe(suffix: str) -> Decoder:
    """The suffix of a word's end as a space, of the last as nothing."""
    return lambda pieces: [
        p.replace(suffix, " " if i < len(pieces) - 1 else "") if suffix else p for i, p in enumerate(pieces)
    ]


def replace(pattern: Pattern, content: str) -> Decoder:
    """Each match replaced by a text."""

    def change(piece: str) -> str:
        return "".join(content if matched else piece[a:b] for a, b, matched in pattern.matches(piece))

    return lambda pieces: [change(piece) for piece in pieces]


def strip(content: str, start: int, stop: int) -> Decoder:
    """At most so many times a character off the beginning and the end of each piece."""

    def change(piece: str) -> str:
        left = min(start, len(piece) - len(piece.lstrip(content)))
        right = min(stop, len(piece) - len(piece.rstrip(content)), len(piece) - left)
        return piece[left : len(piece) - right]

    return lambda pieces: [change(piece) for piece in pieces]


def fuse() -> Decoder:
    """All pieces as one."""
    return lambda pieces: ["".join(pieces)]


def read_decoder(value: Any, where: str) -> Decoder:
    """The decoder that a JSON object states."""
    return component(value, KINDS, where)


KINDS = {
    "ByteLevel": Kind(byte_level, pretokenizers.BYTE_LEVEL),
    "WordPiece": Kind(wordpiece, {"prefix": Option(text), "cleanup": Option(flag)}),
    "Metaspace": Kind(metaspace, pretokenizers.METASPACE),
    "BPEDecoder": Kind(bpe, {"suffix": Option(text)}),
    "ByteFallback": Kind(byte_fallback),
    "Fuse": Kind(fuse),
    "Strip": Kind(strip, {"content": Option(character), "start": Option(count), "stop": Option(count)}),
    "Replace": Kind(replace, {"pattern": Option(read_pattern), "content": Option(text)}),
    "Sequence": Kind(sequence, {"decoders": Option(listed(read_decoder))}),
}
