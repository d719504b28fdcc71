"""Read SentencePiece's Unigram (Kudo 2018) from GGUF, as T5, mT5 and XLM-RoBERTa use it.

Words are separated by white space and begin with "▁". The file contains the pieces of the model's
tokenizer.json, with XLM-RoBERTa's ids. The file lacks tokens that no SentencePiece model contains: T5's
sentinels are rows without a name, and XLM-RoBERTa's mask has only an id.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np

from .post_processors import bos_eos_template, roberta_ids, template
from .vocabulary import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary, tokenizer_json

CHARSMAP_BYTES = 2**20  # the rules of NFKC, which all of these models have, take 240 KB


def unigram(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the tokenizer.json of a SentencePiece Unigram in a GGUF file.

    Only the files of encoders state a number of token types. So a file with this number has XLM-RoBERTa's
    tokenizer, and a file without it has T5's. Raises CheckpointError if the file's flags don't agree with
    this.
    """
    mask = None
    if vocabulary.get("token_type_count", int, None) is None:
        post_processor = _t5(vocabulary)
    else:
        post_processor, mask = (
            _xlm_roberta(vocabulary),
            vocabulary.token_id("mask", vocabulary.ids.get("<mask>")),
        )
    tokens, types, scores = _pieces(vocabulary, mask)
    if types.count(UNKNOWN) != 1:
        raise vocabulary.fail(f"token_type must be {UNKNOWN} for one token, got {types.count(UNKNOWN)}")
    unknown = types.index(UNKNOWN)
    if (got := vocabulary.get("unknown_token_id", int, unknown)) != unknown:
        raise vocabulary.fail(f"unknown_token_id must be {unknown}, the token of type unknown, got {got}")
    spaces = {
        "type": "Metaspace", "replacement": "▁", "split": True,
        "prepend_scheme": "always" if _get_flag(vocabulary, "add_space_prefix") else "never",
    }  # fmt: skip
    fallback = BYTE in types
    return tokenizer_json(
        tokens, types,
        lstrip=[mask],
        normalizer=_normalizer(vocabulary),
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
        post_processor=post_processor,
        decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]} if fallback else spaces,
        model={
            "type": "Unigram", "unk_id": unknown, "vocab": list(zip(tokens, scores, strict=True)),
            "byte_fallback": fallback,
        },
    )  # fmt: skip


def _pieces(vocabulary: Vocabulary, mask: int | None) -> tuple[list[str], list[int], list[float]]:
    """Return the tokens, types and scores of the original tokenizer, without the rows that only pad the
    embedding.
    """
    tokens, types = list(vocabulary.tokens), list(vocabulary.types)
    scores = list(vocabulary.scores())
    if mask is not None and types[mask] == UNUSED:
        if "<mask>" in vocabulary.ids:
            raise vocabulary.fail(f"mask_token_id must be the id of <mask>, got {mask}")
        tokens[mask], types[mask], scores[mask] = "<mask>", CONTROL, 0.0
    while (
        types and types[-1] == UNUSED
    ):  # their score would be the lowest, which the unknown token's depends on
        del tokens[-1], types[-1], scores[-1]
    for i, kind in enumerate(types):
        if kind == UNUSED:
            raise vocabulary.fail(
                f"token_type may be {UNUSED} (unused) only for the last tokens, got {UNUSED} for token {i}"
            )
        if kind == USER_DEFINED:  # the original has 0, the converter writes -1000
            scores[i] = 0.0
            types[i] = CONTROL if tokens[i].startswith("<extra_id_") else USER_DEFINED
    return tokens, types, scores


def _get_flag(vocabulary: Vocabulary, key: str) -> bool:
    flag = vocabulary.get(key, bool, None)
    if flag is None:
        raise vocabulary.fail(
            f"{key} is missing, but must be set: llama.cpp and SentencePiece have different defaults"
        )
    return flag


def _t5(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Return T5's template: A </s> for one text, and A </s> B </s> for a pair, both of segment 0."""
    for flag in ("add_bos_token", "add_sep_token"):
        if vocabulary.get(flag, bool, False):
            raise vocabulary.fail(f"{flag} must be false for T5, which has no token_type_count, got True")
    if not _get_flag(vocabulary, "remove_extra_whitespaces"):
        raise vocabulary.fail("remove_extra_whitespaces must be true for T5, got False")
    return bos_eos_template(vocabulary, bos=False, eos=True, second=0)


def _xlm_roberta(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Return XLM-RoBERTa's template: <s> A </s> for one text, and <s> A </s></s> B </s> for a pair, both of
    segment 0.

    The file's `remove_extra_whitespaces` is ignored, because without a SentencePiece model the converter
    writes another flag there.
    """
    cls, sep = roberta_ids(vocabulary, "XLM-RoBERTa")
    single = [(cls, 0), ("A", 0), (sep, 0)]
    return template(vocabulary, single, [*single, (sep, 0), ("B", 0), (sep, 0)])


def _normalizer(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Return the normalizer that the file's `precompiled_charsmap` states, or None if the file has none. The
    charsmap is an array of signed or unsigned bytes.
    """
    if not vocabulary.has("precompiled_charsmap"):
        return None
    values = vocabulary.get_numbers("precompiled_charsmap", int)
    if not 8 < len(values) <= CHARSMAP_BYTES or not ((values >= -128) & (values < 256)).all():
        raise vocabulary.fail(f"precompiled_charsmap must be 9 to {CHARSMAP_BYTES} bytes, got {len(values)}")
    data = values.astype(np.uint8).tobytes()
    (size,) = struct.unpack_from("<I", data)
    if size % 4 or not 4 <= size < len(data) - 4:
        raise vocabulary.fail(f"precompiled_charsmap must be longer than its array of {size} bytes")
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
