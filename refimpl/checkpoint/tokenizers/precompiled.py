"""Read SentencePiece's `precompiled_charsmap`: rules that replace bytes by bytes, stored in a double array.

The bytes are the length of the array in bytes (u32), the array's units (u32 each), and then the replacements.
A zero byte ends each replacement. A unit is a node of a trie over UTF-8 bytes (Yata et al. 2007,
darts-clone). Bits 0 to 7 are the label. Bit 8 says that a value follows. Bit 9 and bits 10 to 31 are the
offset to its children. A unit that is a value has bit 31 and the position of its replacement.

Conventions of the `tokenizers` library: a grapheme of fewer than six bytes is looked up as a whole. If rules
match its beginning, the shortest rule replaces the whole grapheme. Otherwise each character is looked up by
itself.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from typing import Any
from unicodedata import category

from ...errors import CheckpointError
from .normalized_string import NormalizedString
from .unicode_normalization import Change

SMALL = 6  # bytes below which a grapheme is looked up whole
# Marks that stand apart, and characters that extend though they are no marks (GraphemeBreakProperty).
_APART = frozenset(
    map(chr, (0x102B, 0x102C, 0x1038, *range(0x1062, 0x1065), *range(0x1067, 0x106E), 0x1083,
              *range(0x1087, 0x108D), 0x108F, *range(0x109A, 0x109D), 0x1A61, 0x1A63, 0x1A64, 0xAA7B,
              0xAA7D, 0x11720, 0x11721))
)  # fmt: skip
_EXTEND = frozenset(map(chr, (0x200C, 0x200D, 0x0E33, 0x0EB3, 0xFF9E, 0xFF9F, *range(0x1F3FB, 0x1F400))))
_PREPEND = frozenset(
    map(chr, (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0xD4E, 0x110BD, 0x110CD, 0x111C2,
              0x111C3, 0x1193F, 0x11941, *range(0x11A84, 0x11A8A), 0x11D46))
)  # fmt: skip


def precompiled(
    precompiled_charsmap: Callable[[str], str | None],
) -> Callable[[NormalizedString], NormalizedString]:
    """Return a normalizer that applies the rules of a `precompiled_charsmap`."""

    def normalize(text: NormalizedString) -> NormalizedString:
        changes: list[Change] = []
        modified = False
        for grapheme in graphemes(text.text):
            as_one = len(grapheme.encode()) < SMALL and precompiled_charsmap(grapheme) is not None
            for part in [grapheme] if as_one else grapheme:
                new = precompiled_charsmap(part)
                modified |= new is not None
                if new is None:
                    changes.append((part, 0))
                else:
                    _replace(changes, part, new)
        return text.transform(changes) if modified else text

    return normalize


def _replace(changes: list[Change], old: str, new: str) -> None:
    changes += [(character, 0) for character in new]
    more = len(new) - len(old)
    if more > 0:
        changes[-more:] = [(character, 1) for character, _ in changes[-more:]]
    elif more < 0 and changes:  # an empty replacement at the very beginning leaves no trace
        changes[-1] = (changes[-1][0], changes[-1][1] + more)


def graphemes(text: str) -> Iterator[str]:
    """Split a text into extended grapheme clusters (UAX 29), correctly if a cluster has fewer than six bytes.

    Longer clusters are looked up character by character. So it doesn't matter where Hangul, flags, emoji
    joined by ZWJ and Indic conjuncts (three bytes a character and more) are split.
    """
    start = 0
    for i in range(1, len(text) + 1):
        if i < len(text) and _joined(text[i - 1], text[i]):
            continue
        yield text[start:i]
        start = i


def _joined(left: str, right: str) -> bool:
    if left == "\r":
        return right == "\n"
    if _breaks(left) or _breaks(right):
        return False
    extends = right in _EXTEND or (category(right)[0] == "M" and right not in _APART)
    return extends or left in _PREPEND


def _breaks(character: str) -> bool:
    """Return whether a character always ends a grapheme: GCB = Control, CR or LF."""
    kind = category(character)
    return kind in ("Cc", "Zl", "Zp") or (
        kind == "Cf" and character not in _EXTEND and character not in _PREPEND
    )


def read_charsmap(value: Any, where: str) -> Callable[[str], str | None]:
    """Read the rules of a `precompiled_charsmap` from base64.

    Returns a function from a text to the replacement by the shortest rule that matches the text's beginning.
    The function returns None if no rule matches."""
    try:
        data = base64.b64decode(value, validate=True)
        (size,) = struct.unpack_from("<I", data)
        units = struct.unpack_from(f"<{size // 4}I", data, 4)
        texts = data[4 + size // 4 * 4 :]
        texts.decode()
    except (TypeError, ValueError, struct.error) as error:
        raise CheckpointError(f"{where} must be a charsmap in base64: {error!s:.80}") from None
    if not units:
        raise CheckpointError(f"{where} must be a charsmap with at least one unit")

    def unit(at: int) -> int:
        if at >= len(units):
            raise CheckpointError(
                f"{where}: a node of the charsmap points to unit {at}, but the charsmap has only {len(units)}"
            )
        return units[at]

    def offset(node: int) -> int:
        return (node >> 10) << ((node & 1 << 9) >> 6)

    def find(text: str) -> str | None:
        at = offset(units[0])
        for byte in text.encode():
            node = unit(at ^ byte)
            if byte == 0 or node & (1 << 31 | 0xFF) != byte:
                return None
            at ^= byte ^ offset(node)
            if node >> 8 & 1:
                place = unit(at) & (1 << 31) - 1
                end = texts.find(b"\0", place)
                try:
                    return texts[place : end if end >= 0 else None].decode()
                except UnicodeDecodeError:
                    raise CheckpointError(
                        f"{where}: a rule of the charsmap must not begin inside a character"
                    ) from None
        return None

    return find
