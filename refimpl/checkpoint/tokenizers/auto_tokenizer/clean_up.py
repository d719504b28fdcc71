"""Express `clean_up_tokenization_spaces` as steps of a decoder, which remove spaces around English
punctuation.

The clean-up changes the whole decoded text, one replacement after the other (transformers'
`PreTrainedTokenizerBase.clean_up_tokenization`). So the tokens are joined first.
"""

from __future__ import annotations

from typing import Any

REPLACEMENTS = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
STEPS: tuple[dict[str, Any], ...] = (
    {"type": "Fuse"},
    *({"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in REPLACEMENTS),
)
# How many characters at the end of a text may still change when more text follows: " n '" before " t".
UNSETTLED = 4
# A decoder that puts a space between any two tokens, as the library does without a decoder. Its prefix is in
# no vocabulary.
SPACES_BETWEEN: dict[str, Any] = {"type": "WordPiece", "prefix": "\U0010fffd", "cleanup": False}


def cleaned_up(decoder: dict[str, Any] | None) -> dict[str, Any]:
    """Return a decoder that runs `decoder` and then cleans up the decoded text. If `decoder` is None, tokens
    are joined with spaces first.
    """
    return {"type": "Sequence", "decoders": [decoder or SPACES_BETWEEN, *STEPS]}


def cleans_up(decoder: Any) -> bool:
    """Return whether a decoder ends with the steps that clean up a decoded text."""
    steps = decoder.get("decoders") if isinstance(decoder, dict) else None
    return isinstance(steps, list) and steps[-len(STEPS) :] == list(STEPS)
