"""An assertion of an error that says class, key and value, and leaves the sentence free."""

from __future__ import annotations

import re
from typing import TypeVar

import pytest

E = TypeVar("E", bound=BaseException)


def refused(error: type[E] | tuple[type[E], ...], *parts: object) -> pytest.RaisesExc[E]:
    """What must be raised, with a message of one line that has these parts as whole words, in this order.

    Parts are what the message is about: a key, what it must be, what it got. Sentences are for readers: one
    of each kind is in tests/golden_messages.txt.
    """
    assert parts, "say the key at least"
    return pytest.raises(error, match=pattern(*parts), check=lambda raised: "\n" not in str(raised))


def pattern(*parts: object) -> str:
    """What matches a message that has these parts as whole words, in this order."""
    words = (rf"(?<!\w){re.escape(str(part))}(?!\w)" for part in parts)
    return "(?s:" + ".*".join(words) + ")"
