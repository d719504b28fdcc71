"""Read the files beside a speech model whose input is plain samples of sound.

The files state the form of the recordings. For a model with a CTC head, they also state its tokens and their
ids.

vocab.json                 the id of each token; most tokens are letters
tokenizer_config.json      pad_token, which is the blank, word_delimiter_token, do_lower_case
special_tokens_map.json    the same tokens, if tokenizer_config.json doesn't name them
added_tokens.json          further tokens, which vocab.json doesn't list
preprocessor_config.json   do_normalize and sampling_rate; newer models have them in processor_config.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..decoding.ctc import CTCTokens
from ..engine.sound import RATE
from ..errors import CheckpointError
from .config_readers.keys import ABSENT
from .formats.model_directory import Directory
from .tokenizer_files import VOCAB_JSON
from .tokenizers.auto_tokenizer.apply import AppliedTokenizer

CLASSES = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
DEFAULTS = {"pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|"}


def read_ctc(
    directory: Directory, about: Mapping[str, Any], config_class: Any, rows: int
) -> tuple[AppliedTokenizer, CTCTokens] | None:
    """Return the tokenizer of a model with a CTC head, and the rules by which its tokens become words.

    Returns None if the directory has no vocab.json. `about` contains the keys of tokenizer_config.json.
    `config_class` is the `tokenizer_class` of config.json. `rows` is the number of tokens that the head
    predicts. Raises CheckpointError for files that transformers' Wav2Vec2CTCTokenizer would read
    differently.
    """
    tokens = directory.object(VOCAB_JSON)
    if tokens is None:
        return None
    where, settings = str(directory.path / VOCAB_JSON), str(directory.path / "tokenizer_config.json")
    if not all(type(id) is int and id >= 0 for id in tokens.values()):
        raise CheckpointError(f"{where}: must map the tokens of one language to ids, got {tokens!r:.80}")
    named = about.get("tokenizer_class") or config_class
    if named not in (None, *CLASSES):
        raise CheckpointError(f"{settings}: tokenizer_class must be {CLASSES[0]}, got {named!r:.60}")
    added = directory.object("added_tokens.json") or {}
    if not all(type(id) is int and id >= 0 for id in added.values()):
        raise CheckpointError(
            f"{directory.path / 'added_tokens.json'}: must map tokens to ids, got {added!r:.80}"
        )
    tokens = {**added, **tokens}
    stated = {**(directory.object("special_tokens_map.json") or {}), **about}
    names = {name: _token(stated, name, settings) for name in DEFAULTS}
    needed = names["pad_token"], names["word_delimiter_token"]
    blank, delimiter = (None if token is None else tokens.get(token) for token in needed)
    for token, id in zip(needed, (blank, delimiter), strict=True):
        if id is not None and id >= rows:
            raise CheckpointError(
                f"{where}: the id of {token!r:.40} must be below the head's {rows} tokens, got {id}"
            )
    if blank is None:
        raise CheckpointError(
            f"{where}: must contain the pad_token {names['pad_token']!r:.40}, which CTC uses as the blank"
        )
    for name, only in (("replace_word_delimiter_char", " "), ("target_lang", None)):
        if about.get(name, only) != only:
            raise CheckpointError(f"{settings}: {name} must be {only!r}, got {about[name]!r:.40}")
    flags = {name: about.get(name) or False for name in ("do_lower_case", "clean_up_tokenization_spaces")}
    if odd := [name for name, value in flags.items() if type(value) is not bool]:
        raise CheckpointError(f"{settings}: {odd[0]} must be true or false, got {flags[odd[0]]!r:.40}")
    lower, cleaned = flags.values()
    normalized = _normalized(directory)
    ctc = CTCTokens(blank, delimiter, normalized is None or normalized, lower, cleaned)
    text = _tokenizer(tokens, names["unk_token"], names["word_delimiter_token"])
    return AppliedTokenizer(text, {}), ctc


def _token(stated: Mapping[str, Any], name: str, where: str) -> str | None:
    value = stated.get(name, DEFAULTS[name])
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{where}: {name} must be a token, got {value!r:.60}")
    return value


def expect_samples(directory: Directory) -> None:
    """Raise CheckpointError if a model's files ask for normalized sounds, although tfm gives it plain
    samples.
    """
    if _normalized(directory):
        raise CheckpointError(f"{directory.path}: do_normalize must be false for this model, got true")


def _normalized(directory: Directory) -> bool | None:
    """Return whether sounds are scaled to a mean of 0 and a variance of 1, or None if no file says it.

    Raises CheckpointError if a file asks for a sampling rate other than 16,000 Hz.
    """
    name = "preprocessor_config.json"
    stated = directory.object(name)
    if stated is None:
        name = "processor_config.json"
        stated = (directory.object(name) or {}).get("feature_extractor", ABSENT)
    if stated is ABSENT:
        return None
    where = str(directory.path / name)
    if not isinstance(stated, dict):
        raise CheckpointError(f"{where}: feature_extractor must be an object, got {stated!r:.40}")
    value = stated.get("do_normalize", True)
    if type(value) is not bool:
        raise CheckpointError(f"{where}: do_normalize must be true or false, got {value!r:.40}")
    for key, only in (("sampling_rate", RATE), ("feature_size", 1)):
        if stated.get(key, only) != only:
            raise CheckpointError(f"{where}: {key} must be {only}, got {stated[key]!r:.40}")
    return value


def _tokenizer(tokens: Mapping[str, int], unknown: str | None, delimiter: str | None) -> str:
    """Return a tokenizer.json that splits a text into letters and writes a delimiter for each space."""

    def replaced(old: str, new: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": {"String": old}, "content": new}

    steps = [{"type": "Fuse"}, *([replaced(delimiter, " ")] if delimiter else [])]
    definition: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "pre_tokenizer": None,
        "normalizer": replaced(" ", delimiter) if delimiter else None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": {
            "type": "BPE", "vocab": tokens, "merges": [], "dropout": None, "fuse_unk": False,
            "unk_token": unknown if unknown in tokens else None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "byte_fallback": False, "ignore_merges": False,
        },
    }  # fmt: skip
    return json.dumps(definition, ensure_ascii=False)
