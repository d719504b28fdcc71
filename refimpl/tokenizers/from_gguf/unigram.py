"""SentencePiece's Unigram (Kudo 2018) as T5, mT5 and XLM-RoBERTa have it.

Words lie between white space, each with "▁" before it. The file holds the pieces as the models' own
tokenizer.json has them, XLM-RoBERTa's ids included, but for what stands in no SentencePiece model:
T5's sentinels are rows without a name, and XLM-RoBERTa's mask has only its id.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

from .post_processors import doubled, flagged, template
from .vocabulary import BYTE, CONTROL, UNKNOWN, UNUSED, USER, Vocabulary, tokenizer_json

CHARSMAP_BYTES = 2**20  # the rules of NFKC, which all of these models have, take 240 KB


def unigram(vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokenizer.json.

    Only encoders state a number of token types: that tells XLM-RoBERTa's file from T5's, and the
    flags must agree.
    """
    mask = None
    if vocabulary.get("token_type_count", int, None) is None:
        frame = _t5(vocabulary)
    else:
        frame, mask = _xlm_roberta(vocabulary), vocabulary.id("mask", vocabulary.ids.get("<mask>"))
    tokens, types, scores = _pieces(vocabulary, mask)
    if types.count(UNKNOWN) != 1:
        raise vocabulary.fail(f"token_type must be {UNKNOWN} for one token, got {types.count(UNKNOWN)}")
    unknown = types.index(UNKNOWN)
    if (got := vocabulary.get("unknown_token_id", int, unknown)) != unknown:
        raise vocabulary.fail(f"unknown_token_id must be {unknown}, whose type says so, got {got}")
    spaces = {
        "type": "Metaspace", "replacement": "▁", "split": True,
        "prepend_scheme": "always" if _stated(vocabulary, "add_space_prefix") else "never",
    }  # fmt: skip
    fallback = BYTE in types
    return tokenizer_json(
        tokens, types,
        lstrip=[mask],
        normalizer=_rules(vocabulary),
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
        post_processor=frame,
        decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]} if fallback else spaces,
        model={
            "type": "Unigram", "unk_id": unknown, "vocab": list(zip(tokens, scores, strict=True)),
            "byte_fallback": fallback,
        },
    )  # fmt: skip


def _pieces(vocabulary: Vocabulary, mask: int | None) -> tuple[list[str], list[int], list[float]]:
    """Tokens, types and scores as the original has them, without the rows that fill the table up."""
    tokens, types = list(vocabulary.tokens), list(vocabulary.types)
    scores = list(vocabulary.scores())
    if mask is not None and types[mask] == UNUSED:
        if "<mask>" in vocabulary.ids:
            raise vocabulary.fail(f"mask_token_id must be that of <mask>, got {mask}")
        tokens[mask], types[mask], scores[mask] = "<mask>", CONTROL, 0.0
    while types and types[-1] == UNUSED:  # their score would be the least, from which the unknown's follows
        del tokens[-1], types[-1], scores[-1]
    for i, kind in enumerate(types):
        if kind == UNUSED:
            raise vocabulary.fail(f"token_type may be {UNUSED} at the end alone, got it for token {i}")
        if kind == USER:  # which come before all pieces, though the converter puts -1000 there
            scores[i] = 0.0
            types[i] = CONTROL if tokens[i].startswith("<extra_id_") else USER
    return tokens, types, scores


def _stated(vocabulary: Vocabulary, key: str) -> bool:
    found = vocabulary.get(key, bool, None)
    if found is None:
        raise vocabulary.fail(f"{key} must be there: llama.cpp takes another default than SentencePiece")
    return found


def _t5(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """A </s>, and A </s> B </s>, all of segment 0."""
    for flag in ("add_bos_token", "add_sep_token"):
        if vocabulary.get(flag, bool, False):
            raise vocabulary.fail(f"{flag} must be false for T5, which has no token_type_count, got True")
    if not _stated(vocabulary, "remove_extra_whitespaces"):
        raise vocabulary.fail("remove_extra_whitespaces must be true for T5, got False")
    return flagged(vocabulary, bos=False, eos=True, second=0)


def _xlm_roberta(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """<s> A </s></s> B </s>, all of segment 0.

    `remove_extra_whitespaces` isn't looked at: without a SentencePiece model the converter puts
    another flag there.
    """
    cls, sep = doubled(vocabulary, "XLM-RoBERTa")
    single = [(cls, 0), ("A", 0), (sep, 0)]
    return template(vocabulary, single, [*single, (sep, 0), ("B", 0), (sep, 0)])


def _rules(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """The `precompiled_charsmap`, whose bytes the file lists as numbers, signed or not."""
    if vocabulary.get("precompiled_charsmap", list, None) is None:
        return None
    found = vocabulary.listed("precompiled_charsmap", int)
    if not 8 < len(found) <= CHARSMAP_BYTES or not all(-128 <= byte < 256 for byte in found):
        raise vocabulary.fail(f"precompiled_charsmap must be 9 to {CHARSMAP_BYTES} bytes, got {len(found)}")
    data = bytes(byte & 255 for byte in found)
    (size,) = struct.unpack_from("<I", data)
    if size % 4 or not 4 <= size < len(data) - 4:
        raise vocabulary.fail(f"precompiled_charsmap must be longer than its array, {size} bytes")
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
