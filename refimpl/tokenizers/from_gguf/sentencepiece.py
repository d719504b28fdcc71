"""SentencePiece's BPE (Kudo & Richardson 2018): "▁" for a space, unknown letters as bytes.

The file gives no merges: they follow from the pieces' scores.
"""

from __future__ import annotations

from typing import Any

from .post_processors import flagged
from .vocabulary import BYTE, CONTROL, UNKNOWN, Vocabulary, tokenizer_json

LONGEST_PIECE = 256  # SentencePiece's own limit is 16; merges are found by all cuts of a piece
# Phi-3's added tokens take white space after them along, but for these.
PHI3 = ("<unk>", "<s>", "<|endoftext|>")


def sentencepiece(vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokenizer.json, with a space before the text unless the file denies it, as Gemma's does."""
    tokens, types = vocabulary.tokens, vocabulary.types
    prefix = vocabulary.get("add_space_prefix", bool, True)
    phi3 = vocabulary.architecture == "phi3"
    eager = [i for i, token in enumerate(tokens) if phi3 and token not in PHI3]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    start = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    return tokenizer_json(
        tokens, types,
        rstrip=eager,
        normalizer={"type": "Sequence", "normalizers": [*start, space]},
        pre_tokenizer=None,
        post_processor=flagged(vocabulary, bos=True, eos=False),
        decoder={"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        model={
            "type": "BPE", "dropout": None,
            "unk_token": next((tokens[i] for i, kind in enumerate(types) if kind == UNKNOWN), None),
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": BYTE in types, "ignore_merges": False, "vocab": vocabulary.ids,
            "merges": _merges(vocabulary),
        },
    )  # fmt: skip


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every cut of a piece into two, best score first; of one piece's cuts the longest left first."""
    found = []
    for token, kind, score in zip(vocabulary.tokens, vocabulary.types, vocabulary.scores(), strict=True):
        if kind in (CONTROL, UNKNOWN, BYTE):
            continue
        if len(token) > LONGEST_PIECE:
            raise vocabulary.fail(f"tokens may have {LONGEST_PIECE} letters, got {token!r:.40}")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary.ids and right in vocabulary.ids:
                found.append((score, len(left), left, right))
    found.sort(key=lambda merge: merge[:2], reverse=True)
    return [(left, right) for _, _, left, right in found]
