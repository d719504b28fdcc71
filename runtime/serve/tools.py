"""Tools and thoughts in a chat: what the model is asked, and what its answer holds.

The model's own format of calls, found from its chat template, is read; a model without one is told a
format. Where a call is asked for (`tool_choice`), with `strict`, or where only one call or some of the tools
may come, a call is held to a grammar from where it begins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..tasks.generate import Prompt
from ..tasks.options import Options
from ..text.call_formats import TEXT, CallFormat
from ..text.call_grammar import Asked, grammar_of_answer
from ..text.call_parser import Answer, AnswerParser, joined
from ..text.chat_template import ChatTemplate
from ..text.explained_tools import explained, form_of_explained
from .errors import RequestError
from .models import Served
from .requests import ChatBody

NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


class Tools:
    """The tools that the answers to one request may call, and what is in these answers."""

    def __init__(self, body: ChatBody, served: Served) -> None:
        """RequestError for a model whose tokenizer can't write the marks of its calls."""
        model = served.model.model
        template, self._text = model.chat_template, model.text
        offered, self._must_call = body.offered(), body.must_call
        self._explains = template.answers.begin == TEXT.begin
        self._shown = body.shown()
        self._form = form_of_explained(template.answers) if self._explains and offered else template.answers
        # Of a call that is asked for there is one, unless more are asked for too.
        several = body.parallel_tool_calls or (body.parallel_tool_calls is None and not self._must_call)
        some = len(offered) < len(self._shown)
        strict = any(tool.function.strict for tool in offered)
        self._holds = bool(offered) and (self._must_call or strict or some or not several)
        self._functions = {each.function.name: each.function.parameters or NO_PARAMETERS for each in offered}
        held = {
            tool.function.name
            for tool in offered
            if self._must_call or tool.function.strict or not tool.function.parameters
        }
        loose = {tool.function.name for tool in offered if not tool.function.strict}
        functions = [(name, schema if name in held else None) for name, schema in self._functions.items()]
        self._asked = Asked(functions, must_call=self._must_call, several=bool(several), loose=loose)
        self._stops = frozenset(model.generation.eos)
        self._tokens = self._form.tokens_of(self._text.control_tokens)
        self._thinking = False
        if offered:
            self._check(served.name, self._form)

    def _check(self, name: str, form: CallFormat) -> None:
        """A mark that isn't in texts couldn't be read there."""
        for mark in filter(None, form.begin):
            ids = self._text.encode_template(mark)
            if self._text.decode(ids, self.marks).strip() != mark.strip():
                raise RequestError(
                    f"{name} can't call tools: its tokenizer doesn't keep {mark.strip()!r}, with which its "
                    "calls begin",
                    param="tools",
                )

    @property
    def marks(self) -> frozenset[int]:
        """The tokens of the format's marks, which an answer's text has in it."""
        return frozenset(self._tokens.values())

    def prepared(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any]:
        """The messages and the tools as the model's template takes them."""
        tools = [tool.for_template() for tool in self._shown] or None
        calls = any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
        if self._explains and (tools or calls):
            return explained(messages, tools), None
        return messages, tools

    def begin(self, prompt: Prompt, options: Options) -> tuple[Prompt, Options]:
        """The prompt, and the options of a text whose calls are as the request asks."""
        thoughts = self._form.thoughts
        if thoughts is not None:
            tail = self._text.decode(prompt.ids[-32:], frozenset(self._text.control_tokens.values()))
            self._thinking = tail.rstrip().endswith(thoughts.begin.strip())
        options = replace(options, shown=self.marks)
        constrained = options.language is not None
        if self._thinking and constrained and options.json_schema is None and thoughts is not None:
            # A text of such a language has no thoughts in it.
            end = self._text.encode_template(f"{thoughts.end}{thoughts.then}")
            self._thinking = False
            return Prompt([*prompt.ids, *end], None), options
        document = options.json_schema
        if not self._holds and (document is None or not (self._thinking or self._functions)):
            return prompt, options
        asked = replace(self._asked, document=document, thinking=self._thinking)
        grammar = grammar_of_answer(self._form, asked, self._tokens, self._stops)
        stop = () if self._must_call else options.stop
        return prompt, replace(options, json_schema=None, stop=stop, calls=grammar)

    def parser(self) -> AnswerParser:
        """What reads one answer."""
        return AnswerParser(self._form, self._functions, thinking=self._thinking)

    def read(self, text: str, finish_reason: str | None) -> Answer:
        """What a complete answer holds. A call in which it is cut is left out."""
        parser = self.parser()
        return joined([*parser.feed(text), *parser.finish(cut=finish_reason != "stop")])


def effort(body: ChatBody, template: ChatTemplate) -> dict[str, Any]:
    """The variables of the template that say how much the model thinks; RequestError where it has none."""
    stated = body.reasoning_effort
    if stated is None:
        return {}
    if template.uses("reasoning_effort"):
        return {"reasoning_effort": stated}
    if template.uses("enable_thinking"):
        return {"enable_thinking": stated != "none"}
    raise RequestError(
        "reasoning_effort: the model's chat template has nothing that says how much it thinks: leave it out",
        param="reasoning_effort",
    )
