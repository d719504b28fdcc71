"""A bundle's tokenizer.json: what its new form must mean, by the `tokenizers` library."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from tfm.export.tokenizer_text import quick_to_load

TEXTS = ("Hello hello, world  lo", "", "Ünïcode \U0001f600 ll", "#versione", "a b")


def definition(merges: list[list[str]], **other: Any) -> dict[str, Any]:
    """A byte-level BPE of all bytes and these merges, the latest token first."""
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokens = dict.fromkeys([*sorted(alphabet), *("".join(merge) for merge in merges)])
    vocabulary = {token: id for id, token in reversed([*enumerate(tokens)])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    stated = json.loads(made.to_str())
    stated["model"] |= {"vocab": vocabulary, "merges": merges, **other}
    stated["added_tokens"][0]["id"] = len(vocabulary)
    return stated


def same(text: str, quick: str) -> None:
    one, other = (tokenizers.Tokenizer.from_str(t) for t in (text, quick))
    assert one.get_vocab() == other.get_vocab()
    for sample in TEXTS:
        encoded = one.encode(sample + "<end>")
        assert encoded.ids == other.encode(sample + "<end>").ids
        assert one.decode(encoded.ids) == other.decode(encoded.ids)


MERGES = [["l", "l"], ["l", "o"], ["h", "e"], ["he", "ll"], ["hell", "o"], ["Ġ", "w"]]


def test_tokens_are_sorted_and_merges_are_texts() -> None:
    text = json.dumps(definition(MERGES), indent=1)
    quick = quick_to_load(text)
    same(text, quick)
    model = json.loads(quick)["model"]
    assert [*model["vocab"]] == sorted(model["vocab"])
    assert model["merges"] == ["l l", "l o", "h e", "he ll", "hell o", "Ġ w"]
    assert json.loads(text) == {**json.loads(quick), "model": {**model, "merges": MERGES}}
    assert quick_to_load(quick) == quick
    assert len(tokenizers.Tokenizer.from_str(quick).encode("hello").ids) == 1


@pytest.mark.parametrize("more", [["a ", "b"], ["#version", "e"]])
def test_merges_that_a_text_cannot_state_stay_pairs(more: list[str]) -> None:
    stated = definition([*MERGES, more])
    stated["model"]["vocab"][more[0]] = len(stated["model"]["vocab"]) + 1
    quick = quick_to_load(json.dumps(stated))
    assert json.loads(quick) == stated
    same(json.dumps(stated), quick)


def test_what_may_mean_something_else_is_left_as_it_is() -> None:
    stated = definition(MERGES)
    two_of_one_id = {**stated, "model": {**stated["model"], "vocab": {**stated["model"]["vocab"], "new": 3}}}
    half = {**stated, "model": {**stated["model"], "vocab": {"\ud800": 0}, "merges": []}}
    unigram = {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["b", -1.5], ["a", 0.25]]}}
    odd = (
        {"model": {"vocab": {"b": True, "a": 0}}},
        {"model": {"vocab": {"b": [], "a": 0}}},
        {"model": 1},
        [],
    )
    for one in (two_of_one_id, half, unigram, *odd):
        text = json.dumps(one, indent=1)
        assert quick_to_load(text) == text
    for text in ('{"model": {"vocab": {"b": 0, "b": 1}}}', '{"model": {"vocab": {"b": NaN}}}', "{", ""):
        assert quick_to_load(text) == text


def test_odd_merges_are_left_to_the_reader() -> None:
    for merges in ([["a"]], [["a", 1]], ["a b", ["a", "b"]], {"a": "b"}, None):
        text = json.dumps({"model": {"vocab": {"b": 0, "a": 1}, "merges": merges}})
        assert json.loads(quick_to_load(text))["model"] == {"vocab": {"a": 1, "b": 0}, "merges": merges}
