"""Read the tokenizer of a model directory: tokenizer.json, changed by the settings in the files beside it.

If there is no tokenizer.json, tfm makes one from the vocabulary files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .formats.model_directory import Directory
from .formats.sentencepiece_model import read_sentencepiece
from .tokenizers.auto_tokenizer.apply import AppliedTokenizer, apply_settings, tokenizer_of
from .tokenizers.auto_tokenizer.class_choice import choose_class
from .tokenizers.auto_tokenizer.classes import TokenizerClass
from .tokenizers.auto_tokenizer.settings import SettingFiles
from .tokenizers.auto_tokenizer.tekken import of_tekken
from .tokenizers.auto_tokenizer.vocabulary_files import (
    MERGES,
    VOCAB_JSON,
    VOCAB_TXT,
    Vocabulary,
    of_lines,
    of_merges,
    of_sentencepiece,
)

TEMPLATE_TOKENS = ("bos_token", "eos_token")  # those that a chat template has without settings
TOKENIZER_MODEL, TEKKEN = "tokenizer.model", "tekken.json"
VOCABULARIES = (
    TOKENIZER_MODEL, VOCAB_TXT, VOCAB_JSON, "spiece.model", "sentencepiece.bpe.model", "spm.model"
)  # fmt: skip
# Their ids are those of vocab.json and not of the SentencePiece model, which no tokenizer.json can say.
WITH_OTHER_IDS = ("marian", "m2m_100", "nllb-moe")


def read_tokenizer(
    directory: Directory, tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]
) -> AppliedTokenizer | None:
    """Return a directory's tokenizer as AutoTokenizer reads it, or None if the directory has no tokenizer.

    `config` contains the keys of config.json. Raises CheckpointError for the same reasons as
    `apply_settings`.
    """
    files = SettingFiles(
        str(directory.path),
        tokenizer_config,
        directory.object("special_tokens_map.json"),
        directory.object("added_tokens.json"),
        config.get("tokenizer_class"),
    )
    model_type = str(config.get("model_type"))
    if (text := directory.text("tokenizer.json")) is not None:
        return apply_settings(text, files, model_type)
    if (text := directory.text(TEKKEN)) is not None:
        definition, named = of_tekken(text, str(directory.path / TEKKEN))
        applied = apply_settings(json.dumps(definition, ensure_ascii=False), files, model_type)
        return replace(applied, special_tokens={**named, **applied.special_tokens})
    if model_type in WITH_OTHER_IDS or not any(map(directory.find, VOCABULARIES)):
        return None
    made_by = choose_class(files, model_type, "")
    vocabulary = _vocabulary(directory, made_by)
    return None if vocabulary is None else tokenizer_of(vocabulary, files, model_type, made_by)


def unread_tokenizer(directory: Directory, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note if a directory without a tokenizer.json has a vocabulary file that tfm doesn't read."""
    if str(config.get("model_type")) not in WITH_OTHER_IDS or directory.find(VOCAB_JSON) is None:
        return ()
    return (
        "the model reads only token ids, not texts: no tokenizer.json can combine the ids of vocab.json with "
        "the pieces of a SentencePiece model",
    )


def missing_template(directory: Directory, templates: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note if tekken.json comes without a chat template.

    tfm can't choose a template from the version in tekken.json, because chat models and base models, which
    only continue a text, have the same file.
    """
    if templates or TEKKEN not in directory.files:
        return ()
    return (
        "tekken.json has no chat template: to chat, put chat_template.jinja from the model's repository "
        "in the same folder",
    )


def _vocabulary(directory: Directory, made_by: TokenizerClass | None) -> Vocabulary | None:
    """Read the vocabulary file that a tokenizer class uses. Return None if the file doesn't exist."""
    kind = None if made_by is None else made_by.model
    for name in (TOKENIZER_MODEL, *(() if made_by is None else (made_by.file,))):
        if (file := directory.find(name)) is None:
            continue
        where = str(directory.path / name)
        if name.endswith(".model"):
            return of_sentencepiece(read_sentencepiece(file), kind)
        text = directory.text(name) or ""
        if name == VOCAB_TXT:
            return of_lines(text, where)
        return of_merges(text, directory.text(MERGES), where)
    return None


def with_special_tokens(template: str, special_tokens: Mapping[str, str]) -> str:
    """Return a chat template that begins by setting the special tokens which it uses. Other tokens are
    undefined.

    transformers takes the values of these tokens from its tokenizer, but a bundle doesn't have the
    tokenizer's files.
    """
    names = {*special_tokens, *TEMPLATE_TOKENS}
    used = sorted(name for name in names if re.search(rf"\b{re.escape(name)}\b", template))
    lines = ""
    for name in used:
        value = "undefined_token"
        if name in special_tokens:
            value = json.dumps(special_tokens[name], ensure_ascii=False)
        lines += f"{{% set {name} = {value} %}}\n"  # the end of the line is trimmed with the block
    return lines + template
