"""The graphemes that a rule of SentencePiece takes, at the edges of our tables: as the tokenizers library."""

from __future__ import annotations

import base64
import unicodedata

import pytest
import tokenizers
from helpers.gguf_tokenizers import charsmap
from tfm.refimpl.checkpoint.tokenizers import precompiled
from tfm.refimpl.checkpoint.tokenizers.normalized_string import NormalizedString

# Marks of Unicode 3.2: later ones are in Python's tables or the library's, depending on their versions.
MARKS = [chr(c) for c in range(0x110000) if unicodedata.ucd_3_2_0.category(chr(c))[0] == "M"]
TABLES = precompiled._APART | precompiled._EXTEND | precompiled._PREPEND
NEAR = sorted({chr(ord(c) + step) for c in TABLES for step in (-1, 0, 1)} | {"\U00011a3a"})


def differing(rules: dict[bytes, str], texts: list[str]) -> list[str]:
    data = charsmap(rules)
    normalize = precompiled.precompiled(precompiled.read_charsmap(base64.b64encode(data), "test"))
    original = tokenizers.normalizers.Precompiled(data)
    return [t for t in texts if normalize(NormalizedString.from_text(t)).text != original.normalize_str(t)]


@pytest.mark.parametrize("characters", [MARKS, NEAR], ids=["marks", "near"])
def test_a_rule_takes_what_extends_its_character(characters):
    """A grapheme of fewer than six bytes is replaced as one, so a mark after the letter goes with it."""
    assert differing({b"a": "b"}, [f"a{c}x" for c in characters]) == []


def test_a_rule_takes_what_its_character_stands_before():
    """Where a prepended mark has a rule, the letter after it goes with it."""
    assert differing({c.encode(): "b" for c in NEAR}, [f"{c}a" for c in NEAR]) == []
