"""The bytes of each token, for programs that turn ids into text and have no tokenizer.

    text of ids  =  bytes[ids[0]] + bytes[ids[1]] + ..., as UTF-8

A token may be a part of a character, so bytes are joined before they are read as UTF-8. Special tokens have
none. The file has N + 1 offsets of four bytes, little-endian, counted from the file's start, then the bytes:
those of token i lie from offset i to offset i + 1.

**Conventions**: the text is a continuation: where a tokenizer drops the space before a text's first token,
that token has it here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import CheckpointError
from .decoders import BYTE_TOKEN, UNICODE_TO_BYTE
from .tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each id adds to a text, from id 0 to the last one.

    Raises CheckpointError where a token's text depends on the tokens beside it, as where the end of a word
    is a space, but for the text's last one.
    """
    kinds = _kinds(tokenizer.definition.get("decoder"))
    first = _ordinary(tokenizer)
    before = tokenizer.decode([first])
    found, checked = [], [first]
    for id in range(max(tokenizer.tokens) + 1):
        token = tokenizer.tokens.get(id, "")
        text = tokenizer.decode([first, id])
        if text == before:
            found.append(b"")
        elif "ByteFallback" in kinds and (byte := BYTE_TOKEN.fullmatch(token)):
            found.append(bytes([int(byte[1], 16)]))
        elif "ByteLevel" in kinds and set(token) <= set(UNICODE_TO_BYTE):
            found.append(bytes(UNICODE_TO_BYTE[letter] for letter in token))
        else:
            found.append(text[len(before) :].encode())
            checked.append(id)
    for ids in (checked[1:], checked[:0:-1]):
        whole = before.encode() + b"".join(found[id] for id in ids)
        if tokenizer.decode([first, *ids]).encode() != whole:
            raise CheckpointError("a token's text must not depend on its neighbours, this tokenizer's does")
    return found


def to_file(tokens: list[bytes]) -> bytes:
    """The bytes of all tokens, behind their offsets."""
    offsets = np.cumsum([4 * (len(tokens) + 1), *map(len, tokens)], dtype="<i4")
    return offsets.tobytes() + b"".join(tokens)


def _kinds(decoder: dict[str, Any] | None) -> set[str]:
    """The types of a decoder's steps."""
    if decoder is None:
        return set()
    steps = decoder.get("decoders", [])
    return {str(decoder.get("type")), *(kind for step in steps for kind in _kinds(step))}


def _ordinary(tokenizer: Tokenizer) -> int:
    """A token that is a letter, or the like."""
    for id, token in tokenizer.tokens.items():
        if len(token) == 1 and token.isalnum() and tokenizer.decode([id]) == token:
            return id
    raise CheckpointError("a tokenizer must have a letter among its tokens")
