"""Read BERT's WordPiece from GGUF. The file writes "▁" before tokens that begin a word, and drops the "##" of
all other tokens.
"""

from __future__ import annotations

from typing import Any

from .post_processors import template
from .vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, tokenizer_json


def wordpiece(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the tokenizer.json of a WordPiece in a GGUF file, with "##" put back.

    Older converters didn't write whether the model lowercases texts, and llama.cpp always lowercased them. So
    the default is to lowercase. Raises CheckpointError if a token has capitals although the model
    lowercases.
    """
    lower = vocabulary.get("normalizer.lowercase", bool, True)
    tokens, types = list(vocabulary.tokens), vocabulary.types
    for i, kind in enumerate(types):
        if kind not in (CONTROL, UNKNOWN, USER_DEFINED):
            if lower and tokens[i] != tokens[i].lower():
                raise vocabulary.fail(f"tokens must have no capitals, got {tokens[i]!r:.40}")
            tokens[i] = tokens[i][1:] if tokens[i].startswith("▁") else f"##{tokens[i]}"
    ids = {token: i for i, token in enumerate(tokens)}
    for token, *keys in (("[CLS]", "cls", "bos"), ("[SEP]", "seperator", "eos"), ("[UNK]", "unknown")):
        for key in (f"{name}_token_id" for name in keys):
            if token not in ids or vocabulary.get(key, int, ids[token]) != ids[token]:
                raise vocabulary.fail(f"{key} must be the id of {token}, which must be a token")
    single = [(ids["[CLS]"], 0), ("A", 0), (ids["[SEP]"], 0)]
    return tokenizer_json(
        tokens, types,
        normalizer={
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": vocabulary.get("normalizer.strip_accents", bool, None), "lowercase": lower,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=template(vocabulary, single, [*single, ("B", 1), (ids["[SEP]"], 1)]),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids,
        },
    )  # fmt: skip
