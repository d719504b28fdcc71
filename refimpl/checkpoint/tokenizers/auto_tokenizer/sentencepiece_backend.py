"""Make a tokenizer from only a SentencePiece model, for models without a tokenizer class in transformers.

Source: transformers 5, `convert_slow_tokenizer.py`, `SpmConverter.build_tokenizer_from_spm_proto`, and the
code in `tokenization_utils_tokenizers.py` that calls it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ....errors import CheckpointError
from ...formats.sentencepiece_model import BPE, NORMAL, UNIGRAM, USER_DEFINED, SentencePieceModel
from .settings import ADDITIONAL, Settings
from .vocabulary_files import Vocabulary, splits_of

UNDERSCORE = "\u2581"


def made_by_model(model: SentencePieceModel, vocabulary: Vocabulary, settings: Settings) -> dict[str, Any]:
    """Return the parts of a tokenizer.json that follow from a SentencePiece model. The model's special tokens
    are added to the settings by name.

    In a BPE model, the settings' `added_tokens_decoder` renames pieces, so that a piece that is only a
    placeholder gets the token's name.
    """
    if model.kind not in (BPE, UNIGRAM):
        raise CheckpointError(f"{model.where}: must be a BPE or Unigram model, got type {model.kind}")
    names = list(model.pieces)
    if model.kind == BPE:
        kept = {piece for id, piece in enumerate(names) if id not in settings.added}
        for id, token in settings.added.items():
            if id < len(names) and token.content not in kept:
                names[id] = token.content
    user_defined = [names[id] for id, kind in enumerate(model.types) if kind == USER_DEFINED]
    added = {model.pieces[id] for id, kind in enumerate(model.types) if kind == USER_DEFINED}
    settings.values[ADDITIONAL] = [token for token in vocabulary.added if token.content not in added]
    if model.add_dummy_prefix:  # added tokens are found in the text before the prefix is put to each part
        settings.added = {id: replace(token, normalized=False) for id, token in settings.added.items()}
    for name, id, piece in (
        ("bos_token", model.bos_id, model.bos_piece),
        ("eos_token", model.eos_id, model.eos_piece),
        ("unk_token", model.unk_id, model.unk_piece),
    ):
        if id >= 0:
            settings.values.setdefault(name, piece)
    legacy = bool(settings.values.get("legacy", True))
    return {
        "model": _bpe(model, names, bool(user_defined)) if model.kind == BPE else _unigram(model),
        "normalizer": _normalizer(model, vocabulary, legacy),
        "pre_tokenizer": _pre_tokenizer(model, user_defined, legacy),
        "decoder": _decoder(model),
    }


def _bpe(model: SentencePieceModel, names: list[str], user_defined: bool) -> dict[str, Any]:
    """Return the BPE model. Its list of merges begins with the merges that make the piece with the best
    score. Only normal pieces are made.
    """
    ids = {name: id for id, name in enumerate(names)}
    normal = {
        name: (model.scores[id], id)
        for name, id in ((name, id) for id, name in enumerate(names))
        if model.types[id] == NORMAL
    }
    ranked = [
        (-score, id, left, right)
        for name, (score, id) in normal.items()
        for left, right in splits_of(name, normal, model.where)
    ]
    return {
        "type": "BPE", "dropout": None, "unk_token": model.unk_piece, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": model.byte_fallback,
        "ignore_merges": user_defined, "vocab": ids,
        "merges": [(left, right) for *_, left, right in sorted(ranked)],
    }  # fmt: skip


def _unigram(model: SentencePieceModel) -> dict[str, Any]:
    pieces = list(zip(model.pieces, model.scores, strict=True))
    return {
        "type": "Unigram", "unk_id": model.unk_id, "vocab": pieces, "byte_fallback": model.byte_fallback
    }  # fmt: skip


def _replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _normalizer(model: SentencePieceModel, vocabulary: Vocabulary, legacy: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if vocabulary.charsmap is not None:
        steps.append({"type": "Precompiled", "precompiled_charsmap": vocabulary.charsmap})
    if model.remove_extra_whitespaces:
        steps += [_replace(r"\A +| +\z", "", "Regex"), _replace(" {2,}", " ", "Regex")]
    if model.escape_whitespaces:
        steps.append(_replace(" ", UNDERSCORE))
    if model.add_dummy_prefix and legacy:  # a text that begins with the mark gets another one
        steps.append(_replace(rf"\A{UNDERSCORE}", 2 * UNDERSCORE, "Regex"))
    return {"type": "Sequence", "normalizers": steps}


def _pre_tokenizer(model: SentencePieceModel, user_defined: list[str], legacy: bool) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if model.add_dummy_prefix:
        scheme = "always" if legacy else "first"
        steps.append(
            {"type": "Metaspace", "replacement": UNDERSCORE, "prepend_scheme": scheme, "split": False}
        )
    if user_defined:
        pattern = "|".join(re.escape(piece) for piece in sorted(user_defined, key=len, reverse=True))
        steps.append(
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        )
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _decoder(model: SentencePieceModel) -> dict[str, Any]:
    steps = [_replace(UNDERSCORE, " ")]
    steps += [{"type": "ByteFallback"}] if model.byte_fallback else []
    steps += [{"type": "Fuse"}] if model.byte_fallback or model.add_dummy_prefix else []
    steps += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.add_dummy_prefix else []
    return {"type": "Sequence", "decoders": steps}
