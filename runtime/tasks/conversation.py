"""A chat, whose common past is computed once."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...refimpl.decoding.stop import limit_new_tokens
from ...refimpl.errors import CheckpointError
from ..text.chat_template import common_prefix
from .generate import TextStream, options
from .model import Model


class Conversation:
    """Messages of a chat, and the cache of what was read so far.

    A template may render earlier messages anew with each one (they aren't prefix-stable), so the
    cache is kept as far as the new ids agree with what it holds.
    """

    def __init__(self, model: Model, system: str | None = None) -> None:
        if model.template is None:
            raise CheckpointError("the model has no chat template: use generate, which goes on with a text")
        self.model, self.template = model, model.template
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self._ids: list[int] = []
        self._cache: Any = None

    def say(self, text: str, **given: Any) -> TextStream:
        """The answer to a message; it becomes part of the conversation when it was read to its end."""
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self.template.encode(messages)
        how = options(self.model.generation, **given)
        limit_new_tokens(self.model.config.context, len(ids), how.max_new_tokens)
        cache, self._cache = self._cache, None
        if cache is not None:
            # A token is left to read, so that there are logits to begin with.
            same = min(common_prefix(self._ids, ids), len(ids) - 1)
            # What windows saw so far back may be gone: then all is read again.
            cache = cache.truncate(np.array([same if same >= cache.floor[0] else 0]))

        def keep(answer: TextStream) -> None:
            self.messages = [*messages, {"role": "assistant", "content": answer.text}]
            self._cache = answer.cache
            held = 0 if self._cache is None else int(self._cache.lengths[0])
            self._ids = [*ids, *answer.tokens][:held]

        return TextStream(self.model, ids, how, cache, keep)
