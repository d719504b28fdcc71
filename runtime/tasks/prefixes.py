"""Prefix caching: keep the caches of earlier texts, so that a prompt that begins like one of them is read
only from the first different token.

    kept        the system's text, a question, its answer       after the request that computed it
    a prompt    the system's text, another question             copies the cache of the shared beginning

An owner's prompts are compared only with texts of the same owner. So nobody can find out from the time of an
answer what another owner asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...refimpl.engine.protocol import Cache
from ..serving_defaults import PREFIX_BYTES
from ..text.chat_template import common_prefix

MOST = 64  # texts, since each is compared with a prompt


@dataclass(frozen=True)
class Prefix:
    """The tokens of an earlier text, and a cache with one row that contains these tokens."""

    owner: str
    tokens: Sequence[int]
    cache: Cache
    nbytes: int


class Prefixes:
    """The caches of the most recently used texts, as many as fit into `limit` bytes.

    If `chunk` is None, any number of tokens can be shared. Use None only for an engine that computes the same
    bits for a token, whatever other tokens are computed in the same step. With a `chunk`, a prompt is read in
    the same chunks as it would be without kept texts. So only whole chunks of earlier prompts are shared, and
    no answers.
    """

    def __init__(self, limit: int = PREFIX_BYTES, chunk: int | None = None) -> None:
        self.limit, self.chunk = limit, chunk
        self.tokens = 0  # of prompts, that needn't be read: whoever uses what it finds counts them
        self._kept: OrderedDict[int, Prefix] = OrderedDict()  # the latest used one last

    @property
    def nbytes(self) -> int:
        """The size of all kept caches together, in bytes."""
        return sum(prefix.nbytes for prefix in [*self._kept.values()])

    def keep(self, owner: str, prompt: Sequence[int], answer: Sequence[int], cache: Cache, row: int) -> None:
        """Keep a copy of one row of a cache. The row holds a prompt and the beginning of its answer."""
        length = int(cache.lengths[row])
        if self.chunk is not None:
            length = min(length, len(prompt)) // self.chunk * self.chunk
        if not length or length < cache.floor[row] or not self.limit:
            return
        tokens = [*prompt, *answer][:length]
        for key, other in [*self._kept.items()]:
            if other.owner != owner:
                continue
            same = common_prefix(other.tokens, tokens)
            if same == length:
                self._kept.move_to_end(key)
                return
            if same == len(other.tokens):
                del self._kept[key]
        copied = cache.copy(row)
        if length < copied.lengths[0]:
            copied = copied.truncate(np.array([length]))
        prefix = Prefix(owner, tokens, copied, copied.nbytes)
        self._kept[id(prefix)] = prefix
        while len(self._kept) > MOST or self.nbytes > self.limit:
            self._kept.popitem(last=False)

    def shared(self, text: Sequence[int], answer: Sequence[int], length: int, prompt: Sequence[int]) -> int:
        """Return how many first tokens a prompt can share with the cache of a text and its answer.

        The cache contains the first `length` tokens of the text and the answer. The prompt's last token is
        never shared. If `chunk` isn't None, only whole chunks of the text are shared, and nothing of the
        answer.
        """
        if self.chunk is None:
            return min(common_prefix([*text, *answer][:length], prompt), len(prompt) - 1)
        same = min(common_prefix(text[:length], prompt), len(prompt) - 1)
        return same // self.chunk * self.chunk

    def find(self, owner: str, prompt: Sequence[int], read: int = 0) -> tuple[int, Cache] | None:
        """Find this owner's earlier text that shares the most first tokens with a prompt.

        Returns the number of shared tokens and the text's cache. The prompt's last token is never shared.
        Returns None if no text shares more than `read` tokens, the number that the prompt's row has already
        read.
        """
        best, found = read, None
        for key, prefix in self._kept.items():
            if prefix.owner != owner:
                continue
            same = self.shared(prefix.tokens, (), len(prefix.tokens), prompt)
            if same > best and same >= prefix.cache.floor[0]:
                best, found = same, key
        if found is None:
            return None
        self._kept.move_to_end(found)
        return best, self._kept[found].cache
