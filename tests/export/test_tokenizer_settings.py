"""tokenizer.json of a bundle against AutoTokenizer of the directory: the same ids and texts.

Each directory is read as an export reads it, and its tokenizer written as an export writes it; what comes
back is read by the fast library, by the runtime's tokenizer and by the specification's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.gguf_tokenizers import TEXT
from helpers.tokenizer_directories import CLASSES, CONTENTS, KINDS, Files, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.export.bundle_writer import write_texts
from tfm.refimpl import families
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.checkpoint.tokenizer_files import read_tokenizer, with_special_tokens
from tfm.refimpl.errors import CheckpointError
from tfm.refimpl.formats.model_directory import Directory
from tfm.refimpl.tokenizers.auto_tokenizer.class_choice import (
    ALIASES,
    ANYWAY,
    GENERIC,
    REGISTERED,
    choose_class,
)
from tfm.refimpl.tokenizers.auto_tokenizer.classes import CLASSES as CLASSES_BY_NAME
from tfm.refimpl.tokenizers.auto_tokenizer.settings import SettingFiles
from tfm.refimpl.tokenizers.tokenizer import read
from tfm.runtime.text.chat_template import ChatTemplate
from tfm.runtime.text.tokenizer import DecodeStream, Tokenizer
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM
from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    TOKENIZER_MAPPING_NAMES,
    tokenizer_class_from_name,
)

SEEDS = range(40) if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else (0, 2)
# Latin, Greek, Cyrillic, Arabic, Devanagari, Thai, kana, Han, Hangul, marks, white space, emoji: all of them
# as old as the oldest Unicode table in play.
RANGES = (
    (0x20, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x627, 0x64A), (0x905, 0x939), (0xE01, 0xE2E),
    (0x3041, 0x3093), (0x4E00, 0x4E20), (0xAC00, 0xAC20), (0x300, 0x315), (0x9, 0xD), (0x1F600, 0x1F610),
)  # fmt: skip
ALPHABET = [
    chr(code) for first, last in RANGES for code in range(first, last + 1) if code not in (0x3A2, 0xAD)
]
PIECES = [
    *TEXT, *CONTENTS, "the", "The", "THE cat", "naïve", "  ", " 12", "a ' s", " n't", "do n't", " .", " ?!",
    "<image>", "<audio>", "<extra_id_0>", "<extra_id_2>", "<unk_2>", "Ａ", "\u3000", "\n\n", "en_XX",
    "ro_RO", "<0x41>", "<a>",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(st.sampled_from(ALPHABET), max_size=8), max_size=5).map(
    "".join
)


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


def parts(tokenizer: Library, clean_up: bool) -> dict[str, Any]:
    """What tokenizer.json would say of it, but for the batches' sections."""
    stated = json.loads(tokenizer.to_str())
    for key in ("padding", "truncation", *(["decoder"] if clean_up else [])):
        del stated[key]
    for token in stated["added_tokens"]:
        del token["special"]  # the library forgets that a token was special, but still leaves it out
    if stated["post_processor"] == NOTHING_AROUND:
        stated["post_processor"] = None
    return stated


NOTHING_AROUND = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


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
    library, specified = Library.from_str(text), read(text)
    library.no_padding()
    library.no_truncation()
    ours = Tokenizer(text, 10**6)
    assert special_tokens == reference.special_tokens_map or not reference.special_tokens_map
    cleaned = bool(reference.clean_up_tokenization_spaces)
    assert parts(library, cleaned) == parts(reference.backend_tokenizer, cleaned)

    @settings(max_examples=5)
    @given(TEXTS, st.none() | TEXTS)
    def compare(first: str, second: str | None) -> None:
        try:
            reference(first + (second or ""), add_special_tokens=False)
        except Exception as error:  # the unknown token that the settings name isn't in the vocabulary
            with pytest.raises(Exception, match=re.escape(str(error))):
                library.encode(first + (second or ""), add_special_tokens=False)
            return
        for special in (True, False):
            want = reference(first, second or None, add_special_tokens=special)["input_ids"]
            got = library.encode(first, second or None, add_special_tokens=special)
            assert got.ids == want
            assert specified.encode(first, second or None, add_special_tokens=special).ids == want
        bare = reference(first, add_special_tokens=False)["input_ids"]
        assert ours.encode_template(first) == bare
        if ours.encode(first) == bare:
            assert ours.with_special_tokens(bare) == reference(first)["input_ids"]
        for skip in (True, False):
            decoded = reference.decode(want, skip_special_tokens=skip)
            assert library.decode(want, skip_special_tokens=skip) == decoded
            assert specified.decode(want, skip_special_tokens=skip) == decoded
        assert ours.decode(want) == reference.decode(want, skip_special_tokens=True)
        stream = DecodeStream(ours)
        assert "".join([*map(stream.push, bare), stream.finish()]) == ours.decode(bare)

    compare()


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
    assert opened.tokenizer == from_bundle(tmp_path / "model", tmp_path / "bundle")[0]
    assert opened.tokenizer != json.dumps(definition)
    assert opened.generation.mask == reference.mask_token_id
    assert opened.chat_template is not None
    assert opened.chat_template.startswith(
        '{% set bos_token = undefined_token +%}{% set cls_token = "[CLS]" +%}'
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
            with pytest.raises(CheckpointError, match="tokenizer_class must be one of"):
                choose_class(files, "llama", "")
    assert choose_class(SettingFiles("model", {"tokenizer_class": "OwnTokenizer"}), "llama", "") is None


def test_the_classes_of_the_families() -> None:
    types = families.families().keys()
    registered = {
        model_type: None if name in GENERIC else name
        for model_type, name in TOKENIZER_MAPPING_NAMES.items()
        if model_type in types - {"marian"}
    }
    assert registered == REGISTERED
    assert set(ANYWAY) == MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS & types
