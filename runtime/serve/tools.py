"""Make the model's prompt for a chat with tools and thoughts, and parse the model's answer.

Tool calls are parsed in the model's own format, which the chat template reveals. For a model without its
own format, the prompt explains a format. A grammar constrains each call from its beginning on, if the
request limits the calls. A request limits the calls if a call is required (`tool_choice`), if a tool is
`strict`, or if only one call or only some of the tools are allowed.
"""

from __future__ import annotations

from typing import Any

from ..tasks.generate import Prompt
from ..tasks.held_answers import held
from ..tasks.options import Options
from ..text.call_parser import Answer, AnswerParser
from ..text.chat_answers import CallRules, ChatAnswers
from ..text.chat_template import ChatTemplate
from .errors import RequestError
from .models import Served
from .requests import ChatBody


class Tools:
    """The tools that the answers to one request may call, and the parser of these answers."""

    def __init__(self, body: ChatBody, served: Served) -> None:
        """Prepare the tools of a request. Raises RequestError if the model's tokenizer can't write the marks
        around tool calls.
        """
        self._model = model = served.model.model
        offered, shown = body.offered(), body.shown()
        self._shown = [tool.as_stated() for tool in shown] or None
        # Of a call that is asked for there is one, unless more are asked for too.
        several = not body.must_call if body.parallel_tool_calls is None else body.parallel_tool_calls
        rules = CallRules(body.must_call, several, len(offered) < len(shown))
        tools = [tool.as_stated() for tool in offered]
        self._answers = ChatAnswers(model.chat_template, model.text, tools, rules)
        self._thinking = False
        if offered and (mark := self._answers.lost_mark):
            raise RequestError(
                f"the model {served.name} can't call tools: a call begins with {mark!r}, but the model's "
                "tokenizer removes this delimiter from texts",
                param="tools",
            )

    @property
    def marks(self) -> frozenset[int]:
        """The control tokens that mark calls and thoughts. The answers' texts keep these tokens, so that the
        parser finds the marks.
        """
        return self._answers.marks

    def asked(self, messages: list[dict[str, Any]]) -> tuple[Any, Any]:
        """Return the messages and the tools in the form that the model's chat template reads."""
        return self._answers.asked(messages, self._shown)

    def begin(self, prompt: Prompt, options: Options) -> tuple[Prompt, Options]:
        """Return the prompt and the options, changed so that the answer's tool calls follow the request."""
        ids, options = held(self._model, self._answers, prompt.ids, options)
        self._thinking = self._answers.thinks_after(ids)
        return Prompt(ids, None), options

    def parser(self) -> AnswerParser:
        """Return a new parser for one answer."""
        return self._answers.parser(thinking=self._thinking)

    def read(self, text: str, finish_reason: str | None) -> Answer:
        """Parse a complete answer into thoughts, text and tool calls. A call that the answer's end cuts off
        is left out.
        """
        return self._answers.read(text, finish_reason, thinking=self._thinking)


def effort(body: ChatBody, template: ChatTemplate) -> dict[str, Any]:
    """Return the chat template's variables for the request's `reasoning_effort`. Raises RequestError if the
    template has no such variable.
    """
    stated = body.reasoning_effort
    if stated is None:
        return {}
    if template.uses("reasoning_effort"):
        return {"reasoning_effort": stated}
    if template.uses("enable_thinking"):
        return {"enable_thinking": stated != "none"}
    raise RequestError(
        "the model's chat template doesn't use reasoning_effort: remove this field",
        param="reasoning_effort",
    )


def wished(thinks: bool | str | None, template: ChatTemplate) -> dict[str, Any]:
    """Return the chat template's variables that switch thoughts on or off, or set their effort.

    `thinks` is True, False, an effort such as "high", or None for the model's default. A variable that the
    template doesn't use is left out.
    """
    if isinstance(thinks, str) and template.uses("reasoning_effort"):
        return {"reasoning_effort": thinks}
    return (
        {"enable_thinking": bool(thinks)} if thinks is not None and template.uses("enable_thinking") else {}
    )
