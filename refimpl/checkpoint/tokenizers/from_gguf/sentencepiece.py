"""Read SentencePiece's BPE (Kudo & Richardson 2018) from GGUF. This BPE writes "▁" for a space, and unknown
characters as bytes.

The file contains no merges, because they follow from the scores of the pieces. Only Gemma 4's file contains
merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .post_processors import bos_eos_template
from .vocabulary import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, tokenizer_json

LONGEST_PIECE = 256  # SentencePiece's own limit is 16; merges are found by splitting a piece in all ways
# All added tokens of Phi-3 but these include the white space after them.
PHI3 = ("<unk>", "<s>", "<|endoftext|>")


def sentencepiece(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the tokenizer.json of a SentencePiece BPE in a GGUF file. A space is put before the text, unless
    the file says otherwise, as Gemma's files do.
    """
    _spell_spaces(vocabulary)
    return _definition(vocabulary, _merges(vocabulary), prefix=vocabulary.get("add_space_prefix", bool, True))


def gemma4(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the tokenizer.json of Gemma 4. No space is put before the text, and the merges are in the
    file.
    """
    if vocabulary.get("add_space_prefix", bool, False):
        raise vocabulary.fail("add_space_prefix must be false for gemma4, got True")
    return _definition(vocabulary, vocabulary.merges(), prefix=False)


def _spell_spaces(vocabulary: Vocabulary) -> None:
    """Write user-defined pieces with spaces, because they are looked for in the text before spaces become
    "▁". Files from before July 2024 spell them with "▁".
    """
    spelled = [token.replace("▁", " ") for token in vocabulary.tokens]
    vocabulary.tokens = [
        new if kind == USER_DEFINED and new not in vocabulary.ids else token
        for new, kind, token in zip(spelled, vocabulary.types, vocabulary.tokens, strict=True)
    ]
    vocabulary.ids = {token: i for i, token in enumerate(vocabulary.tokens)}


def _definition(vocabulary: Vocabulary, merges: Sequence[Sequence[str]], *, prefix: bool) -> dict[str, Any]:
    """Return the tokenizer.json with these merges. With `prefix`, a space is put before the text."""
    tokens, types = vocabulary.tokens, vocabulary.types
    phi3 = vocabulary.architecture == "phi3"
    rstrip = [i for i, token in enumerate(tokens) if phi3 and token not in PHI3]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    start = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    return tokenizer_json(
        tokens, types,
        rstrip=rstrip,
        normalizer={"type": "Sequence", "normalizers": [*start, space]},
        pre_tokenizer=None,
        post_processor=bos_eos_template(vocabulary, bos=True, eos=False),
        decoder={"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        model={
            "type": "BPE", "dropout": None,
            "unk_token": next((tokens[i] for i, kind in enumerate(types) if kind == UNKNOWN), None),
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": BYTE in types, "ignore_merges": False, "vocab": vocabulary.ids,
            "merges": merges,
        },
    )  # fmt: skip


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return every split of a piece into two pieces. The splits of the piece with the best score come first.
    The splits of one piece are sorted so that the longest left part comes first.
    """
    merges = []
    for token, kind, score in zip(vocabulary.tokens, vocabulary.types, vocabulary.scores(), strict=True):
        if kind in (CONTROL, UNKNOWN, BYTE):
            continue
        if len(token) > LONGEST_PIECE:
            raise vocabulary.fail(f"tokens may have at most {LONGEST_PIECE} letters, got {token!r:.40}")
        for split in range(1, len(token)):
            left, right = token[:split], token[split:]
            if left in vocabulary.ids and right in vocabulary.ids:
                merges.append((score, len(left), left, right))
    merges.sort(key=lambda merge: merge[:2], reverse=True)
    return [(left, right) for _, _, left, right in merges]
