"""Vocabularies from before tokenizer.json: what is refused, by name, and what isn't one.

tests/export/test_vocabulary_files.py compares the others with AutoTokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_models
from helpers.refused import refused
from helpers.vocabulary_directories import spm
from tfm.refimpl.checkpoint.formats.model_directory import Directory
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.tokenizer_files import read_tokenizer
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.apply import AppliedTokenizer
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.vocabulary_files import of_lines
from tfm.refimpl.errors import CheckpointError

GPT2, LLAMA = {"tokenizer_class": "GPT2Tokenizer"}, {"tokenizer_class": "LlamaTokenizer"}


def applied(folder: Path, files: dict[str, bytes], config: dict[str, Any]) -> AppliedTokenizer | None:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return read_tokenizer(Directory(folder), config, {"model_type": "llama"})


@pytest.mark.parametrize(
    ("files", "config", "words"),
    [
        ({"vocab.json": b"[]"}, GPT2, "vocab.json 0"),
        ({"vocab.json": b'{"a": "b"}'}, GPT2, "vocab.json 0"),
        ({"vocab.json": b'{"a": -1}'}, GPT2, "vocab.json 0"),
        ({"vocab.json": b'{"a": 0}'}, GPT2, "merges.txt"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a\n"}, GPT2, "tokens 'a'"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a b c\n"}, GPT2, "tokens 'a b c'"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a b\n\nb a"}, GPT2, "tokens ''"),
        ({"vocab.txt": b"\xff"}, {"tokenizer_class": "BertTokenizer"}, "UTF-8"),
        ({"tokenizer.model": b"IQ== 0\n"}, LLAMA, "tokenizer.model SentencePiece"),
        ({"tokenizer.model": spm("t5")}, LLAMA, "BPE"),
        ({"spiece.model": spm("bpe")}, {"tokenizer_class": "T5Tokenizer"}, "Unigram"),
        ({"spiece.model": spm("t5")}, {"tokenizer_class": "ReformerTokenizer"}, "tokenizer_class"),
    ],
)
def test_refused(tmp_path: Path, files: dict[str, bytes], config: dict[str, Any], words: str) -> None:
    with refused(CheckpointError, *words.split()):
        applied(tmp_path, files, config)


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    """Nothing there, files of another class, and ids that are vocab.json's and not the model's."""
    assert applied(tmp_path, {}, {}) is None
    assert applied(tmp_path, {"vocab.txt": b"a\n"}, GPT2) is None
    assert applied(tmp_path, {"vocab.json": b"{}", "source.spm": spm("t5")}, {}) is None
    assert read_tokenizer(Directory(tmp_path), {}, {"model_type": "marian"}) is None


def test_lines_of_a_vocabulary() -> None:
    """White space at a line's end isn't the token's, nor a carriage return, and the last line wins."""
    assert of_lines("[UNK]\r\na \n##b\x1c\n\u3000\n a\na", "x").tokens == {
        "[UNK]": 0, "a": 5, "##b\x1c": 2, "": 3, " a": 4,
    }  # fmt: skip


def test_a_checkpoint_has_the_tokenizer_as_a_tokenizer_json(tmp_path: Path) -> None:
    config = tiny_models.llama()
    save_checkpoint(tmp_path, config, tiny_models.weights(config))
    (tmp_path / "tokenizer.model").write_bytes(spm("bpe"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**LLAMA, "add_bos_token": True}))
    opened = open_checkpoint(tmp_path)
    assert opened.tokenizer is not None
    definition = json.loads(opened.tokenizer)
    assert definition["model"]["byte_fallback"] is True
    assert definition["post_processor"]["single"][0] == {"SpecialToken": {"id": "<s>", "type_id": 0}}
    assert "tokenizer.model" in opened.files


@pytest.mark.parametrize(
    ("name", "file", "data", "flags", "around"),
    [
        ("CodeLlama", "tokenizer.model", spm("bpe"), {}, ["<s>", "A"]),
        ("CodeLlama", "tokenizer.model", spm("bpe"), {"add_eos_token": True}, ["<s>", "A", "</s>"]),
        ("CodeLlama", "tokenizer.model", spm("bpe"), {"add_bos_token": False}, ["A"]),
        ("Llama", "tokenizer.model", spm("bpe"), {}, ["A"]),
        ("GPTNeoX", "vocab.json", b'{"<|endoftext|>": 0}', {"add_bos_token": True}, ["<|endoftext|>", "A"]),
        ("Albert", "spiece.model", spm("albert"), {}, ["[CLS]", "A", "[SEP]"]),
        ("Albert", "spiece.model", spm("albert"), {"add_bos_token": True}, ["[CLS]", "A"]),
        ("T5", "spiece.model", spm("t5"), {"add_bos_token": True, "add_eos_token": False}, ["A", "</s>"]),
    ],
)
def test_tokens_around_a_text(
    tmp_path: Path, name: str, file: str, data: bytes, flags: dict[str, bool], around: list[str]
) -> None:
    """The flags say them where the class has no template of its own, as in transformers."""
    config = {**flags, "tokenizer_class": f"{name}Tokenizer"}
    made = applied(tmp_path, {file: data, "merges.txt": b""}, config)
    assert made is not None
    template = json.loads(made.text)["post_processor"]["single"]
    assert [next(iter(part.values()))["id"] for part in template] == around
