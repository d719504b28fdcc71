"""Split a transcribed text into words, each with its tokens, as transformers splits Whisper's texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BEFORE, AFTER = "\"'“¡¿([{-", "\"'.。,，!！?？:：”)]}、"  # which a word takes along
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
WITHOUT_SPACES = {"zh", "ja", "th", "lo", "my", "yue"}
DAMAGED = "\ufffd"  # what a part of a character's bytes is decoded to

Words = list[tuple[str, list[int]]]


def spoken_words(tokens: Sequence[int], decode: Callable[[Sequence[int]], str], *, spaces: bool) -> Words:
    """Return the words of a text, and for each word the positions of its tokens.

    A word begins at a space or, in a language without `spaces`, at each character. Punctuation belongs to the
    word beside it. Bytes at the end that aren't a complete character are left out.
    """
    words: Words = []
    for text, places in _characters(tokens, decode):
        alone = not spaces or text.startswith(" ") or text.strip() in PUNCTUATION
        if alone or not words:
            words.append((text, places))
        else:
            words[-1] = (words[-1][0] + text, words[-1][1] + places)
    right: Words = []
    for text, places in reversed(words):
        if right and text.startswith(" ") and text.strip() in BEFORE:
            right[-1] = (text + right[-1][0], places + right[-1][1])
        else:
            right.append((text, places))
    found: Words = []
    for text, places in reversed(right):
        if found and not found[-1][0].endswith(" ") and text in AFTER:
            found[-1] = (found[-1][0] + text, found[-1][1] + places)
        else:
            found.append((text, places))
    return [(text, places) for text, places in found if text]


def _characters(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Words:
    """Split the tokens into the shortest runs that decode to whole characters. Return each run's text and
    positions.

    Bytes that make no character in the whole text either are a run too.
    """
    whole, found, begin, done = decode(tokens), [], 0, 0
    for end in range(1, len(tokens) + 1):
        text = decode(tokens[begin:end])
        at = done + text.find(DAMAGED)
        if DAMAGED not in text or at >= len(whole) or whole[at] == DAMAGED:
            found.append((text, [*range(begin, end)]))
            begin, done = end, done + len(text)
    return found
