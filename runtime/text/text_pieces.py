"""Decide which added tokens are plain text, which a user may write. All other added tokens are control
tokens.

The flag `special` isn't enough: `<tool_call>`, `<think>`, and the marks of files and of fill-in-the-middle
often aren't special. So the token's spelling decides. A token with an unknown spelling is a control token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

SPACE = "▁"  # SentencePiece's, which isn't white space to Python
# The tags among Gemma's pieces. `<img>`, `<video>`, `<p>` and others are control tokens of other models.
TAGS = "table caption thead tbody tfoot tr th td h1 h2 h3 h4 h5 h6 blockquote strong em b i u s sub sup code"
TAG = re.compile(rf"<(/?)((?:{TAGS.replace(' ', '|')})>)")
BETWEEN = re.compile("[ '’.\u200d\U0001f3fb-\U0001f3ff-]")  # of words; emoji are joined and have skin tones


def text_pieces(pieces: Collection[str], unused: Collection[str]) -> set[str]:
    """Return the added tokens that are plain text: blanks, and among `unused` also HTML tags, words and
    single characters.

    `unused` are the tokens that aren't special and that the model's template and settings don't use. A tag
    counts as HTML only if its opening or closing counterpart is also in `unused`. For example, Phi-3's `</s>`
    isn't special, but its `<s>` is a control token that begins a text. Single characters are included because
    DeepSeek Coder has letters among its added tokens.
    """
    blanks = {piece for piece in pieces if is_blank(piece)}
    tags = {piece for piece in unused if TAG.fullmatch(piece) and _other_tag(piece) in unused}
    return blanks | tags | {piece for piece in unused if len(piece) == 1 or _is_word(piece)}


def is_blank(piece: str) -> bool:
    """Return whether a piece is empty or only white space."""
    return not piece.replace(SPACE, " ").strip()


def _other_tag(tag: str) -> str:
    """Return the closing tag for an opening tag, or the opening tag for a closing one."""
    return TAG.sub(lambda match: f"<{'' if match[1] else '/'}{match[2]}", tag)


def _is_word(piece: str) -> bool:
    """Return whether a piece consists of letters, digits, emoji and characters that join the parts of a
    word.
    """
    kinds = (unicodedata.category(character) for character in BETWEEN.sub("", piece))
    return all(kind[0] in "LMN" or kind == "So" for kind in kinds)
