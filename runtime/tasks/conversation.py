"""A chat with a model. The cache of earlier messages is kept, so that these messages aren't computed
again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ...refimpl.decoding.stop import limit_new_tokens
from ...refimpl.engine.protocol import Cache
from ...refimpl.errors import ArgumentError
from ..text.chat_template import Message, Tool, Variables, check_messages, common_prefix
from .base import TaskModel
from .declared_options import spelled_out
from .generate import Prompt, TextStream, answers_of, chat_ids, prefix_cache
from .options import GenerateOptions, resolve


class Conversation:
    """The messages of a chat, and the cache of the tokens that were read so far.

    A template may render earlier messages differently once another message follows. So the cache is reused
    only up to the first token that differs in the new prompt. `prefix` is a file with the cache of a text
    that begins like the first prompt; if the file doesn't exist, it is written (`generate.prefix_cache`).
    `chat_template_kwargs` are variables of the chat template.

    `tools` are functions that an answer may call, described as in the OpenAI API. `calls` lists the calls for
    which the model expects results. `give_results` passes the results to the model and returns the next
    answer.
    """

    def __init__(
        self,
        model: TaskModel,
        system: str | None = None,
        *,
        prefix: Path | str | None = None,
        tools: Sequence[Tool] | None = None,
        chat_template_kwargs: Variables | None = None,
    ) -> None:
        self.model, self.template = model, model.chat_template
        self._chat_template_kwargs = chat_template_kwargs
        self._tools, self._answers = tools, answers_of(model, tools)
        self._prefix = None if prefix is None else Path(prefix)
        self._messages: list[Message] = []
        if system is not None:
            self._messages.append({"role": "system", "content": system})
        self._answer: TextStream | None = None  # to the last of _asked
        self._asked: list[Message] = []
        self._ids: list[int] = []  # what the cache holds
        self._cache: Cache | None = None

    def __repr__(self) -> str:
        return f"<Conversation with {self.model!r}, {len(self.messages)} messages>"

    @property
    def messages(self) -> list[Message]:
        """The messages so far. The last answer is among them once it has been generated completely."""
        self._keep()
        return self._messages

    def replace(self, messages: Sequence[Message]) -> None:
        """Continue the conversation from other messages.

        If these messages begin like the messages already read, the shared beginning isn't read again. Raises
        ArgumentError or LimitError for messages that no template allows. After such an error, the
        conversation is unchanged.
        """
        check_messages(messages)
        self._keep()
        self._answer, self._messages = None, list(messages)

    @spelled_out(GenerateOptions)
    def say(self, text: str, **options: Unpack[GenerateOptions]) -> TextStream:
        """Return the answer to a message of the user, as a stream.

        The message and its answer become part of the conversation once the answer has been generated
        completely.
        """
        return self._ask([*self.messages, {"role": "user", "content": text}], options)

    @property
    def calls(self) -> Sequence[Message]:
        """The tool calls in the last answer that still have no results, in the form that chat templates read.

        Each call is a dict. Its `function` contains the `name` of the function and its `arguments`, again a
        dict.
        """
        return self.messages[-1].get("tool_calls", ()) if self.messages else ()

    @spelled_out(GenerateOptions)
    def give_results(self, *results: str, **options: Unpack[GenerateOptions]) -> TextStream:
        """Pass the results of `calls` to the model, and return its next answer as a stream.

        Give one text for each call, in the order of `calls`. Raises ArgumentError for any other number of
        texts.
        """
        calls = self.calls
        if len(results) != len(calls) or not calls:
            raise ArgumentError(
                f"each of the {len(calls)} calls needs one result, got {len(results)} results"
            )
        told = [
            {"role": "tool", "content": text, "name": call["function"]["name"], "tool_call_id": call["id"]}
            for text, call in zip(results, calls, strict=True)
        ]
        return self._ask([*self.messages, *told], options)

    def _ask(self, messages: list[Message], options: GenerateOptions) -> TextStream:
        ids = chat_ids(self.model, messages, self._tools, self._answers, self._chat_template_kwargs)
        resolved = resolve(self.model.generation, chat=True, **options)
        limit_new_tokens(self.model.config, len(ids), resolved.max_new_tokens)
        cache, self._cache = self._cache, None
        if cache is None and self._prefix is not None:
            cache = prefix_cache(self.model, Prompt(ids, None), self._prefix)
        elif cache is not None:
            # One token is left to read, so that there are logits to begin with.
            same = min(common_prefix(self._ids, ids), len(ids) - 1)
            # A window may have dropped what it saw so far back: then everything is read again.
            cache = cache.truncate(np.array([same if same >= cache.floor[0] else 0]))
        self._asked = messages
        self._answer = TextStream(self.model, Prompt(ids, None), resolved, cache, self._answers)
        return self._answer

    def _keep(self) -> None:
        """Add the last question and answer to the conversation if the answer has been generated
        completely.
        """
        answer = self._answer
        if answer is None or not answer.complete:
            return
        self._messages = [*self._asked, self._message(answer)]
        self._cache, self._answer = answer.cache, None
        length = 0 if self._cache is None else int(self._cache.lengths[0])
        self._ids = [*answer.prompt, *answer.tokens][:length]

    def _message(self, answer: TextStream) -> Message:
        """Return an answer as a message for chat templates.

        In the message, the arguments of a call are a dict. The id of a call has nine letters and digits, as
        some templates require."""
        if self._answers is None:
            return {"role": "assistant", "content": answer.text}
        thoughts, text, calls = answer.answer
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            before = sum(len(one.get("tool_calls", ())) for one in self._asked)
            message["tool_calls"] = [
                {
                    "id": f"call{before + i:05}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.loads(arguments)},
                }
                for i, (name, arguments) in enumerate(calls)
            ]
        return message
