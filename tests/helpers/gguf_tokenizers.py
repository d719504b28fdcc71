"""GGUF tokenizers in tests: texts, merges learned from them, files as llama.cpp's converter writes them."""

import json
import random
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import transformers
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.formats.gguf import GGUF
from tfm.refimpl.checkpoint.tokenizers.from_gguf.reader import tokenizer
from tfm.refimpl.errors import CheckpointError
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXT = [
    "It's 2026: the quick brown foxes' naïve façade, they'LL say, WE'VE 12345 of them!",
    "  leading  and   trailing \n\n\n lines\r\n\ttabs ... // /* code */ x_1 = 3.14159;",
    "日本語とEnglish混在。Ελληνικά и кириллица 😀👍🏽 e\u0301 \u017ft'\u017f",
    "a[b](c)|d\u060c e\u0964 f\u06d4 g… h\u3002i\uff0cj\u3001k [l] (m) $1+2<3>=4^5~6`7",
]
LETTERS = [c for text in TEXT for c in text] + list(" '0123456789\n/") * 5
UNICODE = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from(LETTERS), max_size=30)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)


def mixed(count: int) -> list[str]:
    """Letters of the texts in any order."""
    rng = random.Random(count)
    return ["".join(rng.choices(LETTERS, k=40)) for _ in range(count)]


@cache
def learned(*specials: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-level pieces and merges, learned without a pre-tokenizer, so that each border of a
    pre-tokenizer shows."""
    library_tokenizer = Tokenizer(models.BPE())
    library_tokenizer.pre_tokenizer = BYTES
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=list(specials),
        show_progress=False,
    )  # fmt: skip
    library_tokenizer.train_from_iterator(TEXT * 3 + mixed(500), trainer)
    stated = json.loads(library_tokenizer.to_str())["model"]
    return stated["vocab"], [tuple(merge) for merge in stated["merges"]]


def charsmap(rules: dict[bytes, str]) -> bytes:
    """A precompiled_charsmap of rules: a double array, its nodes put wherever there is room."""
    texts_, places = b"", {}
    for key, new in rules.items():
        places[key] = len(texts_)
        texts_ += new.encode() + b"\0"
    units: dict[int, int] = {0: 0}
    used = {0}

    def children(prefix: bytes) -> list[int]:
        return sorted(
            {key[len(prefix)] for key in rules if key.startswith(prefix) and len(key) > len(prefix)}
        )

    def place(at: int, prefix: bytes) -> None:
        labels = children(prefix)
        leaf = prefix in rules
        base = 1
        while any((at ^ base ^ c) in used for c in labels) or (leaf and (at ^ base) in used):
            base += 1
        units[at] = units.get(at, 0) | base << 10 | leaf << 8
        if leaf:
            units[at ^ base] = places[prefix] | 1 << 31
            used.add(at ^ base)
        used.update(at ^ base ^ c for c in labels)
        for c in labels:
            units[at ^ base ^ c] = c
            place(at ^ base ^ c, prefix + bytes([c]))

    place(0, b"")
    size = (max(units) | 255) + 1
    array = struct.pack(f"<{size}I", *(units.get(i, 0) for i in range(size)))
    return struct.pack("<I", len(array)) + array + texts_


def as_read(metadata: dict) -> dict:
    """Metadata as the reader of files gives them: lists of numbers are arrays, and None is no value."""

    def numbers(value: object) -> bool:
        return isinstance(value, list) and value != [] and isinstance(value[0], int | float | np.number)

    stated = {key: value for key, value in metadata.items() if value is not None}
    return {key: np.array(value) if numbers(value) else value for key, value in stated.items()}


def read(metadata: dict, rows: int = 2000) -> Tokenizer:
    """What tfm makes of a file's metadata, loaded by the library."""
    text = tokenizer(as_read(metadata), rows, "x.gguf")
    assert text is not None
    return Tokenizer.from_str(text)


ODD = [None, "", "x", -1, 0, 3, 2**63, 1.5, True, False, [], [[]], [None], ["a"], [1], [-1], [2**40], [True]]


def survives(metadata: dict) -> int:
    """Odd values for each key of a tokenizer: the number of files refused, each by a CheckpointError."""
    messages = []
    for key in metadata:
        for value in ODD if key.startswith("tokenizer.") else ():
            try:
                tokenizer(as_read(metadata | {key: value}), 2000, "x.gguf")
            except CheckpointError as error:
                messages.append(str(error))
    for message in messages:
        assert message.startswith("x.gguf: tokenizer.ggml."), message
        assert "\n" not in message
        assert len(message) < 500, message
    return len(messages)


def same(ours: Tokenizer, original: Tokenizer, *texts: str) -> None:
    """The same ids, characters, segments and text back, with special tokens and without."""
    for special in (True, False):
        got, want = (t.encode(*texts, add_special_tokens=special) for t in (ours, original))
        assert (got.ids, got.offsets, got.type_ids) == (want.ids, want.offsets, want.type_ids), texts
        assert got.special_tokens_mask == want.special_tokens_mask, texts
        for skip in (True, False):
            assert ours.decode(got.ids, skip_special_tokens=skip) == original.decode(
                want.ids, skip_special_tokens=skip
            ), texts


def converted(
    folder: Path,
    original: transformers.PreTrainedTokenizerBase,
    kind: str,
    tokens: Sequence[str],
    types: Sequence[int],
    **more: object,
) -> dict:
    """The metadata of a file with these tokens; ids, flags and merges come from the saved tokenizer."""
    original.save_pretrained(folder)
    writer = gguf.GGUFWriter(folder / "x.gguf", "bert")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for key, value in more.items():
        getattr(writer, f"add_{key}")(value)
    special = gguf.SpecialVocab(folder, load_merges=kind == "gpt2", n_vocab=len(tokens))
    special.add_to_gguf(writer, quiet=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GGUF(folder / "x.gguf").metadata
