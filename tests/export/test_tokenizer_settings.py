"""tokenizer.json of a bundle against AutoTokenizer of the directory: the same ids and texts.

Each directory is read as an export reads it, and its tokenizer written as an export writes it; what comes
back is read by the fast library, by the runtime's tokenizer and by the specification's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.refused import refused
from helpers.tokenizer_directories import CLASSES, KINDS, Files, drawn
from helpers.tokenizer_oracle import parts, same_as_transformers
from tfm.export.bundle_writer import write_texts
from tfm.export.tokenizer_text import quick_to_load
from tfm.refimpl.checkpoint import families
from tfm.refimpl.checkpoint.formats.model_directory import Directory
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.checkpoint.tokenizer_files import read_tokenizer, with_special_tokens
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.class_choice import (
    ALIASES,
    ANYWAY,
    GENERIC,
    REGISTERED,
    choose_class,
)
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.classes import CLASSES as CLASSES_BY_NAME
from tfm.refimpl.checkpoint.tokenizers.auto_tokenizer.settings import SettingFiles
from tfm.refimpl.errors import CheckpointError
from tfm.runtime.text.chat_template import ChatTemplate
from tfm.runtime.text.tokenizer import Tokenizer
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM
from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    TOKENIZER_MAPPING_NAMES,
    tokenizer_class_from_name,
)

SEEDS = range(40) if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else (0, 2)


def from_bundle(directory: Path, bundle: Path) -> tuple[str, Mapping[str, str]]:
    """The text of the tokenizer.json that an export of the directory writes, and the named special tokens."""
    found = Directory(directory)
    config = found.object("config.json")
    assert config is not None
    applied = read_tokenizer(found, found.object("tokenizer_config.json") or {}, config)
    assert applied is not None
    bundle.mkdir()
    write_texts(bundle, applied.text, None)
    return (bundle / "tokenizer.json").read_text(encoding="utf-8"), applied.special_tokens


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", range(len(CLASSES)))
def test_drawn_directories(number: int, seed: int, tmp_path: Path) -> None:
    directory = drawn(number, seed).write(tmp_path / "model")
    try:
        reference = AutoTokenizer.from_pretrained(directory)
    except Exception:  # whatever it is: this directory has no meaning
        with pytest.raises(CheckpointError):
            from_bundle(directory, tmp_path / "bundle")
        return
    text, special_tokens = from_bundle(directory, tmp_path / "bundle")
    same_as_transformers(reference, text, special_tokens)


@pytest.mark.parametrize(
    ("model_type", "kind", "name"),
    [
        ("mistral", "bpe", "LlamaTokenizer"),
        ("mistral", "bpe", None),
        ("bert", "wordpiece", None),
        ("bert", "wordpiece", "OwnTokenizer"),
        ("llama", "bytes", "LlamaTokenizer"),
        ("qwen2", "bytes", "PreTrainedTokenizerFast"),
    ],
)
def test_code_of_the_repository_is_passed_over(
    model_type: str, kind: str, name: str | None, tmp_path: Path
) -> None:
    """Where auto_map names a tokenizer, transformers without trust takes the class that is named too."""
    settings = {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}, "tokenizer_class": name}
    definition = json.loads(KINDS[kind]().to_str())
    files = {"config.json": {"model_type": model_type}, "tokenizer.json": definition}
    directory = Files({**files, "tokenizer_config.json": settings}).write(tmp_path / "model")
    library = Library.from_str(from_bundle(directory, tmp_path / "bundle")[0])
    reference = AutoTokenizer.from_pretrained(directory).backend_tokenizer
    assert parts(library, False) == parts(reference, False)


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if image_token is defined %}{{ image_token }}{% endif %}{% if bos_token is defined %}B{% endif %}"
)


@pytest.mark.parametrize(
    ("model_type", "kind", "config"),
    [
        ("llama", "bpe", {"tokenizer_class": "LlamaTokenizer"}),
        ("llama", "bytes", {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ("qwen2", "bytes", {"bos_token": None, "image_token": 'a "quoted" \n token'}),
        ("gpt2", "bytes", {"bos_token": {"__type": "AddedToken", "content": "{{ x }}", "lstrip": True}}),
        ("llama", "bytes", {"model_specific_special_tokens": {"image_token": "<image>"}}),
        ("gemma2", "bpe", {"extra_special_tokens": {"image_token": "<image>"}}),
    ],
)
def test_a_chat_template_has_the_settings_special_tokens(
    model_type: str, kind: str, config: dict[str, Any], tmp_path: Path
) -> None:
    definition = json.loads(KINDS[kind]().to_str())
    files = {"config.json": {"model_type": model_type}, "tokenizer.json": definition}
    directory = Files({**files, "tokenizer_config.json": config}).write(tmp_path / "model")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "there"}]
    reference = AutoTokenizer.from_pretrained(directory)
    want = reference.apply_chat_template(messages, chat_template=TEMPLATE, tokenize=False)
    text, special_tokens = from_bundle(directory, tmp_path / "bundle")
    template = with_special_tokens(TEMPLATE, special_tokens)
    # The ids of generation_config.json give way to the tokenizer's tokens.
    assert ChatTemplate(template, Tokenizer(text, 10**6), bos=5, eos=(6,)).render(messages) == want


def test_a_checkpoint_of_transformers(tmp_path: Path) -> None:
    """An opened checkpoint has what an export writes, and the mask that only its class names."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    definition = json.loads(KINDS["wordpiece"]().to_str())
    config = BertConfig(vocab_size=len(definition["model"]["vocab"]), max_position_embeddings=16, **shape)
    BertForMaskedLM(config).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(definition))
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ cls_token }}{{ messages }}{{ bos_token }}")
    opened = open_checkpoint(tmp_path / "model")
    reference = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert opened.tokenizer is not None
    assert quick_to_load(opened.tokenizer) == from_bundle(tmp_path / "model", tmp_path / "bundle")[0]
    assert opened.tokenizer != json.dumps(definition)
    assert opened.generation.mask == reference.mask_token_id
    assert opened.chat_template is not None
    assert opened.chat_template.startswith(
        '{% set bos_token = undefined_token %}\n{% set cls_token = "[CLS]" %}\n'
    )


def test_every_class_of_transformers_is_known() -> None:
    """A class that makes its own parts is one of ours or refused; a name of none is the generic class's."""
    named = {name.removesuffix("Fast") for name in TOKENIZER_MAPPING_NAMES.values() if name}
    assert len(named) > 50
    for name in sorted({*named, *SLOW_TO_FAST_CONVERTERS}):
        resolved = name
        if name in ALIASES or name not in named:
            made = tokenizer_class_from_name(name)
            assert made is not None
            resolved = made.__name__
        files = SettingFiles("model", {"tokenizer_class": name})
        if resolved == "TokenizersBackend":
            assert choose_class(files, "llama", "") is None
        elif resolved == "DistilBertTokenizer":  # BertTokenizer with another default of model inputs
            assert choose_class(files, "llama", "") is CLASSES_BY_NAME["BertTokenizer"]
        elif resolved in CLASSES_BY_NAME:
            assert choose_class(files, "llama", "") is CLASSES_BY_NAME[resolved]
        else:
            with refused(CheckpointError, "tokenizer_class"):
                choose_class(files, "llama", "")
    assert choose_class(SettingFiles("model", {"tokenizer_class": "OwnTokenizer"}), "llama", "") is None


def test_the_classes_of_the_families() -> None:
    types = families.families().keys()
    registered = {
        model_type: None if name in GENERIC else name
        for model_type, name in TOKENIZER_MAPPING_NAMES.items()
        if model_type
        in types - {"marian", "wav2vec2", "hubert"}  # their vocabularies are of models that hear
    }
    assert registered == REGISTERED
    assert set(ANYWAY) == MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS & types
