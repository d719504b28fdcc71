"""Characters on which the tables of Python's `unicodedata` and of the `tokenizers` library disagree.

Python 3.11 has Unicode 14. The library carries five tables: Oniguruma (patterns; newer), Rust's own (white
space, numbers, lowercase; newer), the crate `regex` (words; newer), `unicode-normalization-alignments`
(normal forms, combining marks; about Unicode 9) and `unicode_categories` (punctuation, controls,
nonspacing marks; Unicode 8). A character assigned or changed between two of them is treated otherwise
by the other, rightly on both sides. Each property below is asked of both for every code point, so
the set is found and not guessed; tests draw texts without the characters of the tables that are in play.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache

from hypothesis import strategies as st
from tfm.refimpl.checkpoint.tokenizers import character_classes
from tokenizers import Regex, normalizers, pre_tokenizers

# Planes 4 to 13 are empty in every version, 15 and 16 are private.
CODES = [c for c in (*range(0x40000), *range(0xE0000, 0xF0000)) if not 0xD800 <= c <= 0xDFFF]
CHUNK = 50_000
# Characters that some rule is about, among them marks of three classes, composed and decomposed.
TELLING = (
    "aAzéÉ 　\t\n\r'12²½٣.,!?$_-中文日本кирилицаİßΣςĳﬁ각각e\u0301\u0327\u0323\u0345"
    "\u200d\u200b\ufeff😀👍🏽ſ\x00\ufffd\xa0\x85"
)


def _normalized(normalize: Callable[[str], str], ours: Callable[[str], str], apart: str = "\n") -> set[str]:
    """Characters that a normalizer treats differently than `ours`."""
    results: set[str] = set()
    for start in range(0, len(CODES), CHUNK):
        part = [chr(c) for c in CODES[start : start + CHUNK] if chr(c) != apart]
        for character, got in zip(part, normalize(apart.join(part)).split(apart), strict=True):
            if got != ours(character):
                results.add(character)
    return results


def _removed(pre_tokenizer: pre_tokenizers.PreTokenizer, ours: Callable[[str], bool]) -> set[str]:
    """Characters that a pre-tokenizer removes where `ours` says no, or the reverse."""
    results: set[str] = set()
    for start in range(0, len(CODES), CHUNK):
        part = "".join(map(chr, CODES[start : start + CHUNK]))
        kept = {c for _, (a, b) in pre_tokenizer.pre_tokenize_str(part) for c in part[a:b]}
        results |= {c for c in part if (c in kept) == ours(c)}
    return results


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "removed")


def _category(*names: str) -> Callable[[str], bool]:
    return lambda c: unicodedata.category(c) in names or unicodedata.category(c)[0] in names


def _bert(**options: bool) -> Callable[[str], str]:
    off = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    return normalizers.BertNormalizer(**{**off, **options}).normalize_str


def _clean(character: str) -> str:
    if character in "\0\ufffd" or character_classes.is_control(character):
        return ""
    return " " if character_classes.is_space(character) else character


def _unaccented(character: str) -> str:
    return "".join(
        c for c in unicodedata.normalize("NFD", character) if not character_classes.is_nonspacing(c)
    )


def _unmarked(character: str) -> str:
    return "" if character_classes.is_mark(character) else character


def _neither(character: str) -> bool:
    return not (character_classes.is_word(character) or character_classes.is_space(character))


def _of_category(name: str) -> set[str]:
    return _removed(_split(rf"\p{{{name}}}"), _category(name))


def _order() -> set[str]:
    """Marks of another combining class: classes 1, 230 and 240 beside them tell."""
    nfd, marks = normalizers.NFD().normalize_str, [c for c in map(chr, CODES) if unicodedata.combining(c)]
    results: set[str] = set()
    for context in ("a\u0345{}", "a{}\u0334", "a{}\u0301", "a\u0301{}"):
        results |= {c for c in marks if nfd(t := context.format(c)) != unicodedata.normalize("NFD", t)}
    return results


def _form(name: str) -> set[str]:
    normalize = getattr(normalizers, name)().normalize_str
    return _normalized(normalize, lambda c: unicodedata.normalize(name, c))


TABLES: dict[str, Callable[[], set[str]]] = {
    "letters": lambda: _removed(_split(r"\p{L}"), _category("L")),
    "numbers": lambda: _removed(_split(r"\p{N}"), _category("N")),
    "cases": lambda: set().union(*map(_of_category, ("Lu", "Lt", "Lm", "Lo", "Ll", "M"))),
    "space": lambda: _removed(pre_tokenizers.WhitespaceSplit(), character_classes.is_space),
    "digits": lambda: _isolated(pre_tokenizers.Digits(individual_digits=True), character_classes.is_number),
    "words": lambda: _isolated(pre_tokenizers.Whitespace(), _neither),
    "punctuation": lambda: _removed(pre_tokenizers.Punctuation("removed"), character_classes.is_punctuation),
    "lowercase": lambda: _normalized(normalizers.Lowercase().normalize_str, str.lower),
    "marks": lambda: _normalized(normalizers.StripAccents().normalize_str, _unmarked),
    "nonspacing": lambda: _normalized(_bert(strip_accents=True), _unaccented),
    "controls": lambda: _normalized(_bert(clean_text=True), _clean, "a"),
    "canonical": lambda: _form("NFD") | _form("NFC") | _order(),
    "compatible": lambda: _form("NFKD") | _form("NFKC"),
}  # fmt: skip


def _isolated(pre_tokenizer: pre_tokenizers.PreTokenizer, ours: Callable[[str], bool]) -> set[str]:
    """Characters that a pre-tokenizer separates from letters where `ours` doesn't, or the reverse."""
    results: set[str] = set()
    for start in range(0, len(CODES), CHUNK):
        part = [chr(c) for c in CODES[start : start + CHUNK]]
        cuts = pre_tokenizer.pre_tokenize_str("a" + "a".join(part) + "a")
        alone = {c for c, (a, b) in cuts if b - a == 1 and a % 2}
        results |= {c for c in part if (c in alone) != ours(c)}
    return results


@cache
def disputed(table: str) -> frozenset[str]:
    """The characters on which one pair of tables disagrees."""
    return frozenset(TABLES[table]())


def texts(tables: Iterable[str], pieces: Iterable[str] = (), most: int = 24) -> st.SearchStrategy[str]:
    """Texts of any Unicode without lone surrogates and without the characters disputed in `tables`, mixed
    with `pieces`."""
    without = frozenset().union(*map(disputed, tables))
    anything = st.characters(exclude_categories=("Cs",), exclude_characters=without)
    kept = [*(c for c in TELLING if c not in without), *pieces]
    one = st.sampled_from(kept) | st.sampled_from(kept) | anything
    return st.lists(one, max_size=most).map("".join)
