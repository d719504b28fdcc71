"""Words are found in tokens."""

from __future__ import annotations

from tfm.refimpl.checkpoint.tokenizers.tokenizer import Encoding
from tfm.runtime.analysis import attention


def test_words_of_tokens():
    """Leading spaces belong to the next word; what is added around stands alone; one word, many tokens."""
    text = "It didn't, ok "
    encoding = Encoding(
        [0] * 9,
        ["[CLS]", "It", " did", "n't", ",", " o", "k", "Ġ", "[SEP]"],
        [(0, 0), (0, 2), (2, 6), (6, 9), (9, 10), (10, 12), (12, 13), (13, 14), (0, 0)],
        [0] * 9,
    )
    assert attention.words_of(text, encoding) == [
        ("[CLS]", [0]), ("It", [1]), ("didn't", [2, 3]), (",", [4]), ("ok", [5, 6]), (" ", [7]),
        ("[SEP]", [8]),
    ]  # fmt: skip
