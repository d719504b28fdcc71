"""Chat templates: turn messages into token ids, with limited time and memory. No message can become markup.

Jinja renders a template in a child process. A template gets the same variables as in transformers, including
the keys of each message. Keys that are null are left out. A model's thoughts are passed under every name that
templates use for them. If a template doesn't know the role developer, a developer's message becomes a system
message. If a template shows messages only as lists of parts, as templates of models with images do, the
content of each message becomes a list of parts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...refimpl.errors import ArgumentError, CheckpointError, LimitError
from .template_process import LIMITS, SHARED, Limits
from .tokenizer import Tokenizer, check_text

if TYPE_CHECKING:
    from .call_formats import CallFormat

LONGEST = 256 * 2**10  # characters of a template
ROLES = ("system", "developer", "user", "assistant", "tool")
MARK = "\ue000mark\ue001"  # what no template says by itself
EXAMPLE = '{"role": "user", "content": "hi"}'

REASONING = ("reasoning_content", "thinking", "reasoning")  # names of what a model thought before its answer

Message = Mapping[str, Any]
Tool = Mapping[str, Any]
Variables = Mapping[str, Any]


class ChatTemplate:
    """A chat template and the tokenizer for its text.

    `tool_use` is the template for chats with tools, if the model has a separate one.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        tool_use: str | None = None,
        bos: int | None = None,
        eos: Sequence[int] = (),
        limits: Limits = LIMITS,
    ) -> None:
        self._source, self._with_tools = source, source if tool_use is None else tool_use
        longest = max(len(source), len(self._with_tools))
        if longest > LONGEST:
            raise LimitError(f"a chat template may have at most {LONGEST} characters, but it has {longest}")
        self._takes_parts: dict[tuple[str, str], bool] = {}  # of a source and a role
        self._tokenizer = tokenizer
        self._limits = limits
        self._special_tokens = {
            "bos_token": tokenizer.id_to_token(bos),
            "eos_token": tokenizer.id_to_token(eos[0] if eos else None),
        }

    @cached_property
    def answers(self) -> CallFormat:
        """The format in which the model writes its tool calls and thoughts."""
        from .call_detection import find_format  # 25 ms, for who asks

        source = self._with_tools

        def render(messages: Sequence[Message], variables: Variables) -> str:
            return self._rendered(source, [self._shown(message, source) for message in messages], variables)

        return find_format(source, self._source, render)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Variables | None = None,
    ) -> str:
        """Return the text of a conversation; `add_generation_prompt` appends the start of the model's answer.

        `tools` are functions as the OpenAI API describes them, which the template shows to the model.
        `chat_template_kwargs` are variables of this template, such as `{"enable_thinking": False}`. Raises
        ArgumentError for a variable that the template doesn't have.
        """
        check_messages(messages)
        source = self._source if tools is None else self._with_tools
        variables = {
            "tools": None if tools is None else [dict(tool) for tool in tools],
            "add_generation_prompt": add_generation_prompt,
            **self._checked(chat_template_kwargs or {}, source),
        }
        return self._rendered(source, [self._shown(message, source) for message in messages], variables)

    def _rendered(self, source: str, messages: Sequence[Message], variables: Variables) -> str:
        usual = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False}
        return SHARED.render(source, {**usual, **self._special_tokens, **variables}, self._limits)

    def _checked(self, variables: Variables, source: str) -> Variables:
        """Return the variables that a user passed for a template.

        Raises ArgumentError for a variable that tfm sets itself, and for a variable that the template doesn't
        have.
        """
        for name in variables:
            if name in ("messages", "tools", "add_generation_prompt", *self._special_tokens):
                raise ArgumentError(
                    f"chat_template_kwargs can't set {name!r}, which tfm sets: remove this variable"
                )
            if not _uses(source, str(name)):
                raise ArgumentError(
                    "chat_template_kwargs may have only variables of the model's chat template, got "
                    f"{name!r:.80}: remove this variable"
                )
        return variables

    def uses(self, name: str) -> bool:
        """Return whether the template has a variable of this name."""
        return _uses(self._source, name)

    def _shown(self, message: Message, source: str) -> Message:
        """Return a message in the form that the template takes."""
        shown = {key: item for key, item in message.items() if item is not None}
        if shown["role"] == "developer" and "developer" not in source:
            shown["role"] = "system"
        if self._wants_parts(source, shown["role"]):
            shown["content"] = _parts(shown["content"])
        reasoning = next((shown[name] for name in REASONING if name in shown), None)
        return (
            shown if reasoning is None else {"thinking": reasoning, **shown, "reasoning_content": reasoning}
        )

    def _wants_parts(self, source: str, role: str) -> bool:
        """Return whether a template shows this role's messages only if their content is a list of parts."""
        if (source, role) not in self._takes_parts:
            may = role == "user" or self._wants_parts(source, "user")
            wants = may and not self._shows(source, role, MARK) and self._shows(source, role, _parts(MARK))
            self._takes_parts[source, role] = wants
        return self._takes_parts[source, role]

    def _shows(self, source: str, role: str, content: object) -> bool:
        """Return whether a template shows a message of this role with this content. The content contains
        MARK.
        """
        asked, message = {"role": "user", "content": _parts("hi")}, {"role": role, "content": content}
        messages = [message] if role == "user" else [message, asked] if role == "system" else [asked, message]
        try:
            return MARK in self._rendered(source, messages, {})
        except (CheckpointError, LimitError):
            return False

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Variables | None = None,
    ) -> list[int]:
        """Return the token ids of a conversation.

        With `continue_final_message`, the ids end where the content of the last message ends. If no message
        contains a control token, the rendered text is encoded unchanged. Otherwise the template is rendered
        with placeholders for the messages, and control tokens are recognized only outside the placeholders.
        Raises LimitError for a control token elsewhere in the template's input, for example in a tool's name.
        """

        def render(contents: Sequence[str]) -> str:
            shown = [*contents[:-1], MARK] if continue_final_message else contents
            text = self.render(
                [{**message, "content": one} for message, one in zip(messages, shown, strict=True)],
                tools=tools,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                chat_template_kwargs=chat_template_kwargs,
            )
            if not continue_final_message:
                return text
            before, mark, _ = text.rpartition(MARK)
            if not mark:
                raise LimitError(
                    "the last message can't be continued, because the chat template doesn't write its text"
                )
            return before + contents[-1]

        check_messages(messages)
        said = [message["content"] for message in messages]
        text = render(said)
        known = ("role", "content")
        others = [{key: item for key, item in message.items() if key not in known} for message in messages]
        for other in _texts([others, tools, chat_template_kwargs]):
            if self._tokenizer.has_control_tokens(other):
                raise LimitError(
                    "a name, a tool, a call or a variable must not contain a control token, "
                    f"got {other!r:.80}: remove the control token"
                )
        if not any(map(self._tokenizer.has_control_tokens, said)):
            return self._tokenizer.encode_template(text)
        placeholders = [f"\ue000{os.urandom(8).hex()}\ue001" for _ in messages]
        rendered = render(placeholders)
        pattern = "|".join(map(re.escape, placeholders))
        markup = re.split(pattern, rendered)
        order = [placeholders.index(mark) for mark in re.findall(pattern, rendered)]
        # Templates often trim messages; which way is found by comparing.
        trims: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)
        for trim in trims:
            contents = [*map(trim, said)]
            if continue_final_message:
                contents[-1] = said[-1]
            parts = [(markup[0], True)]
            for i, following in zip(order, markup[1:], strict=True):
                parts += [(contents[i], False), (following, True)]
            # The length first: a template can repeat a placeholder more often than the text has room for.
            length = sum(len(part) for part, _ in parts)
            if length == len(text) and "".join(part for part, _ in parts) == text:
                return self._tokenizer.encode_parts(parts)
        raise LimitError(
            "no message may contain a control token, because this chat template changes the text of "
            "messages: remove the control token"
        )


def check_messages(messages: object) -> None:
    """Raise ArgumentError unless `messages` is a list of messages, each with a role and a content.

    Raises LimitError for a role that no template knows, or for a content that no tokenizer accepts.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise ArgumentError(f"messages must be a list of {EXAMPLE}, got {messages!r:.80}")
    for i, message in enumerate(messages):
        parts = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None,)
        if not all(isinstance(part, str) for part in parts):
            raise ArgumentError(f"message {i} must be like {EXAMPLE}, got {message!r:.80}")
        if message["role"] not in ROLES:
            raise LimitError(
                f"message {i}: role must be one of {', '.join(ROLES)}, got {message['role']!r:.40}"
            )
        check_text(message["content"])


def _uses(source: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", source) is not None


def _parts(text: str) -> list[dict[str, str]]:
    """Return the text of a message as a list with one part."""
    return [{"type": "text", "text": text}]


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in a JSON value, including the keys of objects."""
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield from _texts(key)
                yield from _texts(item)
        case list() | tuple():
            for item in value:
                yield from _texts(item)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two sequences of ids."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:  # as of a text that goes on: many times as fast
        return shorter
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return shorter
