"""Compute the bytes of each token, for programs that turn ids into text and have no tokenizer.

    text of ids  =  bytes[ids[0]] + bytes[ids[1]] + ..., as UTF-8

A token may be a part of a character, so bytes are joined before they are read as UTF-8. Special tokens have
no bytes. The file has N + 1 offsets of four bytes, little-endian, counted from the file's start, and then the
bytes. The bytes of token i are from offset i to offset i + 1.

**Conventions**: the bytes are for a text that continues another text. So if a tokenizer drops the space
before the first token of a text, the token keeps the space here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import CheckpointError
from .decoders import BYTE_TOKEN, UNICODE_TO_BYTE
from .tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes that each id adds to a text, from id 0 to the last id.

    Raises CheckpointError if a token's text depends on the tokens beside it. An example is a tokenizer that
    writes a space at the end of every word except the last one of the text.
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
            raise CheckpointError(
                "a token must always give the same text, but in this tokenizer the text depends on the "
                "tokens beside the token"
            )
    return found


def to_file(tokens: list[bytes]) -> bytes:
    """Return the content of a file of token bytes: the offsets, then the bytes of all tokens."""
    offsets = np.cumsum([4 * (len(tokens) + 1), *map(len, tokens)], dtype="<i4")
    return offsets.tobytes() + b"".join(tokens)


def _kinds(decoder: dict[str, Any] | None) -> set[str]:
    """Return the types of the steps of a decoder."""
    if decoder is None:
        return set()
    steps = decoder.get("decoders", [])
    return {str(decoder.get("type")), *(kind for step in steps for kind in _kinds(step))}


def _ordinary(tokenizer: Tokenizer) -> int:
    """Return the id of an ordinary token, such as a letter."""
    for id, token in tokenizer.tokens.items():
        if len(token) == 1 and token.isalnum() and tokenizer.decode([id]) == token:
            return id
    raise CheckpointError("a tokenizer must have a letter among its tokens")
