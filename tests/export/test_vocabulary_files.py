"""Directories without tokenizer.json against AutoTokenizer: the same ids and texts, from a tokenizer.json."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.tokenizer_oracle import same_as_transformers
from helpers.vocabulary_directories import DIRECTORIES, write
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.formats.model_directory import Directory
from tfm.refimpl.checkpoint.tokenizer_files import read_tokenizer, unread_tokenizer
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.apply import AppliedTokenizer
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.class_choice import choose_class
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.settings import SettingFiles
from tfm.refimpl.checkpoint.tokenizers.tokenizer import read
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.text.tokenizer import Tokenizer
from transformers import AutoTokenizer

SEEDS = range(40) if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else (0, 1, 2)


def cases() -> Iterator[Any]:
    """Each directory without settings and with some; one of each vocabulary and class runs by default."""
    seen = set()
    for number, (model_type, name, kind) in enumerate(DIRECTORIES):
        made_by = choose_class(SettingFiles("model", {"tokenizer_class": name}), model_type, "")
        pair = (kind, None if made_by is None else made_by.name)
        for seed in SEEDS:
            rare = seed > 1 or pair in seen
            yield pytest.param(number, seed, marks=pytest.mark.long if rare else ())
        seen.add(pair)


def applied(directory: Path) -> AppliedTokenizer | None:
    found = Directory(directory)
    return read_tokenizer(
        found, found.object("tokenizer_config.json") or {}, found.object("config.json") or {}
    )


@pytest.mark.parametrize(("number", "seed"), list(cases()))
def test_drawn_directories(number: int, seed: int, tmp_path: Path) -> None:
    directory = write(number, seed, tmp_path / "model")
    try:
        reference = AutoTokenizer.from_pretrained(directory)
    except Exception:  # whatever it is: this directory has no meaning
        assert seed, "a directory without settings is read"
        with pytest.raises(CheckpointError):
            applied(directory)
        return
    made = applied(directory)
    assert made is not None
    same_as_transformers(reference, made.text, made.special_tokens)


SPECIAL = ["<cls>", "<pad>", "<eos>", "<unk>", "<mask>"]


@pytest.mark.parametrize(
    "tokens",
    [
        [*SPECIAL, *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>"],
        [*SPECIAL, "ACG", "CGTA", "TT", *"ACGTN", "a b|"],
    ],
    ids=["proteins", "genes"],
)
def test_a_vocabulary_of_esm(tokens: list[str], tmp_path: Path) -> None:
    """The longest tokens wherever they stand; that class of transformers is Python, so it has no parts."""
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    (tmp_path / "config.json").write_text('{"model_type": "esm"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')
    reference, made = AutoTokenizer.from_pretrained(tmp_path), applied(tmp_path)
    assert made is not None
    assert made.special_tokens == reference.special_tokens_map
    specified, ours = read(made.text), Tokenizer(made.text, len(tokens))
    pieces = [*tokens, *("  ", "\n", "J", "mk", "<", "MKTVRQERLKS", "ACGTTACGTA", "*|", "\u3000", "0" * 101)]
    texts = st.lists(st.sampled_from(pieces), max_size=8).map("".join)

    @settings(max_examples=30)
    @given(texts, st.none() | texts)
    def compare(first: str, second: str | None) -> None:
        want = reference(first, second)["input_ids"]
        assert specified.encode(first, second).ids == want
        assert ours.encode_template(first) == reference(first, add_special_tokens=False)["input_ids"]
        assert ours.decode(want) == reference.decode(want, skip_special_tokens=True)

    compare()


def test_a_vocabulary_that_no_tokenizer_json_can_say_has_a_note(tmp_path: Path) -> None:
    marian = {"model_type": "marian"}
    assert unread_tokenizer(Directory(tmp_path), marian) == ()
    (tmp_path / "vocab.json").write_text("{}")
    [note] = unread_tokenizer(Directory(tmp_path), marian)
    assert "not texts" in note
    assert read_tokenizer(Directory(tmp_path), {}, marian) is None
    assert unread_tokenizer(Directory(tmp_path), {"model_type": "gpt2"}) == ()
