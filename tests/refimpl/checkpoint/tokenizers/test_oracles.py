"""Tokenizers against the `tokenizers` library: ids, pieces, offsets and decoded text on any Unicode.

Both read the same tokenizer.json. Texts leave out the characters on which the two have tables of
different Unicode versions (tests/helpers/unicode_tables.py finds them by asking; the last test counts them).
"""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from helpers import text_strategies, unicode_tables
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.tokenizers.patterns import regex
from tfm.refimpl.checkpoint.tokenizers.tokenizer import Tokenizer, load, read
from tfm.refimpl.checkpoint.tokenizers.unicode_normalization import composed, decomposed
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

CHARACTERS: dict[str, Any] = {  # a model that shows the offset of each character
    "type": "BPE", "unk_token": "<unk>", "merges": [["a", "a"], ["Ġ", "a"]],
    "vocab": {"<unk>": 0, "a": 1, "e": 2, "▁": 3, "Ġ": 4, "aa": 5, "Ġa": 6},
}  # fmt: skip
WORDS = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}  # a model that shows the words
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
CANONICAL = ("canonical",)
COMPATIBLE = ("canonical", "compatible")
BERT_TABLES = ("controls", "canonical", "nonspacing", "lowercase", "punctuation")
GPT2_TABLES = ("letters", "numbers", "space")


def byte_level(prefix: bool = False, regex: bool = True, trim: bool = True) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex}


def split(pattern: dict[str, str], behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def cuts(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def forms(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def metaspace(scheme: str, cut: bool = True) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}


def bert(**options: Any) -> dict[str, Any]:
    return {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": True, **options,
    }  # fmt: skip


def replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


DIGITS = {"type": "Digits", "individual_digits": True}
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
# name -> (normalizer, pre-tokenizer, tables in play)
PIPELINES: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None, tuple[str, ...]]] = {
    "gpt2": (None, byte_level(), GPT2_TABLES),
    "roberta": (None, byte_level(True), GPT2_TABLES),
    "smollm": (None, cuts(DIGITS, byte_level()), (*GPT2_TABLES, "digits")),
    "llama3": (None, cuts(split({"Regex": LLAMA3}), byte_level(regex=False)), GPT2_TABLES),
    "qwen2": (
        {"type": "NFC"},
        cuts(split({"Regex": LLAMA3.replace("{1,3}", "")}), byte_level(regex=False)),
        (*GPT2_TABLES, *CANONICAL),
    ),
    "tekken": (None, cuts(split({"Regex": TEKKEN}), byte_level(regex=False)), (*GPT2_TABLES, "cases")),
    "bloom": (None, cuts(split({"Regex": BLOOM}), byte_level(regex=False)), ("space",)),
    "falcon": (
        None,
        cuts(
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(),
            {"type": "Digits", "individual_digits": False},
            split({"Regex": "[0-9][0-9][0-9]"}),
        ),
        (*GPT2_TABLES, "punctuation", "digits"),
    ),
    "llama2": (forms({"type": "Prepend", "prepend": "▁"}, replaced({"String": " "}, "▁")), None, ()),
    "t5": (None, cuts({"type": "WhitespaceSplit"}, metaspace("always")), ("space",)),
    "albert": (
        forms({"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
        metaspace("always"),
        (*COMPATIBLE, "marks", "lowercase"),
    ),
    "bert": (bert(), {"type": "BertPreTokenizer"}, BERT_TABLES),
    "cased": (
        bert(lowercase=False, strip_accents=True, handle_chinese_chars=False, clean_text=False),
        {"type": "BertPreTokenizer"},
        BERT_TABLES,
    ),
    "nfd": ({"type": "NFD"}, byte_level(), (*GPT2_TABLES, *CANONICAL)),
    "nfkc": ({"type": "NFKC"}, {"type": "Whitespace"}, ("words", *COMPATIBLE)),
    "first": (None, metaspace("first"), ()),
    "never": (None, metaspace("never", False), ()),
    "strip": (forms({"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKD"}), None,
              ("space", *COMPATIBLE)),
    "left": ({"type": "Strip", "strip_left": True, "strip_right": False}, None, ("space",)),
    "spaces": (forms(replaced({"Regex": " {2,}"}, " "), replaced({"String": "a"}, "xyz"),
                     replaced({"String": "e"}, "")), None, ()),
    "ends": (forms(replaced({"Regex": r"\A +| +\z"}, ""), replaced({"Regex": r"\Aa"}, "xy")), None, ()),
    "letters": (forms({"type": "NFD"}, {"type": "ByteLevel"}), None, CANONICAL),
    "inverted": (None, split({"Regex": r"\d+|[a-z]+"}, "Removed", True), ("numbers",)),
    "delimiter": (None, {"type": "CharDelimiterSplit", "delimiter": "a"}, ()),
    **{b: (None, {"type": "Punctuation", "behavior": b}, ("punctuation",)) for b in BEHAVIORS},
}  # fmt: skip


def plan(model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    steps = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], **steps, "model": model, **parts}


def same(ours: Tokenizer, library: Library, text: str, pair: str | None = None) -> None:
    """Encoded with and without special tokens, decoded with and without them."""
    for special in (True, False):
        got = ours.encode(text, pair, add_special_tokens=special)
        want = library.encode(text, pair, add_special_tokens=special)
        assert got.ids == want.ids, f"{text!r}: {got.tokens}, the library gives {want.tokens}"
        assert got.tokens == want.tokens, f"{text!r}: {got.tokens}, the library gives {want.tokens}"
        assert got.offsets == want.offsets, f"{text!r}: {got.offsets}, the library gives {want.offsets}"
        assert got.type_ids == want.type_ids
    for special in (True, False):
        decoded = library.decode(got.ids, skip_special_tokens=not special)
        assert ours.decode(got.ids, skip_special_tokens=not special) == decoded, repr(text)


def compared(stated: dict[str, Any], tables: tuple[str, ...], pieces: tuple[str, ...] = ()) -> None:
    ours, library = Tokenizer(stated), Library.from_str(json.dumps(stated))
    library.no_padding()
    library.no_truncation()
    strategy = unicode_tables.texts(tables, pieces)

    @given(strategy, st.none() | strategy)
    def run(text: str, pair: str | None) -> None:
        same(ours, library, text, pair)

    run()


@pytest.mark.parametrize("form", ["NFD", "NFC", "NFKD", "NFKC"])
def test_marks_are_in_the_order_of_their_combining_classes(form: str) -> None:
    """All orders of marks whose classes (220, 230, 202, 1, 240) and code points disagree, after a letter."""
    changes = composed if "C" in form else decomposed
    for marks in itertools.permutations("\u0323\u0301\u0327\u0334\u0345"):
        text = "e" + "".join(marks)
        result = "".join(character for character, _ in changes(text, "K" in form))
        assert result == unicodedata.normalize(form, text), marks


@pytest.mark.parametrize("mode", ["", "?", "+"])
@pytest.mark.parametrize("pattern", ["[a-c]+{}c", "[a-c]*{}c", "bc?{}c", "a(?:bc)?{}b"])
def test_greedy_lazy_and_possessive_repetitions_are_the_library_s(pattern: str, mode: str) -> None:
    pattern = pattern.format(mode)
    library = pre_tokenizers.Split(Regex(pattern), "isolated")
    ours = regex(pattern, "pattern")
    for text in map("".join, itertools.product("abc", repeat=5)):
        want = [span for _, span in library.pre_tokenize_str(text)]
        assert [(at, to) for at, to, _ in ours.matches(text)] == want, text


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("model", [CHARACTERS, WORDS], ids=["characters", "words"])
def test_normalizers_and_pre_tokenizers(name: str, model: dict[str, Any]) -> None:
    normalizer, pre_tokenizer, tables = PIPELINES[name]
    compared(plan(model, normalizer=normalizer, pre_tokenizer=pre_tokenizer), tables)


BYTES = [f"<0x{b:02X}>" for b in range(256)]
SOME = ["<unk>", "▁", *"abcdé", "ab", "bc", "▁a", "abc", "▁ab", "中"]
SMALL = {piece: i for i, piece in enumerate([*SOME, *BYTES])}
MERGES = [["b", "c"], ["a", "b"], ["▁", "a"], ["▁a", "b"], ["a", "bc"]]
SCORED = [
    ["<unk>", 0.0],
    ["▁", -2.0],
    *([c, -4.0] for c in "abcdé"),
    ["ab", -5.0],
    ["bc", -6.5],
    ["abc", -7.0],
]
PREFIXED = ["[UNK]", "a", "ab", "##b", "##bc", "##c", "##a", "abc", "中", "##é"]
MODELS: dict[str, dict[str, Any]] = {
    "fallback": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True, "vocab": SMALL,
                 "merges": MERGES},
    "part of the bytes": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "merges": MERGES,
                          "vocab": {p: i for p, i in SMALL.items() if p in SOME or i % 7}},
    "fused": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "vocab": SMALL, "merges": MERGES},
    "apart": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": False, "vocab": SMALL, "merges": MERGES},
    "nothing for the unknown": {"type": "BPE", "vocab": SMALL, "merges": [" ".join(m) for m in MERGES]},
    "whole words": {"type": "BPE", "unk_token": "<unk>", "ignore_merges": True, "vocab": SMALL,
                    "merges": MERGES},
    "affixes": {"type": "BPE", "unk_token": "x", "continuing_subword_prefix": "##",
                "end_of_word_suffix": "</w>",
                "vocab": {p: i for i, p in enumerate(["x", "a", "##b", "ab", "##b</w>", "ab</w>", "a</w>"])},
                "merges": [["a", "##b"], ["a", "##b</w>"]]},
    "wordpiece": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 12, "vocab": {p: i for i, p in enumerate(PREFIXED)}},
    "unigram": {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": SCORED},
    "unigram in bytes": {"type": "Unigram", "unk_id": 0, "byte_fallback": True,
                         "vocab": [*SCORED, *([b, -9.0] for b in BYTES)]},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    cut = {"type": "WhitespaceSplit"} if name == "wordpiece" else None
    compared(plan(MODELS[name], pre_tokenizer=cut), (), ("ab", "abc", "bc", "▁", "▁ab", "cab", "éé", "aa "))


def added(content: str, number: int, **flags: bool) -> dict[str, Any]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content, **off, **flags}


ADDED = [
    added("<s>", 7, special=True),
    added("<mask>", 8, lstrip=True, special=True),
    added("[END]", 9, rstrip=True, special=True),
    added("ab", 10, single_word=True),
    added("Day", 11, normalized=True),
    added("  ", 12),
    added("É", 13, normalized=True, lstrip=True, rstrip=True),
    added("<s", 14, normalized=True, single_word=True),
]
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 2}}],
    "pair": [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "mm", "type_id": 3}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "special_tokens": {
        "<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]},
        "mm": {"id": "mm", "ids": [8, 8], "tokens": ["<mask>", "<mask>"]},
    },
}
PROCESSORS = {
    "none": None,
    "template": TEMPLATE,
    "bert": {"type": "BertProcessing", "sep": ["<s>", 7], "cls": ["[END]", 9]},
    "roberta": {"type": "RobertaProcessing", "sep": ["<s>", 7], "cls": ["[END]", 9], "trim_offsets": True,
                "add_prefix_space": True},
    "bytes": byte_level(True),
    "untrimmed": byte_level(True, trim=False),
    "sequence": {"type": "Sequence", "processors": [byte_level(), TEMPLATE]},
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("normalizer", [None, {"type": "Lowercase"}, {"type": "ByteLevel"}],
                         ids=["as it is", "lowercase", "bytes"])  # fmt: skip
def test_added_tokens_and_post_processors(name: str, normalizer: dict[str, Any] | None) -> None:
    stated = plan(
        CHARACTERS, normalizer=normalizer, pre_tokenizer=byte_level(True), added_tokens=ADDED,
        post_processor=PROCESSORS[name],
    )  # fmt: skip
    pieces = tuple(token["content"] for token in ADDED)
    compared(stated, (*GPT2_TABLES, "words", "lowercase"), (*pieces, "day", "é", "x<s", "_ab", " <mask>"))


@pytest.mark.parametrize("content", ["<mask>", "[END]", "ab", "É"])
def test_spaces_and_words_beside_an_added_token(content: str) -> None:
    """Each flag, with nothing, spaces or a word on either side, where no other token takes the spaces."""
    tokens = [token | {"content": "zz"} if token["content"] == "  " else token for token in ADDED]
    stated = plan(CHARACTERS, pre_tokenizer=byte_level(True), added_tokens=tokens)
    ours, library = Tokenizer(stated), Library.from_str(json.dumps(stated))
    beside = ("", " ", "  ", " \t ", "a", "a ", " a", "_", "9 ", "é", "[END] ", " <mask>")
    for text in (f"{left}{content}{right}" for left in beside for right in beside):
        same(ours, library, text, None)


DECODERS: dict[str, dict[str, Any]] = {
    "bytes": byte_level(),
    "wordpiece": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "plain wordpiece": {"type": "WordPiece", "prefix": "##", "cleanup": False},
    "metaspace": metaspace("first"),
    "metaspace never": metaspace("never"),
    "suffix": {"type": "BPEDecoder", "suffix": "</w>"},
    "llama2": {"type": "Sequence", "decoders": [replaced({"String": "▁"}, " "), {"type": "ByteFallback"},
               {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "regex": replaced({"Regex": "[ab]+c?"}, "-"),
}  # fmt: skip
PARTS = ["▁", "▁a", "##", "##s", "a</w>", "</w>", ".", " n't", "do", " do not", "Ġ", "Ġa", "Ã", "©", "é",
         "<0xE4>", "<0xB8>", "<0xAD>", "<0x+A>", "<0xFF>", "<0xG1>", "   ", " '", "'", "abc",
         "<0x41>"]  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
@given(ids=st.lists(st.integers(0, len(PARTS) + 1), min_size=1, max_size=12))
def test_decoders(name: str, ids: list[int]) -> None:
    vocabulary = {piece: i for i, piece in enumerate(PARTS)}
    model = {"type": "WordPiece", "unk_token": "▁", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 9, "vocab": vocabulary}  # fmt: skip
    stated = plan(model, decoder=DECODERS[name])
    known = [i for i in ids if i < len(PARTS)] or [0]  # the library panics where nothing is left
    assert Tokenizer(stated).decode([*known, len(PARTS)]) == Library.from_str(json.dumps(stated)).decode(
        known
    )


@pytest.mark.parametrize("kind", text_strategies.KINDS)
def test_trained_tokenizers(kind: str) -> None:
    stated = json.loads(text_strategies.KINDS[kind]().to_str())
    tables = GPT2_TABLES if kind == "byte_level" else ()
    compared(stated, tables, (*text_strategies.CONTROL, *text_strategies.PLAIN, "the cat", "дом", " naïve"))


@pytest.mark.real
def test_the_real_vocabulary_of_smollm2(smollm2_gguf: Path) -> None:
    from tfm.refimpl.checkpoint.formats.gguf import GGUF
    from tfm.refimpl.checkpoint.tokenizers.from_gguf.reader import tokenizer

    text = tokenizer(GGUF(smollm2_gguf).metadata, 49_152, "x")
    assert text is not None
    compared(json.loads(text), (*GPT2_TABLES, "digits"), ("<|im_start|>", "<|im_end|>", " the", "tion", "12"))
    prose(read(text), Library.from_str(text))


@pytest.mark.real
def test_the_real_vocabulary_of_minilm(minilm: Path) -> None:
    stated = load(minilm).definition
    compared(stated, BERT_TABLES, ("[CLS]", "[MASK]", "the", "tion", "un", "12", "naïve"))
    library = Library.from_file(str(minilm / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    prose(load(minilm), library)


def prose(ours: Tokenizer, library: Library) -> None:
    """Long texts of words: the merges of the whole vocabulary, not those of a few characters."""
    rng = random.Random(0)
    pieces = [p for p in ours.tokens.values() if p.isprintable()]
    for _ in range(20):
        same(ours, library, " ".join(rng.choices(pieces, k=200)))


def test_what_is_disputed() -> None:
    """How many characters each pair of tables disagrees on, and that their age is the reason: none was in
    Unicode 3.2, but for four that changed their category since."""
    changed = {"\u166d", "\u1734", "\u1885", "\u1886"}  # P to S, Mn to Mc, Lo to Mn
    counts = {table: len(unicode_tables.disputed(table)) for table in unicode_tables.TABLES}
    for table, count in counts.items():
        old = {c for c in unicode_tables.disputed(table) if unicodedata.ucd_3_2_0.category(c) != "Cn"}
        assert old <= changed, f"{table}: {old - changed}"
        assert count < 12_000, counts
    if unicodedata.unidata_version == "14.0.0":
        assert counts["space"] == 0
        assert max(counts[t] for t in ("numbers", "punctuation", "controls", "canonical", "compatible")) < 200


@pytest.mark.parametrize("text", ["  a \n", "\n a ", "  ", "a  b"])
def test_ends_of_a_text_are_the_librarys(text: str) -> None:
    """A line's end isn't the text's."""
    pattern = r"\A +| +\z"
    parts = regex(pattern, "x").matches(text)
    replaced = "".join("X" if matched else text[begin:end] for begin, end, matched in parts)
    assert replaced == normalizers.Replace(Regex(pattern), "X").normalize_str(text)


@pytest.mark.parametrize("text", ["a", " a", "  a a"])
def test_a_first_word_whose_white_space_is_dropped(text: str) -> None:
    """The library then doesn't take it for the text's first: no mark is put before it."""
    pieces = [["<unk>", 0.0], ["a", -1.0], ["▁a", -1.0], ["▁", -2.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    strip = {"type": "Strip", "strip_left": True, "strip_right": False}
    stated = json.dumps(plan(model, normalizer=strip, pre_tokenizer=metaspace("first")))
    assert read(stated).encode(text).ids == Library.from_str(stated).encode(text).ids
