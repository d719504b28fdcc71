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
from ..text.call_grammar import Asked, grammar_of_answer
from ..text.call_parser import Answer, AnswerParser
from ..text.chat_answers import ChatAnswers, schemas
from ..text.chat_template import ChatTemplate
from ..text.constraints import Language
from .errors import RequestError
from .models import Served
from .requests import ChatBody


class Tools:
    """The tools that the answers to one request may call, and what is in these answers."""

    def __init__(self, body: ChatBody, served: Served) -> None:
        """RequestError for a model whose tokenizer can't write the marks of its calls."""
        model = served.model.model
        offered, shown = body.offered(), body.shown()
        self._shown = [tool.for_template() for tool in shown] or None
        functions = schemas([tool.for_template() for tool in offered])
        self._answers = ChatAnswers(model.chat_template, model.text, functions)
        self._text, self._stops = model.text, frozenset(model.generation.eos)
        self._thinking = False
        if offered and (mark := self._answers.lost_mark):
            raise RequestError(
                f"{served.name} can't call tools: its tokenizer doesn't keep {mark!r}, with which its calls "
                "begin",
                param="tools",
            )
        strict = {tool.function.name for tool in offered if tool.function.strict}
        self._must_call = body.must_call
        # Of a call that is asked for there is one, unless more are asked for too.
        several = body.parallel_tool_calls or (body.parallel_tool_calls is None and not self._must_call)
        some = len(offered) < len(shown)
        self._holds = bool(offered) and (self._must_call or bool(strict) or some or not several)
        bare = {tool.function.name for tool in offered if not tool.function.parameters}
        held = functions.keys() if self._must_call else strict | bare
        self._asked = Asked(
            [(name, schema if name in held else None) for name, schema in functions.items()],
            must_call=self._must_call,
            several=bool(several),
            loose=functions.keys() - strict,
        )

    @property
    def marks(self) -> frozenset[int]:
        """The tokens of marks, which the answers' texts have in them."""
        return self._answers.marks

    def asked(self, messages: list[dict[str, Any]]) -> tuple[Any, Any]:
        """The messages and the tools as the model's template takes them."""
        return self._answers.asked(messages, self._shown)

    def begin(self, prompt: Prompt, options: Options) -> tuple[Prompt, Options]:
        """The prompt, and the options of a text whose calls are as the request asks."""
        answers, document, language = self._answers, options.json_schema, options.language
        inner = None if language is None or document is not None else (language.kind, language.text)
        self._thinking = answers.thinks_after(prompt.ids)
        options = replace(options, shown=answers.marks)
        thoughts = answers.form.thoughts
        if inner is not None and not answers.functions:
            if self._thinking and thoughts is not None:  # a text of such a language has no thoughts in it
                end = self._text.encode_template(f"{thoughts.end}{thoughts.then}")
                self._thinking, prompt = False, Prompt([*prompt.ids, *end], None)
            return prompt, options
        held = inner is not None or (document is not None and (self._thinking or answers.functions))
        if not (self._holds or held):
            return prompt, options
        if self._must_call:
            inner = None
        asked = replace(
            self._asked, document=document, of_language=inner is not None, thinking=self._thinking
        )
        grammar = grammar_of_answer(answers.form, asked, answers.tokens, self._stops)
        calls = Language("tools", grammar, inner)
        stop = () if self._must_call else options.stop
        return prompt, replace(options, json_schema=None, regex=None, grammar=None, stop=stop, calls=calls)

    def parser(self) -> AnswerParser:
        """What reads one answer."""
        return self._answers.parser(thinking=self._thinking)

    def read(self, text: str, finish_reason: str | None) -> Answer:
        """What a complete answer holds. A call in which it is cut is left out."""
        return self._answers.read(text, finish_reason, thinking=self._thinking)


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


def wished(thinks: bool | str | None, template: ChatTemplate) -> dict[str, Any]:
    """The variables of the template for thoughts that are wished for, or by their effort: what it has."""
    if isinstance(thinks, str) and template.uses("reasoning_effort"):
        return {"reasoning_effort": thinks}
    return (
        {"enable_thinking": bool(thinks)} if thinks is not None and template.uses("enable_thinking") else {}
    )
