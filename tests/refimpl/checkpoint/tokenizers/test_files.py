"""tokenizer.json from strangers: everything unknown is named, and nothing runs long.

Also SentencePiece's charsmap against the library, on a double array that the tests build.
"""

from __future__ import annotations

import base64
import copy
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import text_strategies, unicode_tables
from helpers.gguf_tokenizers import charsmap
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.tokenizers import tokenizer as module
from tfm.refimpl.checkpoint.tokenizers.tokenizer import Tokenizer, dumps, load, read, save
from tfm.refimpl.errors import CheckpointError, LimitError
from tokenizers import Tokenizer as Library
from tokenizers import normalizers

PLAN = json.loads(text_strategies.byte_level().to_str())
UNIGRAM = json.loads(text_strategies.unigram().to_str())
REPLACE = {"type": "Replace", "content": "x"}


def changed(path: str, value: Any, plan: dict[str, Any] = PLAN) -> dict[str, Any]:
    """The plan with one value replaced."""
    made = copy.deepcopy(plan)
    *outer, last = path.split(".")
    place: Any = made
    for key in outer:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return made


def split(pattern: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("secret", 1, "'secret'"),
        ("version", "2.0", "version '1.0' '2.0'"),
        ("model", None, "object"),
        ("model.type", "WordLevel", "type BPE Unigram WordPiece 'WordLevel'"),
        ("model.speed", 9, "'speed' BPE"),
        ("model.dropout", 0.1, "model.dropout"),
        ("model.fuse_unk", 1, "model.fuse_unk 1"),
        ("model.vocab", {"a": 0, "b": 0}, "'a' 'b'"),
        ("model.vocab", {"a": -1}, "'a' 0 -1"),
        ("model.vocab", {"a" * 2000: 0}, "token 1024"),
        ("model.vocab", ["a"], "model.vocab"),
        ("model.merges", [["a", "zzzz"]], "model.merges[0]"),
        ("model.merges", ["abc"], "model.merges[0] 'abc'"),
        ("model.merges", 3, "model.merges"),
        ("model.byte_fallback", None, "model.byte_fallback"),
        ("normalizer", {"type": "Nmt"}, "type NFC 'Nmt'"),
        ("normalizer", {"type": "NFC", "x": 1}, "'x' NFC"),
        ("normalizer", {"type": "Prepend"}, "Prepend"),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 300}, "256 characters"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 65}, "list 64"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": 3}]}, "normalizers[0] type"),
        ("normalizer", {**REPLACE, "pattern": {"String": ""}}, "String Regex"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "?"}, "base64"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}, "charsmap"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}, "unit"),
        ("pre_tokenizer", {"type": "UnicodeScripts"}, "pre_tokenizer type"),
        ("pre_tokenizer", {"type": "Punctuation", "behavior": "Gone"}, "behavior Removed"),
        ("pre_tokenizer", {"type": "CharDelimiterSplit", "delimiter": "ab"}, "character"),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "_", "add_prefix_space": False}, "'never'"),
        ("pre_tokenizer", split({"Regex": "(a+)+b"}), "character 0"),
        ("pre_tokenizer", split({"Regex": "(?:a+)+b"}), "group 6"),
        ("pre_tokenizer", split({"Regex": "a*a*a*a*b"}), "3 repetitions"),
        ("pre_tokenizer", split({"Regex": "a*"}), "empty"),
        ("pre_tokenizer", split({"Regex": "a|(?=b)"}), "empty"),
        ("pre_tokenizer", split({"Regex": r"\w+"}), "escape 2"),
        ("pre_tokenizer", split({"Regex": r"\p{Han}"}), "category 2"),
        ("pre_tokenizer", split({"Regex": "[a&&b]"}), "class &&"),
        ("pre_tokenizer", split({"Regex": "[[:alpha:]]"}), "class 1"),
        ("pre_tokenizer", split({"Regex": "[b-a]"}), "ascending"),
        ("pre_tokenizer", split({"Regex": r"[\s\S]|[^\s\S]"}), "character class"),
        ("pre_tokenizer", split({"Regex": "[ab"}), "3 end'"),
        ("pre_tokenizer", split({"Regex": "(?:ab"}), "group 5"),
        ("pre_tokenizer", split({"Regex": "ab)"}), "before 2"),
        ("pre_tokenizer", split({"Regex": "a{,}"}), "number braces"),
        ("pre_tokenizer", split({"Regex": "a{3,2}"}), "braces"),
        ("pre_tokenizer", split({"Regex": "a{2}+"}), "braces"),
        ("pre_tokenizer", split({"Regex": "a++*"}), "second 3"),
        ("pre_tokenizer", split({"Regex": r"\A+a"}), "after 2"),
        ("pre_tokenizer", split({"Regex": "(?:" * 9 + "a" + ")" * 9}), "groups 8"),
        ("pre_tokenizer", split({"Regex": "[" * 10 + "a" + "]" * 10}), "classes 8"),
        ("pre_tokenizer", split({"Regex": "a" * 5000}), "4096 characters"),
        ("post_processor.single", [{"Sequence": {"id": "C", "type_id": 0}}], "Sequence"),
        ("post_processor.special_tokens", {}, "special_tokens '<s>'"),
        ("post_processor.special_tokens", [], "special_tokens"),
        ("post_processor.special_tokens", {"<s>": {"id": "<s>", "ids": [], "tokens": ["a"]}}, "ids"),
        ("post_processor", {"type": "BertProcessing", "sep": ["a"], "cls": ["b", 1]}, "id"),
        ("decoder", {"type": "CTC"}, "type"),
        ("added_tokens", {}, "added_tokens"),
        ("added_tokens.0.id", 5, "added_tokens[0] id 5"),
        ("added_tokens.0.content", "", "content"),
        ("added_tokens.0.magic", True, "added_tokens[0]"),
        ("added_tokens.1", PLAN["added_tokens"][0], "once"),
    ],
)  # fmt: skip
def test_what_is_refused(path: str, value: Any, message: str) -> None:
    with refused(CheckpointError, *message.split()) as caught:
        read(json.dumps(changed(path, value)))
    assert str(caught.value).startswith("tokenizer.json: ")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.unk_id", 999, "model.unk_id"),
        ("model.vocab", [["a"]], "model.vocab[0]"),
        ("model.vocab", [["a", "b"]], "model.vocab[0]"),
        ("model.vocab", {}, "model.vocab"),
        ("model.byte_fallback", 0, "model.byte_fallback"),
    ],
)
def test_what_is_refused_of_unigram(path: str, value: Any, message: str) -> None:
    with refused(CheckpointError, *message.split()):
        read(json.dumps(changed(path, value, UNIGRAM)))


def test_two_tokens_that_normalize_to_one() -> None:
    plan = changed("normalizer", {"type": "Lowercase"})
    flags = {**plan["added_tokens"][0], "normalized": True}
    first = max(token["id"] for token in plan["added_tokens"]) + 1
    plan["added_tokens"] += [
        {**flags, "id": first, "content": "AB"},
        {**flags, "id": first + 1, "content": "ab"},
    ]
    with refused(CheckpointError, "'ab'"):
        Tokenizer(plan)


def test_an_unknown_token_that_is_not_there_is_an_error_when_it_is_needed() -> None:
    """Published files name one that their text never needs."""
    for model in (
        {"type": "BPE", "unk_token": "?", "vocab": {"a": 0}, "merges": []},
        {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 9, "vocab": {"a": 0}},
        {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]},
    ):  # fmt: skip
        made = Tokenizer({"model": model})
        assert made.encode("a").ids == [0]
        with pytest.raises(CheckpointError, match="unk_"):
            made.encode("b")


@pytest.mark.parametrize("affix", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_bytes_of_affixes_are_no_tokens(affix: str) -> None:
    """They would stand for characters beyond the word's end."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocabulary, "merges": []}
    assert Tokenizer({"model": {**model, affix: ""}}).encode("aé").offsets == [(0, 1), (1, 2), (1, 2)]
    with refused(CheckpointError, *affix.split()):
        Tokenizer({"model": {**model, affix: "##"}})


def test_limits_of_texts_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Tokenizer(PLAN)
    with refused(LimitError, "lone", "surrogates"):
        made.encode("a\ud800")
    monkeypatch.setattr(module, "MAX_TEXT", 3)
    with refused(LimitError, 3, "characters", 4):
        made.encode("abcd")
    monkeypatch.setattr(module, "FILE_BYTES", 3)
    with refused(LimitError, 3, "bytes", 4):
        read("abcd")
    with refused(CheckpointError, "object"):
        read("[]")


def test_texts_that_grow_are_stopped() -> None:
    grow = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 256}] * 60
    plan = changed("normalizer", {"type": "Sequence", "normalizers": grow})
    made = Tokenizer({**plan, "added_tokens": []})
    with refused(LimitError, "text"):
        made.encode("aa")


@pytest.mark.parametrize("letter", ["a", " ", "\u0301", "1", "\n"])
def test_encoding_is_not_quadratic(letter: str) -> None:
    """Twenty times the text takes far less than four hundred times as long, in one word and in many."""
    ids = {"a": 0, "aa": 1, "aaaa": 2, "aaaaaaaa": 3, "Ġ": 4, "ĠĠ": 5}
    merges = [["a", "a"], ["aa", "aa"], ["aaaa", "aaaa"], ["Ġ", "Ġ"]]
    bare = {"model": {"type": "BPE", "vocab": ids, "merges": merges}}
    for made in (Tokenizer(bare), Tokenizer({**PLAN, "added_tokens": []})):
        seconds = [min(timed(made, letter * count) for _ in range(3)) for count in (2_000, 40_000)]
        assert seconds[1] < 100 * seconds[0] + 0.1, seconds


def timed(made: Tokenizer, text: str) -> float:
    begin = time.process_time()
    made.encode(text)
    return time.process_time() - begin


def test_a_file_written_is_the_file_read(tmp_path: Path) -> None:
    made = Tokenizer(PLAN)
    save(made, tmp_path / "tokenizer.json")
    assert load(tmp_path).definition == PLAN == json.loads(dumps(made))
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


RULES = {
    "ﬁ": "fi", "①": "1", "é": "e", "e\u0301": "E!", "\u200b": "", "½": "1⁄2", "\r\n": "\n", "ａ": "a",
    "e": "é", "a\u0301\u0327": "x", "\u0301": "",
}  # fmt: skip
CHARSMAP = base64.b64encode(charsmap({key.encode(): new for key, new in RULES.items()})).decode()
CLUSTERS = [*"ﬁ①éea½ａb \u0301\u0327\u200b\u200d中각\r\n", "e\u0301", "a\u0301\u0327", "\u0600a"]
# Characters newer than the grapheme tables of either side aren't drawn.
OTHERS = st.characters(exclude_categories=("Cs", "Cn"), exclude_characters=unicode_tables.disputed("marks"))
MODEL = {"type": "BPE", "unk_token": "?", "vocab": {"?": 0, "e": 1}, "merges": []}


def normalized_by(coded: str) -> dict[str, Any]:
    steps = dict.fromkeys(("pre_tokenizer", "post_processor", "decoder"))
    rules = {"type": "Precompiled", "precompiled_charsmap": coded}
    return {"version": "1.0", "added_tokens": [], **steps, "normalizer": rules, "model": MODEL}


@given(text=st.lists(st.sampled_from(CLUSTERS) | OTHERS, max_size=12).map("".join))
def test_a_charsmap_does_what_the_library_s_does(text: str) -> None:
    plan = normalized_by(CHARSMAP)
    got, want = Tokenizer(plan).encode(text), Library.from_str(json.dumps(plan)).encode(text)
    assert (got.ids, got.offsets) == (want.ids, want.offsets)
    words = "".join(word.text for word in Tokenizer(plan).pre_tokenize(text))
    assert words == normalizers.Precompiled(base64.b64decode(CHARSMAP)).normalize_str(text)


def test_a_charsmap_that_points_outside() -> None:
    made = Tokenizer(normalized_by(base64.b64encode(struct.pack("<II", 4, 1 << 20)).decode()))
    with refused(CheckpointError, "points", 1121, 1):
        made.encode("a")
