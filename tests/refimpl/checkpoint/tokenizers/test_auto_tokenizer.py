"""Settings beside tokenizer.json: those that are refused, by name, and those that change nothing.

tests/export/test_tokenizer_settings.py compares the others with AutoTokenizer.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_models
from helpers.refused import pattern, refused
from helpers.tokenizer_directories import KINDS
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.apply import AppliedTokenizer, apply_settings
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.settings import SettingFiles
from tfm.refimpl.errors import CheckpointError

TEXTS = {kind: make().to_str() for kind, make in KINDS.items()}
MBART = {"tokenizer_class": "MBartTokenizer"}
MBART50 = {"tokenizer_class": "MBart50Tokenizer"}


def applied(kind: str, model_type: str, config: Any, **files: Any) -> AppliedTokenizer:
    return apply_settings(TEXTS[kind], SettingFiles("model", config, **files), model_type)


@pytest.mark.parametrize(
    ("kind", "model_type", "config", "words"),
    [
        ("bytes", "llama", {"split_special_tokens": True}, "split_special_tokens false"),
        ("bytes", "mistral", {"fix_mistral_regex": True}, "fix_mistral_regex false"),
        ("bytes", "llama", {"init_inputs": [1]}, "init_inputs"),
        ("bytes", "llama", {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, "tokenizer.json"),
        ("wordpiece", "bert", {"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class"),
        ("wordpiece", "bert", {"tokenizer_class": 5}, "tokenizer_class 5"),
        ("bytes", "llama", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map"),
        ("bytes", "llama", {"auto_map": ["a.B", None]}, "auto_map"),
        ("unigram", "gpt2", {}, "GPT2Tokenizer BPE 'Unigram'"),
        ("bytes", "bert", {}, "BertTokenizer WordPiece 'BPE'"),
        ("bytes", "llama", {"bos_token": 5}, "bos_token 5"),
        ("bytes", "llama", {"bos_token": {"content": "<s>"}}, '"__type" "AddedToken"'),
        ("bytes", "llama", {"bos_token": {"__type": "AddedToken", "content": 1}}, "content"),
        ("bytes", "llama", {"extra_special_tokens": {"x": 1}}, "extra_special_tokens.x"),
        ("bytes", "llama", {"additional_special_tokens": "<s>"}, "tokens '<s>'"),
        ("bytes", "llama", {"additional_special_tokens": [1]}, "extra_special_tokens"),
        ("bytes", "llama", {"model_specific_special_tokens": ["<s>"]}, "object"),
        ("bytes", "llama", {"added_tokens_decoder": []}, "added_tokens_decoder"),
        ("bytes", "llama", {"added_tokens_decoder": {"x": {}}}, "token 'x'"),
        ("bytes", "llama", {"added_tokens_decoder": {"1": {"content": "a", "x": 1}}}, "object"),
        ("bytes", "llama", {"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}}, "lstrip 1"),
        ("bytes", "llama", {"clean_up_tokenization_spaces": "yes"}, "clean_up_tokenization_spaces 'yes'"),
        ("wordpiece", "bert", {"do_lower_case": "yes"}, "do_lower_case 'yes'"),
        ("wordpiece", "bert", {"strip_accents": 1}, "strip_accents 1"),
        ("wordpiece", "bert", {"unk_token": None}, "unk_token null"),
        ("wordpiece", "bert", {"cls_token": "[C:S]"}, "colon"),
        ("bytes", "roberta", {"sep_token": None}, "sep_token null"),
        ("bytes", "gpt2", {"add_prefix_space": None}, "add_prefix_space None"),
        ("unigram", "t5", {"eos_token": None}, "eos_token null"),
        (
            "unigram",
            "mbart",
            {**MBART, "extra_special_tokens": [], "src_lang": "ar_AR", "unk_token": ""},
            "unk_token",
        ),
        ("unigram", "t5", {"extra_ids": -1}, "extra_ids -1"),
        ("unigram", "pegasus", {"unk_token": "the"}, "'the' 0"),
        ("unigram", "mbart", {**MBART, "src_lang": "xx"}, "src_lang en_XX"),
        ("unigram", "mbart", {**MBART50, "src_lang": 1}, "src_lang 1"),
    ],
)
def test_refused(kind: str, model_type: str, config: dict[str, Any], words: str) -> None:
    with refused(CheckpointError, *words.split()) as caught:
        applied(kind, model_type, config)
    assert str(caught.value).startswith("model/tokenizer")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"special_tokens_map": {"add_bos_token": True}}, "add_bos_token True"),
        ({"special_tokens_map": {"bos_token": {"id": 1}}}, "bos_token"),
        ({"special_tokens_map": {"extra_special_tokens": {"x": 1}}}, "extra_special_tokens.x"),
        (
            {"special_tokens_map": {"additional_special_tokens": [{"content": "<s>"}]}},
            "additional_special_tokens",
        ),
        ({"added_tokens": {"<s>": "5"}}, "added_tokens.json '<s>' '5'"),
    ],
)
def test_older_files_that_are_refused(files: dict[str, Any], words: str) -> None:
    with refused(CheckpointError, *words.split()):
        applied("bytes", "llama", {}, **files)


def test_sentinels_of_t5_are_all_named_or_none() -> None:
    listed = {"additional_special_tokens": ["<extra_id_0>"]}
    with refused(CheckpointError, "extra_ids", "(100)", 1):
        applied("unigram", "t5", {}, special_tokens_map=listed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ([], "JSON"),
        ({"model": 3}, "model.vocab"),
        ({"model": {"type": "BPE", "vocab": 3}}, "model.vocab"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}}}, "'a' 0 -1"),
        ({"added_tokens": [3]}, "added_tokens[0] 3"),
        ({"added_tokens": 3}, "added_tokens 3"),
        ({"model": {"type": "BPE", "vocab": [["a", 0.0]]}}, "model.vocab BPE"),
    ],
)
def test_a_file_that_says_nothing(change: Any, words: str) -> None:
    definition = {**json.loads(TEXTS["bytes"]), **change} if isinstance(change, dict) else change
    with refused(CheckpointError, *words.split()):
        apply_settings(json.dumps(definition), SettingFiles("model", {}), "gpt2")


def test_languages_must_be_pieces() -> None:
    definition = json.loads(TEXTS["unigram"])
    pieces = definition["model"]["vocab"]
    definition["model"]["vocab"] = [
        piece for piece in pieces if "_XX" not in piece[0] and "_RO" not in piece[0]
    ]
    with refused(CheckpointError, "en_XX"):
        apply_settings(json.dumps(definition), SettingFiles("model", MBART50), "mbart")
    definition["model"]["vocab"] = pieces[:3]
    with refused(CheckpointError, 3, "unknown", 3):
        apply_settings(json.dumps(definition), SettingFiles("model", MBART), "mbart")


HARMLESS = {
    "add_bos_token": True, "add_eos_token": True, "model_max_length": 3, "do_lower_case": False,
    "legacy": True, "padding_side": "left", "add_prefix_space": True, "from_slow": True, "bos_token": None,
    "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ x }}", "fix_mistral_regex": True,
    "split_special_tokens": False,
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_what_changes_nothing_leaves_the_file_as_it_is(kind: str) -> None:
    assert applied(kind, "llama", HARMLESS).text is TEXTS[kind]
    assert applied(kind, "llama", {**HARMLESS, "unk_token": "<s>"}, added_tokens={}).text is not None


def test_a_class_that_makes_what_the_file_says_leaves_it_as_it_is() -> None:
    text = json.dumps(json.loads(applied("wordpiece", "bert", {}).text), indent=1)
    assert apply_settings(text, SettingFiles("model", {}), "bert").text is text


def test_a_step_that_the_class_leaves_out_is_noted() -> None:
    """transformers 5 rebuilds GPT2Tokenizer's pre-tokenizer without the Digits that SmolLM2 needs."""
    definition = json.loads(TEXTS["bytes"])
    steps = [{"type": "Digits", "individual_digits": True}, definition["pre_tokenizer"]]
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    text = json.dumps(definition)
    rebuilt = apply_settings(text, SettingFiles("model", {"tokenizer_class": "GPT2Tokenizer"}), "llama")
    assert "Digits" not in rebuilt.text
    assert re.search(pattern("Digits", "GPT2Tokenizer"), rebuilt.notes[0])
    kept = apply_settings(
        text, SettingFiles("model", {"tokenizer_class": "PreTrainedTokenizerFast"}), "llama"
    )
    assert (kept.text, kept.notes) == (text, ())


def test_marian_has_its_ids_from_tokenizer_json() -> None:
    assert applied("unigram", "marian", {"eos_token": "<more>"}).text is TEXTS["unigram"]


def test_a_checkpoint_has_its_tokenizer_and_template_with_the_settings(tmp_path: Path) -> None:
    """A directory as transformers writes it: capitals kept, and the template knows the tokens."""
    config = tiny_models.llama()
    save_checkpoint(tmp_path, config, tiny_models.weights(config), TEXTS["bytes"])
    settings = {"additional_special_tokens": ["<more>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    opened = open_checkpoint(tmp_path)
    assert opened.tokenizer is not None
    assert json.loads(opened.tokenizer)["added_tokens"][-1]["content"] == "<more>"
