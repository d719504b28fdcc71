"""Rewrite a tokenizer.json into the form that the `tokenizers` library loads fastest."""

from __future__ import annotations

import json
from typing import Any

from ..refimpl.checkpoint.formats.strict_json import parse
from ..refimpl.errors import CheckpointError
from ..runtime.bundle.manifest import TOKENIZER


def quick_to_load(text: str) -> str:
    """Return an equal tokenizer.json that loads faster. Tokens are in the order of their bytes, and each
    merge is one text, "left right".

    The library puts tokens into a search tree, and copies merges twice if they are written as pairs. With
    this form, SmolLM2's tokenizer loads in 48 ms instead of 80, and takes 19 MB less.

    The text is returned unchanged if the new text might mean something else: if tfm's reader can't parse the
    text as JSON, or if two tokens have the same id.
    """
    try:
        definition = parse(text, TOKENIZER)
    except CheckpointError:
        return text
    model = definition.get("model") if isinstance(definition, dict) else None
    if not isinstance(model, dict) or not isinstance(vocabulary := model.get("vocab"), dict):
        return text  # Unigram's vocabulary is a list
    ids = vocabulary.values()
    if not all(type(id) is int for id in ids) or len(set(ids)) < len(ids):
        return text
    model["vocab"] = dict(sorted(vocabulary.items()))
    if "merges" in model:
        model["merges"] = _as_texts(model["merges"])
    quick = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    return quick if _is_unicode(quick) else text


def _as_texts(merges: Any) -> Any:
    """Return a tokenizer's merges as texts "left right".

    The merges are returned unchanged if one isn't a pair of tokens, if a token contains a space, or if a text
    would begin with "#version". The library ignores a text with this beginning, because a merges.txt begins
    so.
    """
    if not isinstance(merges, list):
        return merges
    for merge in merges:
        is_pair = isinstance(merge, list) and [type(token) for token in merge] == [str, str]
        if not is_pair or " " in merge[0] + merge[1] or merge[0].startswith("#version"):
            return merges
    return [" ".join(merge) for merge in merges]


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8. JSON can state half of a surrogate pair, but UTF-8
    can't.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
