"""The bytes of tokens, joined, are the text that the tokenizers library decodes."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from helpers import text_strategies
from helpers.refused import refused
from tfm.refimpl.checkpoint.tokenizers.token_bytes import to_file, token_bytes
from tfm.refimpl.checkpoint.tokenizers.tokenizer import read
from tfm.refimpl.errors import CheckpointError
from tokenizers import Tokenizer, decoders, models

TEXTS = [*text_strategies.TEXT, "the </s> 中文 é", "a<|im_end|> <tool_call>the"]


KINDS = text_strategies.KINDS | {"wordpiece": text_strategies.wordpiece}


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_joined_are_the_decoded_text(kind: str) -> None:
    library = KINDS[kind]()
    found = token_bytes(read(library.to_str()))
    assert len(found) == library.get_vocab_size()
    draw = random.Random(1)
    first = library.token_to_id("t")
    rows = [library.encode(text).ids for text in TEXTS]
    if kind != "sentencepiece":  # of bytes that are no character it replaces each, a program the run
        rows += [draw.choices(range(len(found)), k=40) for _ in range(20)]
    for ids in rows:
        text = b"t" + b"".join(found[id] for id in ids)
        assert text.decode(errors="replace") == library.decode([first, *ids])
    specials = [id for id, token in library.get_added_tokens_decoder().items() if token.special]
    assert specials
    assert not any(found[id] for id in specials)


def test_a_character_may_be_several_tokens() -> None:
    library = text_strategies.sentencepiece()
    found = token_bytes(read(library.to_str()))
    ids = [library.token_to_id(f"<0x{byte:02X}>") for byte in "中".encode()]
    assert [found[id] for id in ids] == [bytes([byte]) for byte in "中".encode()]


def test_tokens_that_depend_on_their_neighbours_are_refused() -> None:
    """Here the end of a word is a space, but for the last one."""
    library = Tokenizer(models.BPE({"a": 0, "b</w>": 1, "c</w>": 2}, []))
    library.decoder = decoders.BPEDecoder("</w>")
    with refused(CheckpointError, "text", "depends", "beside"):
        token_bytes(read(library.to_str()))


def test_the_file_has_offsets_and_bytes() -> None:
    data = to_file([b"ab", b"", b"\xe4"])
    offsets = np.frombuffer(data[:16], "<i4")
    assert [data[a:b] for a, b in pairwise(offsets)] == [b"ab", b"", b"\xe4"]
    assert len(data) == offsets[-1]
