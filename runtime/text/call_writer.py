"""Write answers in a model's format: thoughts, text and tool calls. The writer doesn't check whether the
format can express an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .call_formats import CallFormat, Item, Keywords, Marked, Parameters, Values

ID = "call{:05}"  # nine letters and digits, as Mistral has them


def write_answer(
    form: CallFormat, thoughts: str, text: str, calls: Sequence[tuple[str, Mapping[str, Any]]]
) -> str:
    """Return an answer as text in a format. `call_parser` reads the same answer from this text."""
    parts = []
    if thoughts and form.thoughts is not None:
        parts.append(f"{form.thoughts.begin}{thoughts}{form.thoughts.end}")
    if text:
        parts.append(f"{form.text[0]}{text}{form.text[1]}")
    if thoughts and len(parts) == 2:
        assert form.thoughts is not None
        parts = [form.thoughts.then.join(parts)]
    return form.gap.join([*parts, *_sections(form, calls)])


def _sections(form: CallFormat, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    begin, opening, closing = form.begin[0], form.opening, form.closing
    written = [_call(form.call, i, name, arguments) for i, (name, arguments) in enumerate(calls)]
    bodies = written if form.separator is None else [form.separator.join(written)] if written else []
    return [f"{begin}{opening}{body}{closing}{form.end}" for body in bodies]


def _call(call: Item | Marked, index: int, name: str, arguments: Mapping[str, Any]) -> str:
    if isinstance(call, Item):
        return _json({call.name: name, call.arguments: arguments})
    aside = call.asides[0].replace("{index}", str(index)).replace("{id}", ID.format(index))
    return f"{call.before}{name}{aside}{call.middle}{_arguments(call.arguments, arguments)}{call.after}"


def _arguments(form: Values | Keywords | Parameters, arguments: Mapping[str, Any]) -> str:
    match form:
        case Values():
            return write_value(form, arguments)
        case Keywords(values):
            return ", ".join(f"{key}={write_value(values, value)}" for key, value in arguments.items())
        case Parameters():
            return "".join(_parameter(form, key, value) for key, value in arguments.items())


def _parameter(marks: Parameters, key: str, value: object) -> str:
    if isinstance(value, str):
        return f"{marks.before}{key}{marks.middle}{value}{marks.after}"
    return f"{marks.before}{key}{marks.value_middle or marks.middle}{_json(value)}{marks.after}"


def write_value(values: Values, value: object) -> str:
    """Return a value as text in the notation `values`."""
    if isinstance(value, str):
        quote = values.quotes[0]
        return f"{quote}{value}{quote}" if values.escapes is None else _json(value)
    if isinstance(value, Mapping):
        keys = [key if values.bare_keys else _json(key) for key in value]
        items = [write_value(values, item) for item in value.values()]
        return f"{{{', '.join(f'{key}: {item}' for key, item in zip(keys, items, strict=True))}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(write_value(values, item) for item in value)}]"
    written = _json(value)
    return next((word for word, meaning in values.words.items() if meaning == written), written)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
