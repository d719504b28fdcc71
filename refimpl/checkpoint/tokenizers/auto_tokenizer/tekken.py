"""Read Mistral's tekken.json: the bytes of each token in the order of the merges, and special tokens.

The tokenizer is byte-level BPE without a list of merges (tiktoken's form). Two neighbours are merged if their
concatenation is a token. The pair whose concatenation has the lowest rank is merged first. Special tokens
have the lowest ids, before all other tokens.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from ....errors import CheckpointError
from ...formats.strict_json import parse
from ..normalizers import BYTE_TO_UNICODE
from ..vocabulary import MAX_VOCABULARY
from .vocabulary_files import splits_of

# The first special tokens, which files from before 2025 don't state.
FIRST_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def of_tekken(text: str, where: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tokenizer.json that gives the same ids as a tekken.json, and the special tokens by name. The
    tokenizer puts `<s>` before a text."""
    stated = parse(text, where)
    config = stated.get("config") if isinstance(stated, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("pattern"), str):
        raise CheckpointError(f"{where}: config.pattern must be a text, got {config!r:.80}")
    special = _special_tokens(stated, config, where)
    tokens = _tokens(stated, _count(config, "default_vocab_size", where), len(special), where)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = [split for token in tokens for split in splits_of(token, ranks, where)]
    ids = {token: len(special) + rank for token, rank in ranks.items()}
    ids |= {token: id for id, token in enumerate(special)}
    begin = [{"SpecialToken": {"id": "<s>", "type_id": 0}}] if "<s>" in special else []
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    named = {name: token for name, token in NAMED.items() if token in special}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for id, token in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": config["pattern"]}, "behavior": "Isolated",
             "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ]},
        "post_processor": {
            "type": "TemplateProcessing", "single": [*begin, a], "pair": [*begin, a, *begin, b],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [ids["<s>"]], "tokens": ["<s>"]}} if begin else {},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": ids, "merges": merges,
        },
    }, named  # fmt: skip


def _special_tokens(stated: dict[str, Any], config: dict[str, Any], where: str) -> list[str]:
    """Return the special tokens in the order of their ids. A token that the file doesn't name is called
    `<SPECIAL_N>`.
    """
    listed = stated.get("special_tokens")
    entries = [{"rank": i, "token_str": t} for i, t in enumerate(FIRST_SPECIAL)] if listed is None else listed
    tokens = {}
    for entry in entries if isinstance(entries, list) else [None]:
        match entry:
            case {"rank": int(rank), "token_str": str(token)} if token:
                tokens[rank] = token
            case _:
                raise CheckpointError(f"{where}: special_tokens must have ranks and texts, got {entry!r:.80}")
    names = [tokens.get(rank) for rank in range(len(entries))]
    count = _count(config, "default_num_special_tokens", where) or len(names)
    if None in names or len(set(names)) < len(names) or count < len(names):
        raise CheckpointError(
            f"{where}: special_tokens must be at most {count} different tokens, with ranks from 0"
        )
    return [*filter(None, names), *(f"<SPECIAL_{i}>" for i in range(len(names), count))]


def _tokens(stated: dict[str, Any], size: int | None, special: int, where: str) -> list[str]:
    """Return the tokens that aren't special, in the order of their ranks, spelled in byte-level BPE's
    alphabet.
    """
    entries = stated.get("vocab")
    if not isinstance(entries, list):
        raise CheckpointError(f"{where}: vocab must be a list, got {entries!r:.60}")
    tokens = list(_spelled(entries[: None if size is None else max(size - special, 0)], where))
    if len(set(tokens)) < len(tokens) or not set(BYTE_TO_UNICODE.values()) <= set(tokens):
        raise CheckpointError(f"{where}: vocab must contain each byte as a token, and each token only once")
    return tokens


def _spelled(entries: list[Any], where: str) -> Iterator[str]:
    for rank, entry in enumerate(entries):
        try:
            if entry["rank"] != rank:
                raise ValueError(f"rank must be {rank}, the index in vocab, got {entry['rank']!r:.40}")
            data = base64.b64decode(entry["token_bytes"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: vocab[{rank}] isn't a token: {error!s:.80}") from None
        yield "".join(BYTE_TO_UNICODE[byte] for byte in data)


def _count(config: dict[str, Any], key: str, where: str) -> int | None:
    value = config.get(key)
    if value is not None and (type(value) is not int or not 0 <= value <= MAX_VOCABULARY):
        raise CheckpointError(f"{where}: {key} must be a number up to {MAX_VOCABULARY}, got {value!r:.40}")
    return value
