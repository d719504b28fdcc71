"""Constrain the answers of a chat: tool calls follow the tools' schemas, and all other text follows the
language that the options ask for.
"""

from __future__ import annotations

from dataclasses import replace

from ...refimpl.errors import LimitError
from ..text.call_grammar import grammar_of_answer
from ..text.chat_answers import ChatAnswers
from ..text.constraints import Language
from .base import TaskModel
from .documents import schema_of
from .options import Options


def held(
    model: TaskModel, answers: ChatAnswers, prompt: list[int], options: Options
) -> tuple[list[int], Options]:
    """Return the prompt's ids and the options, changed so that an answer follows the tools' schemas and the
    options' language.

    `answers` is the parser that reads the answer. The options' language (`json_schema`, `regex` or `grammar`)
    constrains the text after the thoughts, except for tool calls. If no tool may be called, a regular
    expression or a grammar constrains the whole answer. If the prompt then ends within thoughts, ids that end
    the thoughts are added to the prompt. Raises LimitError for options that don't work with such an
    answer.
    """
    document, language = options.json_schema, options.language
    inner = None if language is None or document is not None else (language.kind, language.text)
    thinking, thoughts = answers.thinks_after(prompt), answers.form.thoughts
    options = replace(options, shown=answers.marks)
    if inner is not None and not answers.functions:
        if thinking and thoughts is not None:
            prompt = [*prompt, *model.text.encode_template(f"{thoughts.end}{thoughts.then}")]
        return prompt, options
    if not (answers.held or inner or (document is not None and (thinking or answers.functions))):
        return prompt, options
    if options.beams is not None or not options.stop_on_eos:
        raise LimitError(
            "an answer with strict tools ends as soon as it is complete: don't set `beams` or `stop_on_eos`"
        )
    if answers.asked_calls.must_call:
        inner = None
    asked = replace(
        answers.asked_calls,
        document=None if document is None else schema_of(document),
        of_language=inner is not None,
        thinking=thinking,
    )
    grammar = grammar_of_answer(answers.form, asked, answers.tokens, frozenset(model.generation.eos))
    stop = () if asked.must_call else options.stop
    calls = Language("tools", grammar, inner)
    return prompt, replace(options, json_schema=None, regex=None, grammar=None, stop=stop, calls=calls)
