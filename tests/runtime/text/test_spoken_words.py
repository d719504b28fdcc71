"""Tokens become transformers' words, in languages with spaces and without."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from helpers.text_strategies import byte_level
from hypothesis import example, given
from hypothesis import strategies as st
from tfm.runtime.text.spoken_words import spoken_words
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

TOKENIZER = byte_level()
SIZE = TOKENIZER.get_vocab_size()
PARTS = st.sampled_from(
    [" a", "b", "'s", " (", "[", '"', ".", ",", "。", " 東", "京", "é", "🙂", " ", "\n", "ing", "-", "“"]
)


def decode(ids: object, **_: object) -> str:
    return TOKENIZER.decode(ids)  # pyright: ignore[reportArgumentType]


@given(st.lists(PARTS, max_size=12).map("".join), st.integers(0, 3), st.booleans())
@example(" (a).", 0, True)
@example("🙂", 2, False)
def test_words_are_transformers(text: str, cut: int, spaces: bool):
    """Of a text that may begin and end within a character."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    ids = ids[cut // 2 : len(ids) - cut % 2]
    theirs = SimpleNamespace(decode=decode, eos_token_id=SIZE, language=None)
    language = "english" if spaces else "japanese"
    words, _, places = _combine_tokens_into_words(theirs, ids, language)
    assert spoken_words(ids, decode, spaces=spaces) == [*zip(words, places, strict=True)]


@given(st.lists(st.sampled_from(["a ", " b", " (", ".", "'"]), max_size=6))
@example(["a ", "."])
def test_punctuation_behind_a_space_is_a_word(pieces: list[str]):
    """As transformers has it; each token is one of these pieces."""

    def decode(ids: Sequence[int], **_: object) -> str:
        return "".join(pieces[i] for i in ids)

    ids = [*range(len(pieces))]
    theirs = SimpleNamespace(decode=decode, eos_token_id=len(ids), language=None)
    words, _, places = _combine_tokens_into_words(theirs, ids, "english")
    assert spoken_words(ids, decode, spaces=True) == [*zip(words, places, strict=True)]


def test_a_token_of_no_text_is_no_word():
    pieces = ["", " a"]
    assert spoken_words([0, 1], lambda ids: "".join(pieces[i] for i in ids), spaces=True) == [(" a", [1])]
