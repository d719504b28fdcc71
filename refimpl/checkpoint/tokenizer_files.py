"""The tokenizer of a model directory: tokenizer.json, with what the files beside it say written into it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..formats.model_directory import Directory
from ..tokenizers.auto_tokenizer.apply import AppliedTokenizer, apply_settings
from ..tokenizers.auto_tokenizer.settings import SettingFiles

TEMPLATE_TOKENS = ("bos_token", "eos_token")  # those that a chat template has without settings


def read_tokenizer(
    directory: Directory, tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]
) -> AppliedTokenizer | None:
    """The tokenizer of a directory as AutoTokenizer reads it, None where there is no tokenizer.json.

    `config` is the object of config.json. Raises CheckpointError as `apply_settings` does.
    """
    text = directory.text("tokenizer.json")
    if text is None:
        return None
    files = SettingFiles(
        str(directory.path),
        tokenizer_config,
        directory.object("special_tokens_map.json"),
        directory.object("added_tokens.json"),
        config.get("tokenizer_class"),
    )
    return apply_settings(text, files, str(config.get("model_type")))


def with_special_tokens(template: str, special_tokens: Mapping[str, str]) -> str:
    """A chat template that sets the special tokens it uses; one that has no value stays undefined.

    transformers fills them in from its tokenizer, whose files a bundle doesn't have.
    """
    names = {*special_tokens, *TEMPLATE_TOKENS}
    used = sorted(name for name in names if re.search(rf"\b{re.escape(name)}\b", template))
    lines = ""
    for name in used:
        value = "undefined_token"
        if name in special_tokens:
            value = json.dumps(special_tokens[name], ensure_ascii=False)
        lines += f"{{% set {name} = {value} +%}}"
    return lines + template
