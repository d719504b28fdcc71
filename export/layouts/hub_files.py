"""The JSON files that libraries look for beside a model of a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...runtime.bundle.bundle import Bundle
from ...runtime.text.tokenizer import Tokenizer


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def pad_id(bundle: Bundle) -> int:
    """The token that fills up the rows of a batch: the first that ends a text, as is usual, else 0."""
    return next(iter(bundle.generation.eos), 0)


def tokenizer_config(bundle: Bundle) -> dict[str, Any] | None:
    """tokenizer_config.json: special tokens and chat template; None where the bundle has no tokenizer.

    The class is the one that takes any tokenizer.json as it is.
    """
    if bundle.tokenizer is None:
        return None
    tokenizer = Tokenizer(bundle.tokenizer, bundle.config.embedding.vocabulary)
    generation = bundle.generation
    ids = {"bos_token": generation.bos, "eos_token": next(iter(generation.eos), None)}
    ids["pad_token"] = pad_id(bundle)
    tokens = {name: tokenizer.id_to_token(id) for name, id in ids.items()}
    stated = {"chat_template": bundle.chat_template, "model_max_length": bundle.config.context}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,  # tokenizer.json does what is to be done
        **{name: value for name, value in (tokens | stated).items() if value},
    }
