"""Train a tokenizer on lines of text: count words, train a model on them, and build a tokenizer.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from ...errors import LimitError
from . import bpe_training, unigram_training
from .bpe_training import Progress
from .normalizers import BYTE_TO_UNICODE
from .tokenizer import Tokenizer

Method: TypeAlias = Literal["bpe", "unigram"]
UNKNOWN = "<unk>"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
PROGRESS_INTERVAL = 1000  # lines


def count_words(lines: Sequence[str], method: Method, progress: Progress | None = None) -> Counter[str]:
    """Count the words that the method's pre-tokenizer finds in some lines. Words are in the order in which
    they appear.
    """
    tokenizer = Tokenizer(_definition(method, {"type": "BPE", "vocab": {}, "merges": []}, ()))
    counts: Counter[str] = Counter()
    for i, line in enumerate(lines, 1):
        counts.update(word.text for word in tokenizer.pre_tokenize(line))
        if progress is not None and (i % PROGRESS_INTERVAL == 0 or i == len(lines)):
            progress("reading lines", i, len(lines))
    return counts


def train(
    words: Mapping[str, int],
    method: Method,
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (),
    min_frequency: int = 0,
    progress: Progress | None = None,
) -> Tokenizer:
    """Train a byte-level BPE like GPT-2's, or a unigram model like T5's, with at most `vocab_size` tokens.

    Raises LimitError if special tokens and the bytes or characters alone exceed `vocab_size`.
    """
    if method == "bpe":
        least = len(BYTE_TO_UNICODE) + len(special_tokens)
        if vocab_size < least:
            raise LimitError(
                f"the vocabulary must have at least {least} tokens, for all bytes and the special tokens, "
                f"got {vocab_size}"
            )
        vocabulary, merges = bpe_training.train(
            words,
            vocab_size,
            special_tokens=special_tokens,
            initial_alphabet=BYTE_TO_UNICODE.values(),
            min_frequency=min_frequency,
            progress=progress,
        )
        model = {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in merges]}
    else:
        special_tokens = [UNKNOWN, *(token for token in special_tokens if token != UNKNOWN)]
        scored, unknown = unigram_training.train(
            words, vocab_size, special_tokens=special_tokens, unk_token=UNKNOWN, progress=progress
        )
        model = {"type": "Unigram", "unk_id": unknown, "byte_fallback": False}
        model |= {"vocab": [list(pair) for pair in scored]}
    return Tokenizer(_definition(method, model, special_tokens))


def truncate_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """Remove the last merges of a trained BPE, so that `vocab_size` tokens remain.

    The result equals a BPE that was trained with this `vocab_size`.
    """
    model = tokenizer.definition["model"]
    vocabulary = {token: i for token, i in model["vocab"].items() if i < vocab_size}
    merges = [pair for pair in model["merges"] if "".join(pair) in vocabulary]
    return Tokenizer({**tokenizer.definition, "model": {**model, "vocab": vocabulary, "merges": merges}})


def count_tokens(tokenizer: Tokenizer, words: Mapping[str, int]) -> tuple[int, int]:
    """Return how many tokens some words with their counts have, and how many of these tokens are unknown."""
    total = unknown = 0
    unknown_id = tokenizer.vocabulary.get(UNKNOWN)
    for word, times in words.items():
        tokens = tokenizer.model.tokenize(word)
        total += times * len(tokens)
        unknown += times * sum(token.id == unknown_id for token in tokens)
    return total, unknown


def _definition(method: Method, model: dict[str, Any], special_tokens: Iterable[str]) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": token, **flags, "special": True} for i, token in enumerate(special_tokens)]
    split = {"type": "WhitespaceSplit"}
    pre_tokenizer = BYTES if method == "bpe" else {"type": "Sequence", "pretokenizers": [split, SPACES]}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": pre_tokenizer, "post_processor": None,
        "decoder": BYTES if method == "bpe" else SPACES, "model": model,
    }  # fmt: skip
