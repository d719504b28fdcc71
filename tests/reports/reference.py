"""The pages of reference for the site, made from the code: commands, the server's requests, Python's names.

PYTHONPATH=tests python -m reports.reference OUT
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tfm
import typer.main
from tfm.cli import main as cli
from tfm.runtime.serve import app, openapi

SCHEMAS = "#/components/schemas/"
LARGEST = 2**31 - 1  # a bound of it is none that a person meets


def text(written: str) -> str:
    """A sentence as Markdown that shows the same characters, but for code in backquotes."""
    parts = re.split(r"(`[^`]+`)", " ".join(written.split()))
    return "".join(re.sub(r"([|])" if part[:1] == "`" else r"([*<\[|])", r"\\\1", part) for part in parts)


def table(*rows: Iterable[str]) -> Iterator[str]:
    """A Markdown table, whose first row is the head."""
    head, *body = map(list, rows)
    for row in (head, ["---"] * len(head), *body):
        yield f"| {' | '.join(row)} |"


def commands() -> Iterator[str]:
    """Each command with its arguments and options, as `--help` has them, in the help's order."""
    group: Any = typer.main.get_command(cli.application())
    yield "# Commands and their options\n"
    yield "What `tfm-cli COMMAND --help` says, for all commands.\n"
    for name, command in group.commands.items():
        yield f"\n## {name}\n"
        yield from _command(name, command)
        for sub, one in getattr(command, "commands", {}).items():
            yield f"\n### {name} {sub}\n"
            yield from _command(f"{name} {sub}", one)


def _command(name: str, command: Any) -> Iterator[str]:
    said = command.help.replace("\\[", "[").split("\n\n")
    examples = [one.removeprefix("Example: ") for one in said if one.startswith("Example: ")]
    yield from (f"{text(paragraph)}\n" for paragraph in said if not paragraph.startswith("Example: "))
    if examples:
        yield "```sh"
        yield from (" ".join(one.split()) for one in examples)
        yield "```\n"
    if shown := [param for param in command.params if not getattr(param, "hidden", False)]:
        head = (f"`{name}`", "takes", "what it does")
        yield from table(head, *([_flags(p), _value(p), _help(p)] for p in shown))


def _flags(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{(param.metavar or param.name.upper())}`"
    return ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))


def _value(param: Any) -> str:
    if getattr(param, "is_flag", False) or param.param_type_name == "argument":
        return ""
    choices = getattr(param.type, "choices", None)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    return text(param.metavar or param.type.name.upper())


def _help(param: Any) -> str:
    said = text((param.help or "").replace("\\[", "["))
    default = param.default
    if default is None or isinstance(default, bool) or callable(default) or default == ():
        return said
    return f"{said} By default `{default}`."


def server() -> Iterator[str]:
    """The endpoints, and the fields that a request to each may have."""
    document = openapi.document(app.ROUTES, keys=False)
    schemas = document["components"]["schemas"]
    yield "# Endpoints and fields of requests\n"
    yield (
        "What `/openapi.json` of a server says, as tables. A body must have the fields in bold. A field that "
        "isn't known is an error, unless it is null.\n"
    )
    rows, bodies = [], {}
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            says = re.sub(r"^`.*?ID`(?=[:.])|^`[^`]*`", "", about["summary"]).strip(":. ")
            body = about.get("requestBody")
            (content,) = body["content"].values() if body else ({"schema": {"$ref": ""}},)
            kind = content["schema"]["$ref"].removeprefix(SCHEMAS)
            if kind:
                bodies.setdefault(kind, []).append(path)
            rows.append([f"`{method.upper()} {path}`", text(says), _link(kind) if kind else ""])
    yield from table(("request", "what it answers", "body"), *rows)
    for kind in (*bodies, *sorted(set(schemas) - set(bodies), key=_title)):
        yield f"\n## {_title(kind)}\n"
        if kind in bodies:
            yield f"The body of {', '.join(f'`{path}`' for path in bodies[kind])}.\n"
        elif said := schemas[kind].get("description"):
            yield f"{text(said)}\n"
        required = schemas[kind].get("required", ())
        fields = schemas[kind].get("properties", {})
        named = ((f"**`{n}`**" if n in required else f"`{n}`", field) for n, field in fields.items())
        if fields:
            yield from table(("field", "value"), *([name, _type(field)] for name, field in named))


def _title(kind: str) -> str:
    """A record's name; where two modules have one of it, the API's follows."""
    *_, module, name = ("", *kind.split("__")) if "__" in kind else ("", "", kind)
    apis = {
        "requests": "OpenAI",
        "openai_responses": "responses",
        "anthropic_messages": "Anthropic",
        "ollama": "ollama",
    }
    return f"{name} of {apis[module]}" if module else name


def _link(kind: str) -> str:
    title = _title(kind)
    return f"[{title}](#{title.lower().replace(' ', '-')})"


def _type(schema: Mapping[str, Any]) -> str:
    """What values a field may have, in words."""
    if "$ref" in schema:
        return _link(schema["$ref"].removeprefix(SCHEMAS))
    if "const" in schema:
        return f"`{_json(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{_json(value)}`" for value in schema["enum"])
    either = schema.get("anyOf") or schema.get("oneOf")
    if either:
        return " or ".join(_type(one) for one in either if one.get("type") != "null")
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}" + _range(schema, "minItems", "maxItems", " items")
    if kind == "object":
        return "object"
    if kind == "string":
        return "text" + _range(schema, "minLength", "maxLength", " characters")
    words = {"integer": "whole number", "boolean": "true or false"}
    return words.get(kind, str(kind)) + _range(schema, "minimum", "maximum")


def _range(schema: Mapping[str, Any], least: str, most: str, unit: str = "") -> str:
    low, high = schema.get(least), schema.get(most)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = [
        *(["above " + str(above)] if above is not None else []),
        *([f"from {low}"] if low not in (None, 1 if unit else None) and abs(low) <= LARGEST else []),
        *([f"to {high}"] if high is not None and high < LARGEST else []),
        *([f"below {below}"] if below is not None and below < LARGEST else []),
    ]
    return f", {' '.join(parts)}{unit}" if parts else ""


def _json(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def python() -> Iterator[str]:
    """The names of `import tfm`: signatures, first sentences, methods."""
    yield "# Names in Python\n"
    yield (
        'What `import tfm` has. <a href="../../api/tfm.html">The pages of every module</a> have options, '
        "shapes and formulas, as `help()` does.\n"
    )
    names = sorted(tfm.__all__, key=lambda name: (isinstance(getattr(tfm, name), type), name))
    functions = [name for name in names if not isinstance(getattr(tfm, name), type)]
    errors = [name for name in names if name not in functions and issubclass(getattr(tfm, name), tfm.Error)]
    for name in [*functions, *(n for n in names if n not in (*functions, *errors))]:
        thing = getattr(tfm, name)
        yield f"\n## tfm.{name}\n"
        yield f"```python\n{name}{_signature(thing)}\n```\n"
        yield f"{text(_first(thing))}\n"
        if isinstance(thing, type):
            methods = [one for one in dir(thing) if one[0] != "_" and inspect.getdoc(getattr(thing, one))]
            yield from table(
                ("name", "what"), *([f"`{m}`", text(_first(getattr(thing, m)))] for m in methods)
            )
    yield "\n## Errors\n"
    rows = ([f"`tfm.{n}`", str(getattr(tfm, n).exit_code), text(_first(getattr(tfm, n)))] for n in errors)
    yield from table(("class", "exit code", "when"), *rows)


def _first(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0]


def _signature(thing: Any) -> str:
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(thing))).replace("_t.", "")


PAGES = {"commands.md": commands, "server.md": server, "python.md": python}


def main(out: Path) -> None:
    """Write the pages into this folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (out / name).write_text("\n".join(page()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
