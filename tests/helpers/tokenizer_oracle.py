"""A tokenizer.json of tfm against transformers' tokenizer of the same directory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.tokenizers.tokenizer import read
from tfm.runtime.text.tokenizer import DecodeStream, Tokenizer
from tokenizers import Tokenizer as Library

from .gguf_tokenizers import TEXT
from .tokenizer_directories import CONTENTS

# Latin, Greek, Cyrillic, Arabic, Devanagari, Thai, kana, Han, Hangul, marks, white space, emoji: all of them
# as old as the oldest Unicode table in play.
RANGES = (
    (0x20, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x627, 0x64A), (0x905, 0x939), (0xE01, 0xE2E),
    (0x3041, 0x3093), (0x4E00, 0x4E20), (0xAC00, 0xAC20), (0x300, 0x315), (0x9, 0xD), (0x1F600, 0x1F610),
)  # fmt: skip
ALPHABET = [
    chr(code) for first, last in RANGES for code in range(first, last + 1) if code not in (0x3A2, 0xAD)
]
PIECES = [
    *TEXT, *CONTENTS, "the", "The", "THE cat", "naïve", "  ", " 12", "a ' s", " n't", "do n't", " .", " ?!",
    "<image>", "<audio>", "<extra_id_0>", "<extra_id_2>", "<unk_2>", "Ａ", "\u3000", "\n\n", "en_XX",
    "ro_RO", "<0x41>", "<a>",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(st.sampled_from(ALPHABET), max_size=8), max_size=5).map(
    "".join
)
NOTHING_AROUND = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


def parts(tokenizer: Library, clean_up: bool) -> dict[str, Any]:
    """What tokenizer.json would say of it, but for the batches' sections."""
    stated = json.loads(tokenizer.to_str())
    for key in ("padding", "truncation", *(["decoder"] if clean_up else [])):
        del stated[key]
    for token in stated["added_tokens"]:
        del token["special"]  # the library forgets that a token was special, but still leaves it out
    if stated["post_processor"] == NOTHING_AROUND:
        stated["post_processor"] = None
    return stated


def same_as_transformers(reference: Any, text: str, special_tokens: Mapping[str, str]) -> None:
    """The same parts, ids and decoded texts, of the fast library, the runtime and the specification."""
    library, specified = Library.from_str(text), read(text)
    library.no_padding()
    library.no_truncation()
    ours = Tokenizer(text, 10**6)
    assert special_tokens == reference.special_tokens_map or not reference.special_tokens_map
    cleaned = bool(reference.clean_up_tokenization_spaces)
    # Through JSON both of them: the library reads some scores as their neighbours.
    backend = Library.from_str(reference.backend_tokenizer.to_str())
    assert parts(library, cleaned) == parts(backend, cleaned)

    @settings(max_examples=5)
    @given(TEXTS, st.none() | TEXTS)
    def compare(first: str, second: str | None) -> None:
        try:
            reference(first + (second or ""), add_special_tokens=False)
        except Exception as error:  # the unknown token that the settings name isn't in the vocabulary
            with pytest.raises(Exception, match=re.escape(str(error))):
                library.encode(first + (second or ""), add_special_tokens=False)
            return
        for special in (True, False):
            want = reference(first, second or None, add_special_tokens=special)["input_ids"]
            got = library.encode(first, second or None, add_special_tokens=special)
            assert got.ids == want
            assert specified.encode(first, second or None, add_special_tokens=special).ids == want
        bare = reference(first, add_special_tokens=False)["input_ids"]
        assert ours.encode_template(first) == bare
        if ours.encode(first) == bare:
            assert ours.with_special_tokens(bare) == reference(first)["input_ids"]
        for skip in (True, False):
            decoded = reference.decode(want, skip_special_tokens=skip)
            assert library.decode(want, skip_special_tokens=skip) == decoded
            assert specified.decode(want, skip_special_tokens=skip) == decoded
        assert ours.decode(want) == reference.decode(want, skip_special_tokens=True)
        stream = DecodeStream(ours)
        assert "".join([*map(stream.push, bare), stream.finish()]) == ours.decode(bare)

    compare()
