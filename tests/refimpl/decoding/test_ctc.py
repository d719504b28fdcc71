"""Words of likeliest tokens, with their positions, as transformers' Wav2Vec2CTCTokenizer finds them."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import transformers
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.decoding.ctc import Heard, heard_words, runs, said_together

TOKENS = ["<pad>", "<unk>", "|", "A", "B", "C"]
BLANK, DELIMITER = 0, 2


@functools.cache
def theirs() -> transformers.Wav2Vec2CTCTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({token: id for id, token in enumerate(TOKENS)}))
        return transformers.Wav2Vec2CTCTokenizer(str(path))


@given(st.lists(st.sampled_from([0, 0, 1, 2, 3, 4, 5]), min_size=1, max_size=40))
def test_words_and_their_positions_are_transformers(likeliest: list[int]):
    found = list(heard_words(runs(likeliest, BLANK), DELIMITER, 99))
    decoded = theirs().decode(likeliest, output_word_offsets=True)
    offsets = [(one["word"], one["start_offset"], one["end_offset"]) for one in decoded.word_offsets]
    ours = [("".join(TOKENS[id] for id in one.tokens), one.begin, one.end) for one in found]
    # What comes before the first word they call a word too.
    assert ours == [one for one in offsets if one[0].strip()]
    assert " ".join(word for word, _, _ in ours) == " ".join(decoded.text.split())


def test_a_word_that_is_too_long_goes_on_as_one_that_follows():
    likeliest = [3, 4, 5, 3, DELIMITER, 4]
    found = list(heard_words(runs(likeliest, BLANK), DELIMITER, 3))
    assert found == [Heard((3, 4, 5), 0, 3), Heard((3,), 3, 4, follows=True), Heard((4,), 5, 6)]
    assert next(heard_words(runs([3], BLANK), DELIMITER, 3, follows=True)).follows
    assert not next(heard_words(runs([DELIMITER, 3], BLANK), DELIMITER, 3, follows=True)).follows


def test_words_are_said_together_until_a_pause_or_for_so_long():
    words = [Heard((3,), begin, begin + 2) for begin in (0, 4, 9, 12, 15)]
    assert [[one.begin for one in said] for said in said_together(words, 3, 99)] == [[0, 4], [9, 12, 15]]
    assert [len(said) for said in said_together(words, 3, 5)] == [1, 1, 2, 1]
