"""No tokenizer.json makes a text, or what is decoded of one, longer than any memory."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import tokenizers
from helpers.gguf_tokenizers import charsmap
from helpers.text_strategies import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.tokenizers import decoders
from tfm.refimpl.checkpoint.tokenizers.tokenizer import read
from tfm.refimpl.errors import CheckpointError, LimitError
from tfm.runtime.text import text_growth
from tfm.runtime.text.tokenizer import Tokenizer


def replace(old: str, new: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def with_parts(**parts: Any) -> str:
    return json.dumps({**json.loads(byte_tokenizer()), **parts}, ensure_ascii=False)


DOUBLED = {"type": "Sequence", "decoders": [replace("a", "aa")] * 40}
RULES = charsmap({b"a": "b" * 10**6})
BOMBS = {
    "matches of nothing": replace(r"[^\s]{0,99999}", "x" * 100_000, "Regex"),
    "a character": replace("\n", "x" * 100_000),
    "doubled again and again": sequence(*[replace("\n", "\n\n")] * 14),
    "in a sequence of a sequence": sequence(sequence(replace("\n", "\n" * 1000)), replace("\n", "\n" * 1000)),
    "put before": {"type": "Prepend", "prepend": "x" * 10**6},
    "a rule": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(RULES).decode()},
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("escaped", [False, True])
def test_a_text_that_becomes_too_long_is_refused(name: str, escaped: bool) -> None:
    """Also where the vocabulary is parsed, since an escape may hide the name of the part."""
    made = with_parts(normalizer=BOMBS[name])
    made = made.replace('"normalizer"', '"norm\\u0061lizer"') if escaped else made
    with pytest.raises(LimitError):
        Tokenizer(made, 300).encode(500 * "\na")
    with pytest.raises(LimitError):
        Tokenizer(made, 300).encode_template(500 * "\na")
    with pytest.raises(LimitError):
        Tokenizer(made, 300).encode_parts([(500 * "\na", False)])


@pytest.mark.parametrize("normalized", [True, False])
def test_added_tokens_are_normalized_when_the_file_is_read(normalized: bool) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    added = [{"id": 300 + i, "content": f"{i}\n", "normalized": normalized, **flags} for i in range(50)]
    made = with_parts(normalizer=replace("\n", "x" * 10_000), added_tokens=added)
    if not normalized:
        assert len(Tokenizer(made, 400).encode("a\n")) == 10_001
        return
    with pytest.raises(LimitError):
        Tokenizer(made, 400)


def test_each_part_between_added_tokens_is_normalized_by_itself() -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False, "normalized": False}
    added = [{"id": 300, "content": "zz", **flags}]
    prepended = sequence({"type": "Prepend", "prepend": "a" * 100}, replace("a", "b" * 100))
    made = Tokenizer(with_parts(normalizer=prepended, added_tokens=added), 400)
    assert len(made.encode("xzzx")) == 2 * 10_001 + 1
    with pytest.raises(LimitError):
        made.encode("xzz" * 500)


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": sequence(*[{"type": "NFC"}] * 101)},
        {"decoder": DOUBLED},
        {"decoder": replace("a", "a" * 10**6)},
        {"model": {"type": "WordPiece", "vocab": {"x" * 10**6: 0}, "unk_token": "x" * 10**6,
                   "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}},
    ],
)  # fmt: skip
def test_parts_that_no_tokenizer_has_are_refused_when_the_file_is_read(parts: dict[str, Any]) -> None:
    with pytest.raises(LimitError):
        Tokenizer(with_parts(**parts), 300)


@pytest.mark.parametrize(
    "broken", ['{"type": "Sequence"', "{}", '{"type": "Sequence"}', '{"type": "Replace"}']
)
def test_a_broken_normalizer_is_an_error_of_the_file(broken: str) -> None:
    with pytest.raises(CheckpointError):
        Tokenizer(byte_tokenizer().replace('"normalizer":null', f'"normalizer":{broken}'), 300)


STEPS = st.sampled_from([
    replace("a", "bcd"), replace("", "x"), replace("bc", "a"), replace("b*", "cc", "Regex"),
    replace("c+", "", "Regex"),
    {"type": "Prepend", "prepend": "abc"}, {"type": "NFKD"}, {"type": "ByteLevel"}, {"type": "Lowercase"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
])  # fmt: skip


@given(st.lists(STEPS, max_size=5), st.text(st.sampled_from("abc 不ﷺİ\n"), max_size=30))
def test_what_is_refused_is_what_becomes_too_long(steps: list[dict[str, Any]], text: str) -> None:
    """By the library's own normalizers, one step after the other, with lower limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_growth, "SHORT", 20)
        patch.setattr(text_growth, "TIMES", 2)
        growth = text_growth.Growth(with_parts(normalizer=sequence(*steps)))
        lengths, now = [], text
        for step in steps:
            made = tokenizers.Tokenizer.from_str(with_parts(normalizer=step))
            now = made.normalizer.normalize_str(now) if made.normalizer else now
            lengths.append(len(now))
        if all(length <= max(20, 2 * len(text)) for length in lengths):
            growth.check(text)
            return
        with pytest.raises(LimitError):
            growth.check(text)


def test_the_specification_refuses_what_a_decoder_makes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "MAX_LENGTH", 1000)
    made = read(with_parts(decoder=DOUBLED))
    with pytest.raises(LimitError):
        made.decode([made.vocabulary["a"]])
