"""From lines of text to a tokenizer: words counted, a model trained on them, a tokenizer.json around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from . import bpe_training, unigram_training
from .bpe_training import Progress
from .normalizers import BYTE_LETTERS
from .tokenizer import Tokenizer

Method: TypeAlias = Literal["bpe", "unigram"]
UNKNOWN = "<unk>"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
EVERY = 1000  # lines between two words of progress


def count_words(lines: Sequence[str], method: Method, progress: Progress | None = None) -> Counter[str]:
    """The words of the lines as the method's pre-tokenizer cuts them, in the order of their appearance."""
    cutter = Tokenizer(_plan(method, {"type": "BPE", "vocab": {}, "merges": []}, ()))
    found: Counter[str] = Counter()
    for i, line in enumerate(lines, 1):
        found.update(piece.text for piece in cutter.words(line))
        if progress is not None and (i % EVERY == 0 or i == len(lines)):
            progress("lines", i, len(lines))
    return found


def train(
    words: Mapping[str, int],
    method: Method,
    size: int,
    *,
    special: Sequence[str] = (),
    min_frequency: int = 0,
    progress: Progress | None = None,
) -> Tokenizer:
    """Byte-level BPE as GPT-2's, or a unigram model as T5's, of at most `size` pieces."""
    if method == "bpe":
        vocabulary, merges = bpe_training.train(
            words, size, special=special, alphabet=BYTE_LETTERS.values(), min_frequency=min_frequency,
            progress=progress,
        )  # fmt: skip
        model = {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in merges]}
    else:
        special = [UNKNOWN, *(token for token in special if token != UNKNOWN)]
        scored, unknown = unigram_training.train(
            words, size, special=special, unk_token=UNKNOWN, progress=progress
        )
        model = {"type": "Unigram", "unk_id": unknown, "byte_fallback": False}
        model |= {"vocab": [list(pair) for pair in scored]}
    return Tokenizer(_plan(method, model, special))


def shortened(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """A trained BPE as training would have left it at `size`: the same merges, fewer."""
    model = tokenizer.plan["model"]
    vocabulary = {piece: i for piece, i in model["vocab"].items() if i < size}
    merges = [pair for pair in model["merges"] if "".join(pair) in vocabulary]
    return Tokenizer({**tokenizer.plan, "model": {**model, "vocab": vocabulary, "merges": merges}})


def tokens_of(tokenizer: Tokenizer, words: Mapping[str, int]) -> tuple[int, int]:
    """How many tokens words with their counts have, and how many of these are unknown."""
    total = unknown = 0
    unknown_id = tokenizer.ids.get(UNKNOWN)
    for word, times in words.items():
        found = tokenizer.model.tokenize(word)
        total += times * len(found)
        unknown += times * sum(token.id == unknown_id for token in found)
    return total, unknown


def _plan(method: Method, model: dict[str, Any], special: Iterable[str]) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": token, **flags, "special": True} for i, token in enumerate(special)]
    split = {"type": "WhitespaceSplit"}
    cut = BYTES if method == "bpe" else {"type": "Sequence", "pretokenizers": [split, SPACES]}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": cut, "post_processor": None, "decoder": BYTES if method == "bpe" else SPACES,
        "model": model,
    }  # fmt: skip
