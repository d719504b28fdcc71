"""Make the prompts of a chat with tools, and read the model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...refimpl.errors import ArgumentError
from .argument_types import Schema
from .call_formats import TEXT
from .call_grammar import Asked
from .call_parser import Answer, AnswerParser, joined
from .chat_template import ChatTemplate, Message, Tool, Variables
from .explained_tools import explained, form_of_explained
from .tokenizer import Tokenizer

NO_PARAMETERS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
TAIL = 32  # tokens at the end of a prompt, in which thoughts may begin


class CallRules(NamedTuple):
    """The rules for an answer's tool calls, in addition to the `strict` of each function.

    must_call: the answer must consist of calls.
    several: the answer may have more than one call.
    some: the model is shown more tools than it may call.
    """

    must_call: bool = False
    several: bool = True
    some: bool = False


class ChatAnswers:
    """The parser for the answers of a model that may call `tools`. `functions` are the tools' schemas by
    name.

    If `held` is true, a grammar made from `asked_calls` constrains each call from its beginning on. Raises
    ArgumentError for malformed tools.
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        tools: Sequence[Tool] = (),
        rules: CallRules | None = None,
    ) -> None:
        rules, functions = rules or CallRules(), schemas(tools)
        strict = {tool["function"]["name"] for tool in tools if tool["function"].get("strict")}
        bare = {tool["function"]["name"] for tool in tools if not tool["function"].get("parameters")}
        known = functions.keys() if rules.must_call else strict | bare
        self.asked_calls = Asked(
            [(name, schema if name in known else None) for name, schema in functions.items()],
            must_call=rules.must_call,
            several=rules.several,
            loose=functions.keys() - strict,
        )
        self.held = bool(tools) and (rules.must_call or bool(strict) or rules.some or not rules.several)
        answers, self._template = template.answers, template
        self._explains = answers.begin == TEXT.begin
        self.form = form_of_explained(answers) if self._explains and functions else answers
        self.functions = functions
        self._tokenizer = tokenizer
        self.tokens = self.form.tokens_of(tokenizer.control_tokens)

    @property
    def marks(self) -> frozenset[int]:
        """The tokens of the format's marks. An answer's decoded text must contain these tokens."""
        return frozenset(self.tokens.values())

    @property
    def lost_mark(self) -> str | None:
        """A mark before calls that the tokenizer drops from decoded texts, or None if the tokenizer keeps all
        of these marks.
        """
        for mark in filter(None, self.form.begin):
            ids = self._tokenizer.encode_template(mark)
            if self._tokenizer.decode(ids, self.marks).strip() != mark.strip():
                return mark.strip()
        return None

    def asked(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None
    ) -> tuple[Sequence[Message], Sequence[Tool] | None]:
        """Return the messages and the tools in the form that the model's template takes."""
        if tools is not None:
            tools = [_without_strict(tool) for tool in tools]
        calls = any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
        if self._explains and (tools or calls):
            return explained(messages, tools), None
        return messages, tools

    def ids(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        chat_template_kwargs: Variables | None = None,
    ) -> list[int]:
        """Return the ids of the prompt that makes the model write the next message of a conversation."""
        asked, shown = self.asked(messages, tools)
        return self._template.encode(asked, tools=shown, chat_template_kwargs=chat_template_kwargs)

    def thinks_after(self, ids: Sequence[int]) -> bool:
        """Return whether a prompt ends where the model's thoughts begin."""
        if self.form.thoughts is None:
            return False
        control = frozenset(self._tokenizer.control_tokens.values())
        tail = self._tokenizer.decode(ids[-TAIL:], control)
        return tail.rstrip().endswith(self.form.thoughts.begin.strip())

    def parser(self, *, thinking: bool) -> AnswerParser:
        """Return a parser for one answer; `thinking` says that the answer begins within thoughts."""
        return AnswerParser(self.form, self.functions, thinking=thinking)

    def answer(self, prompt: Sequence[int], text: str, finish_reason: str | None) -> Answer:
        """Return the thoughts, text and calls of a complete answer to a prompt; see `read`."""
        return self.read(text, finish_reason, thinking=self.thinks_after(prompt))

    def read(self, text: str, finish_reason: str | None, *, thinking: bool) -> Answer:
        """Return the thoughts, text and calls of a complete answer, without a call that was cut off."""
        parser = self.parser(thinking=thinking)
        return joined([*parser.feed(text), *parser.finish(cut=finish_reason != "stop")])


def _without_strict(tool: Tool) -> Tool:
    """Return a tool without `strict`, in the form that templates take. `strict` means nothing to a model."""
    function = {key: value for key, value in tool["function"].items() if key != "strict"}
    return {**tool, "function": function}


def schemas(tools: Sequence[Tool]) -> dict[str, Any]:
    """Return the schemas of functions by name. A function without parameters takes no arguments.

    Raises ArgumentError for malformed tools and for two tools with the same name.
    """
    made: dict[str, Any] = {}
    for i, tool in enumerate(tools):
        match tool:
            case {"type": "function", "function": {"name": str(name)} as function} if name not in made:
                made[name] = function.get("parameters") or NO_PARAMETERS
            case _:
                raise ArgumentError(
                    f'tool {i} must be like {{"type": "function", "function": {{"name": "f", "parameters": '
                    f"{{}}}}}}, with another name than the other tools, got {tool!r:.80}"
                )
    return made
