"""tekken.json alone: the ids of transformers, with `<s>` before a text, and what is refused.

Compared apart with mistral-common itself over the two real files in it: 1,047 texts, no other id.
"""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from helpers import mutators, tiny_models
from helpers.gguf_tokenizers import TEXT, learned, mixed
from helpers.text_strategies import byte_tokenizer
from helpers.user_tokenizers import TEXTS
from tfm.refimpl.checkpoint.formats.model_directory import Directory
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.tokenizer_files import read_tokenizer
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.apply import AppliedTokenizer
from tfm.refimpl.checkpoint.tokenizers.normalizers import BYTE_TO_UNICODE
from tfm.refimpl.errors import CheckpointError, LimitError
from tfm.runtime.tasks.base import expect_template
from tfm.runtime.text.tokenizer import Tokenizer
from transformers import AutoTokenizer

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[THINK]")
BYTES = {character: byte for byte, character in BYTE_TO_UNICODE.items()}


def tekken(**changes: Any) -> dict[str, Any]:
    """A file as Mistral writes it: more tokens than the model has, and room for special tokens."""
    vocabulary, _ = learned()
    tokens = [bytes(BYTES[c] for c in token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]
    tokens.insert(400, b"zqzqz")  # a word that no merges make
    return {
        "config": {"pattern": PATTERN, "num_vocab_tokens": len(tokens), "default_vocab_size": 900,
                   "default_num_special_tokens": 30, "version": "v11"},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
                  for i, token in enumerate(tokens)],
        "special_tokens": [{"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(SPECIAL)],
        **changes,
    }  # fmt: skip


def applied(folder: Path, stated: Any, config: dict[str, Any] | None = None) -> AppliedTokenizer:
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral3"}))
    (folder / "tekken.json").write_text(json.dumps(stated))
    made = read_tokenizer(Directory(folder), config or {}, {"model_type": "mistral3"})
    assert made is not None
    return made


def test_texts_have_the_ids_of_transformers(tmp_path: Path) -> None:
    ours = Tokenizer(applied(tmp_path, tekken()).text, 900)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert ours.get_vocab() == theirs.get_vocab()
    begin = ours.token_to_id("<s>")
    assert ours.decode(ours.encode("zqzqz")[:1]) == "zqzqz"
    for text in ["zqzqz zqzqzz", *TEXT, *TEXTS, *mixed(300)]:
        want = theirs.encode(text, add_special_tokens=False)
        if not set(want) & set(range(30)):
            assert ours.encode(text, add_special_tokens=True) == [begin, *want]
        assert ours.encode_template(text) == want
        assert ours.decode(want) == theirs.decode(want, skip_special_tokens=True)
    marks = "[INST]a[/INST][THINK]<SPECIAL_29>"
    assert ours.encode_template(marks) == theirs.encode(marks, add_special_tokens=False)
    assert not set(ours.encode(marks)) & set(range(30))


def test_its_special_tokens_have_names(tmp_path: Path) -> None:
    """Those that are there; settings beside it say more, and others."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    assert applied(tmp_path, tekken()).special_tokens == names
    config = {"eos_token": "[/INST]", "tokenizer_class": "LlamaTokenizerFast"}
    assert applied(tmp_path, tekken(), config).special_tokens == {**names, "eos_token": "[/INST]"}
    few = applied(tmp_path, tekken(special_tokens=[{"rank": 0, "token_str": "<pad>"}]))
    assert few.special_tokens == {"pad_token": "<pad>"}
    assert Tokenizer(few.text, 900).encode("a", add_special_tokens=True) == Tokenizer(few.text, 900).encode(
        "a"
    )


def test_older_files_state_no_special_tokens(tmp_path: Path) -> None:
    stated = tekken()
    del stated["special_tokens"]
    made = Tokenizer(applied(tmp_path, stated).text, 900)
    ids = {"<s>": 1, "[INST]": 3, "<pad>": 11, "[TOOL_CONTENT]": 19, "<SPECIAL_20>": 20}
    assert {token: made.token_to_id(token) for token in ids} == ids


def test_a_tokenizer_json_comes_first(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_tokenizer())
    assert applied(tmp_path, tekken()).text == byte_tokenizer()


def test_no_chat_template_is_made_of_it(tmp_path: Path) -> None:
    """Which file to add is said when the model is opened, and when somebody chats."""
    config = tiny_models.llama(vocabulary=900)
    save_checkpoint(tmp_path, config, tiny_models.weights(config))
    (tmp_path / "tekken.json").write_text(json.dumps(tekken()))
    opened = open_checkpoint(tmp_path)
    assert opened.tokenizer is not None
    assert [note for note in opened.notes if "chat_template.jinja" in note]
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        expect_template(opened)
    (tmp_path / "chat_template.jinja").write_text("[INST]")
    opened = open_checkpoint(tmp_path)
    assert (expect_template(opened), opened.notes) == ("[INST]", ())


VOCAB = tekken()["vocab"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"config": None}, "config.pattern"),
        ({"config": {}}, "config.pattern"),
        ({"config": {"pattern": "a", "default_vocab_size": "9"}}, "default_vocab_size"),
        ({"config": {"pattern": "a", "default_num_special_tokens": 2**40}}, "default_num_special_tokens"),
        ({"config": {"pattern": "a", "default_num_special_tokens": 3}}, "special_tokens"),
        ({"config": {"pattern": "a", "default_vocab_size": 100}}, "vocab"),
        ({"special_tokens": 5}, "special_tokens"),
        ({"special_tokens": [{"rank": 0}]}, "special_tokens"),
        ({"special_tokens": [{"rank": 1, "token_str": "a"}]}, "special_tokens"),
        ({"special_tokens": [{"rank": i, "token_str": "a"} for i in range(2)]}, "special_tokens"),
        ({"vocab": {}}, "vocab"),
        ({"vocab": VOCAB[1:]}, r"vocab\[0\]"),
        ({"vocab": [*VOCAB[:256], 5]}, r"vocab\[\d+\]"),
        ({"vocab": [{"rank": 0, "token_bytes": "?"}]}, r"vocab\[0\]"),
        ({"vocab": VOCAB[:255]}, "vocab"),
        ({"vocab": [*VOCAB[:256], {"rank": 256, "token_bytes": VOCAB[0]["token_bytes"]}]}, "vocab"),
    ],
)  # fmt: skip
def test_what_is_refused_names_its_key(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"tekken\.json: {key} "):
        applied(tmp_path, tekken(**changes))


def test_changed_files_are_read_or_refused(tmp_path: Path) -> None:
    sound = json.dumps(tekken(vocab=VOCAB[:300])).encode()
    rng, refused = random.Random(0), 0
    for _ in range(150):
        (tmp_path / "tekken.json").write_bytes(mutators.json_text(sound, rng))
        try:
            made = read_tokenizer(Directory(tmp_path), {}, {"model_type": "mistral3"})
            assert made is not None
            Tokenizer(made.text, 10**6).encode("a text")
        except (CheckpointError, LimitError):
            refused += 1
    assert 30 < refused < 150
