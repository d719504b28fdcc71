"""Text to ids and back: no user text is control, streams are what decoding at once gives, no panic leaks."""

from __future__ import annotations

import json
import os

import pytest
import tokenizers
from helpers import text_strategies
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.clean_up import cleaned_up
from tfm.refimpl.errors import CheckpointError, LimitError
from tfm.runtime.text import tokenizer as module
from tfm.runtime.text.chat_template import ChatTemplate
from tfm.runtime.text.tokenizer import DecodeStream, Tokenizer
from tokenizers import models
from transformers import PreTrainedTokenizerBase

MADE = {name: make() for name, make in text_strategies.KINDS.items()}
OURS = {name: Tokenizer(made.to_str(), 1000) for name, made in MADE.items()}
CONTROL = [*text_strategies.CONTROL, "<tool_call>"]
PIECES = st.lists(
    st.sampled_from([*CONTROL, "    ", "the cat ", "<", "/", "s>", "😀", "é", "\n"]) | st.text(max_size=5)
)


def test_half_a_character_is_refused_by_name() -> None:
    """A surrogate, in a text and in a message of a chat."""
    ours = next(iter(OURS.values()))
    words = "surrogate '\\udcff' character 3 UTF-8"
    with refused(LimitError, *words.split()):
        ours.encode("ab\udcff")
    template = ChatTemplate("{{ messages[0].content }}", ours)
    with refused(LimitError, *words.split()):
        template.encode([{"role": "user", "content": "ab\udcff"}])


@pytest.mark.parametrize("name", MADE)
def test_user_text_is_never_control(name: str) -> None:
    ours, made = OURS[name], MADE[name]
    forbidden = {made.token_to_id(token) for token in CONTROL}
    assert set(ours.control_tokens) == set(CONTROL)

    @given(PIECES)
    def run(pieces: list[str]) -> None:
        text = "".join(pieces)
        ids = ours.encode(text)
        assert not forbidden & set(ids), f"{text!r} gave control tokens: {ids}"
        whole = made.encode(text, add_special_tokens=False).ids
        if not forbidden & set(whole):
            assert ids == whole, f"{text!r} gave {ids}, the library gives {whole}"
        if name == "byte_level":  # it can spell everything
            assert ours.decode(ids) == text

    run()


@pytest.mark.parametrize("name", MADE)
def test_stream_is_decode(name: str) -> None:
    ours = OURS[name]
    # Single bytes, cut characters and control tokens among ordinary ids.
    ids = st.lists(st.integers(0, MADE[name].get_vocab_size() - 1), max_size=12)

    @given(st.text(max_size=12), ids)
    def run(text: str, more: list[int]) -> None:
        given_ids = [*ours.encode(text), *(more if name == "byte_level" else [])]
        stream = DecodeStream(ours)
        pieces = [stream.push(number) for number in given_ids]
        assert not any(piece.endswith("\ufffd") for piece in pieces)
        assert "".join([*pieces, stream.finish()]) == ours.decode(given_ids)

    run()


def test_a_character_comes_when_its_last_byte_does() -> None:
    ours = OURS["byte_level"]
    ids = ours.encode("a😀b")
    stream = DecodeStream(ours)
    assert [p for p in map(stream.push, ids) if p] == ["a", "😀", "b"]
    cut = DecodeStream(ours)
    assert "".join(map(cut.push, ids[:3])) == "a"
    assert "\ufffd" in cut.finish()


def test_begin_token_where_asked() -> None:
    ours, made = OURS["byte_level"], MADE["byte_level"]
    assert ours.encode("the <s>", add_special_tokens=True)[0] == made.token_to_id("<s>")
    assert ours.encode("the", add_special_tokens=True) == made.encode("the").ids
    assert ours.encode("the") == made.encode("the", add_special_tokens=False).ids


def test_ids_stay_in_the_vocabulary() -> None:
    text = MADE["byte_level"].to_str()
    with refused(CheckpointError, "vocabulary", "10"):
        Tokenizer(text, 10).encode("the cat")


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{}",
        "[" * 100,
        json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}),
        json.dumps({"model": {"type": "Unigram", "vocab": [], "unk_id": 7}, "added_tokens": []}),
    ],
)
def test_broken_files_are_one_error(broken: str, capfd: pytest.CaptureFixture[str]) -> None:
    with refused(CheckpointError, "tokenizer.json"):
        Tokenizer(broken, 10)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("affix", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_bytes_of_affixes_are_no_tokens(affix: str) -> None:
    """The library puts them beyond the text's end, where no character of a user's text is."""
    definition = json.loads(text_strategies.sentencepiece().to_str())
    definition["model"] |= {affix: "@", "merges": []}
    with refused(CheckpointError, affix):
        Tokenizer(json.dumps(definition), 400).encode("the <s> é")


def test_panic_is_an_error_and_ctrl_c_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    class Panic(BaseException):
        """Like pyo3's PanicException, which is no Exception."""

    def fail(error: BaseException) -> None:
        with module.convert_errors("can't be tried"):
            os.write(2, b"thread '<unnamed>' panicked")
            raise error

    with refused(CheckpointError, "boom"):
        fail(Panic("boom"))
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert capfd.readouterr().err == ""
    os.write(2, b"after")
    assert capfd.readouterr().err == "after", "stderr must come back"


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.LIMITS, "text", 3)
    with refused(LimitError, "3", "characters", "4"):
        OURS["byte_level"].encode("abcd")
    monkeypatch.setitem(module.LIMITS, "tokenizer.json", 3)
    with refused(LimitError, "tokenizer.json", "3", "characters", "4"):
        Tokenizer("abcd", 10)


def test_a_control_token_of_one_character_is_refused() -> None:
    made = text_strategies.unigram()
    made.add_special_tokens(["|"])
    with refused(LimitError, "control", "'|'"):
        Tokenizer(made.to_str(), 1000).encode("a|b")


READERS = {
    "wordpiece": (text_strategies.wordpiece, "[MASK]"),
    "roberta": (text_strategies.roberta, "<mask>"),
    "sentencepiece": (text_strategies.sentencepiece, "<s>"),  # characters that merge to "</s>" are kept apart
}


@pytest.mark.parametrize("name", READERS)
def test_texts_and_pairs_are_read_as_the_library_reads_them(name: str) -> None:
    made = READERS[name][0]()
    ours = Tokenizer(made.to_str(), 1000)
    words = st.sampled_from(["the cat", " is", "catting", "é.", "  ", "x,y", "不", "Is it?"])
    some = st.lists(words, max_size=5).map("".join)

    @given(some, st.none() | some)
    def run(text: str, pair: str | None) -> None:
        want = made.encode(text, pair)
        got = ours.encode_with_offsets(text, pair)
        assert (got.ids, got.type_ids, got.sequence_ids) == (want.ids, want.type_ids, want.sequence_ids)
        assert (got.offsets, got.word_ids) == (want.offsets, want.word_ids)
        assert ours.encode(text, add_special_tokens=True) == made.encode(text).ids

    run()


@pytest.mark.parametrize("name", READERS)
def test_the_places_of_a_text_that_names_control_tokens(name: str) -> None:
    make, mask = READERS[name]
    made = make()
    ours = Tokenizer(made.to_str(), 1000)
    forbidden, around = set(ours.control_tokens.values()), made.encode("", "").ids
    some = st.lists(st.sampled_from(["cat ", mask, *list(ours.control_tokens)[:4], "'", "\n"]), max_size=6)

    @given(some, some)
    def run(one: list[str], two: list[str]) -> None:
        a, b = "".join(one), "".join(two)
        got = ours.encode_with_offsets(a, b, control_token=mask)
        own = [i for i, text in enumerate(got.sequence_ids) if text is not None]
        masks = [i for i in own if got.ids[i] in forbidden]
        assert {got.ids[i] for i in masks} <= {made.token_to_id(mask)}
        assert len(masks) == (*one, *two).count(mask)
        for i in masks:
            start, end = got.offsets[i]
            assert (a, b)[got.sequence_ids[i] or 0][start:end].strip() == mask
        for text, whole in enumerate((a, b)):
            told = {c for i in own if got.sequence_ids[i] == text for c in range(*got.offsets[i])}
            assert all(i in told or c.isspace() for i, c in enumerate(whole)), (whole, got)
        assert [got.ids[i] for i in range(len(got.ids)) if i not in own] == around
        plain = ours.encode_with_offsets(a, b)
        pairs = zip(plain.ids, plain.sequence_ids, strict=True)
        assert not forbidden & {number for number, text in pairs if text is not None}

    run()


def test_what_comes_before_a_text_is_what_the_library_puts_there() -> None:
    """A begin token, [CLS] without the [SEP] behind the text, and nothing."""
    made = text_strategies.wordpiece()
    assert Tokenizer(made.to_str(), 1000).before_text == [made.token_to_id("[CLS]")]
    assert OURS["byte_level"].before_text == [MADE["byte_level"].token_to_id("<s>")]
    assert OURS["unigram"].before_text == MADE["unigram"].encode("").ids


def test_a_processor_that_changes_the_order_of_a_pair_is_refused() -> None:
    made = text_strategies.wordpiece()
    made.post_processor = tokenizers.processors.TemplateProcessing("$A", "$B [SEP] $A", [("[SEP]", 3)])
    ours = Tokenizer(made.to_str(), 1000)
    assert ours.encode_with_offsets("the cat").ids == made.encode("the cat").ids
    with refused(CheckpointError, "text", "whole", "order"):
        ours.encode_with_offsets("the", "cat")


# Random characters seldom make what is replaced, and what is replaced in two steps.
CLEANED = st.lists(st.sampled_from([*" .?!,'ntmsver", " n ' t", " ' ve", "  ' s"]), max_size=6).map("".join)


@given(CLEANED)
def test_a_stream_that_cleans_up_gives_what_decoding_at_once_gives(text: str) -> None:
    """One token a character: spaces around punctuation go when the tokens after them are there."""
    made = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), *((c, -1.0) for c in " .?!,'ntmsver")], 0))
    definition = json.loads(made.to_str())
    definition["decoder"] = cleaned_up({"type": "Fuse"})
    tokenizer = Tokenizer(json.dumps(definition), 100)
    ids = tokenizer.encode(text)
    stream = DecodeStream(tokenizer)
    assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)
    # It needs nothing of the object.
    assert tokenizer.decode(ids) == PreTrainedTokenizerBase.clean_up_tokenization(object(), text)
