"""Show the attention of a model's heads between the words of a text: which word attends to which other word,
and by which heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...refimpl.checkpoint.tokenizers.tokenizer import Encoding
from ...refimpl.config import Config
from ...refimpl.engine.attention_maps import attention_maps
from ...refimpl.errors import LimitError

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

Word = tuple[str, list[int]]  # a word and the indices of its tokens
Heads = dict[tuple[int, int], np.ndarray]  # (layer, head) -> weights [T, T], query by key


@dataclass(frozen=True)
class StrongestHead:
    """The head that pays the most attention to a word, and the share of its attention that the word gets."""

    layer: int
    head: int
    share: float


@dataclass(frozen=True)
class Seen:
    """A word to which the described word attends.

    - `word`, `token`: the word, and the index of its first token.
    - `share`: the share of the described word's attention that this word gets.
    - `strongest`: the head that attends to this word most.
    """

    word: str
    token: int
    share: float
    strongest: StrongestHead


@dataclass(frozen=True)
class View:
    """The attention of one word, the described word.

    - `looks_at`: the other words to which it attends, the largest share first.
    - `itself`: the share of its attention to itself.
    - `resting`: the share of its attention to the tokens to which idle heads attend.
    """

    word: str
    looks_at: list[Seen]
    itself: float
    resting: float


def words_of(text: str, encoding: Encoding) -> list[Word]:
    """Return the words of a text in order, each with the indices of its tokens.

    A token that isn't part of a word counts as a word.
    """
    spans = [(match.start(), match.end()) for match in WORD.finditer(text)]
    words: dict[tuple[int, int] | int, Word] = {}
    for i, (piece, (start, end)) in enumerate(zip(encoding.tokens, encoding.offsets, strict=True)):
        characters = text[start:end]
        first = start + len(characters) - len(characters.lstrip())
        span = next((span for span in spans if span[0] <= first < min(span[1], end)), None)
        word = (characters or piece) if span is None else text[slice(*span)]
        words.setdefault(span or i, (word, []))[1].append(i)
    return list(words.values())


def subject(words: list[Word], target: str | None) -> int:
    """Return the index of the word to describe: the last occurrence of `target`. Without `target`, it is the
    last "it", or if there is none, the last word.

    Raises LimitError if `target` isn't in the text.
    """
    name = "it" if target is None else target.lower()
    same = [i for i, (word, _) in enumerate(words) if word.lower() == name]
    if same:
        return same[-1]
    if target is not None:
        raise LimitError(f"the text must contain the word {target!r:.60}")
    return max((i for i, (word, _) in enumerate(words) if WORD.fullmatch(word)), default=len(words) - 1)


def chosen_heads(
    config: Config,
    params: Mapping[str, Any],
    ids: list[int],
    layer: int | None,
    head: int | None,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> Heads:
    """Return the attention weights [T, T] of the chosen heads, by (layer, head). None means all layers or all
    heads.

    Layers after the last chosen layer aren't computed. `on_layer` is called with the number of layers
    computed so far and the number to compute.
    """
    heads: Heads = {}
    total = len(next(iter(config.stacks.values())).layers) if layer is None else layer + 1

    def choose(i: int, weights: np.ndarray) -> None:
        if layer in (None, i):
            heads.update({(i, h): weights[h] for h in range(len(weights)) if head in (None, h)})
        on_layer(i + 1, total)

    attention_maps(config, params, np.array(ids), choose, layers=total)
    return heads


def view_of(words: list[Word], index: int, heads: Heads, *, decoder: bool) -> View:
    """Describe to which words the word number `index` attends on average, and by which head most.

    The attention of a word is the mean over its tokens. The attention to a word is the sum over its
    tokens. A head with nothing to do in a text attends to special tokens, or in a decoder to the first
    token.
    """
    name, queries = words[index]
    views = {
        at: [float(weights[queries][:, keys].sum(1).mean()) for _, keys in words]
        for at, weights in heads.items()
    }
    shares = [sum(view[i] for view in views.values()) / len(views) for i in range(len(words))]
    resting = {i for i, (word, _) in enumerate(words) if not WORD.fullmatch(word) and not word.isspace()}
    if decoder:
        resting.add(0)
    seen = []
    for i, (word, keys) in enumerate(words):
        if i != index and i not in resting and word[0].isalnum() and shares[i] > 0:
            layer, head = max(views, key=lambda at: views[at][i])
            strongest = StrongestHead(layer, head, views[layer, head][i])
            seen.append(Seen(word, keys[0], shares[i], strongest))
    return View(
        word=name,
        looks_at=sorted(seen, key=lambda one: -one.share),
        itself=shares[index],
        resting=sum(shares[i] for i in resting - {index}),
    )
