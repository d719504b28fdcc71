"""Write a grammar, in Lark's form, of answers in a format of calls. Each call must be complete, name one of
the functions and follow the function's schema.

For arguments in JSON, the library (llguidance) enforces their schema. In other notations, arguments must come
in the order of the schema's properties, and no further arguments are allowed. A schema for which this isn't
possible is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...refimpl.errors import ArgumentError
from .argument_types import Schema, resolved, type_of, types_of
from .call_formats import CallFormat, Item, Keywords, Marked, Parameters, Values
from .call_values import KEYWORD
from .call_writer import write_value
from .language_follower import JSON_OPTIONS
from .text_reader import LONGEST_ASIDE

# Keywords that hold no value to anything.
NOTES = frozenset(
    {"title", "description", "default", "examples", "deprecated", "$schema", "$id", "$comment", "$defs"}
    | {"definitions"}
)
OF_OBJECTS = NOTES | {"type", "properties", "required", "additionalProperties"}
ASIDES = {"{index}": "[0-9]{1,3}", "{id}": "[a-zA-Z0-9]{9}"}
LONGEST = 4 * 2**20  # characters of a grammar: a part of a schema stands in it with all that it may refer to
ANY: Schema = {"type": "object"}
BARE = re.compile(r"[^\s:{}\[\],<>\"](?:[^\n:{}\[\],<>\"]*[^\s:{}\[\],<>\"])?")  # a key without quotes
NOTHING = '""'
PYTHON_WORDS = {"boolean": '"True" | "False"', "null": '"None"'}


@dataclass(frozen=True)
class Asked:
    """The rules that an answer must follow.

    - `functions`: each function's name and schema. The schema None allows any arguments.
    - `must_call`: the answer consists of calls; otherwise it may also be a text.
    - `several`: the answer may contain more than one call.
    - `loose`: functions that may have any arguments if the format can't express their schema.
    - `document`: text outside of calls is a document of this schema.
    - `of_language`: text outside of calls belongs to another language, which the grammar calls `@text`.
    - `thinking`: the answer begins within thoughts.
    """

    functions: Sequence[tuple[str, Schema | None]] = ()
    must_call: bool = False
    several: bool = True
    loose: Collection[str] = ()
    document: Schema | None = None
    of_language: bool = False
    thinking: bool = False

    @property
    def is_held(self) -> bool:
        """Return whether text outside of calls must follow a schema or a language."""
        return self.of_language or self.document is not None


def grammar_of_answer(
    form: CallFormat, asked: Asked, tokens: Mapping[str, int], stops: frozenset[int] = frozenset()
) -> str:
    """Return the grammar of an answer. `tokens` are the tokens in the format's marks
    (`CallFormat.tokens_of`).

    The answer's text contains no token of `stops`, since such a token ends the answer.
    """
    return _Grammar(form, tokens, stops).of(asked)


class _Grammar:
    """The rules of a grammar by their names, collected while the grammar is written."""

    def __init__(self, form: CallFormat, tokens: Mapping[str, int], stops: frozenset[int]) -> None:
        self._form, self._tokens, self._stops = form, tokens, stops
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        self._rules: dict[str, str] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._length = 0

    def of(self, asked: Asked) -> str:
        thought = self._thought(asked)
        main = self._main(asked)
        if asked.thinking or not thought:
            start = f"{thought} {main}"
        else:
            start = f"({thought})? {main}"
        return "\n".join([f"start: {start}", *(f"{name}: {rule}" for name, rule in self._rules.items())])

    def _rule(self, kind: str, body: str, attributes: str = "") -> str:
        """Add a rule, and return the rule's name. Rules with the same kind and body share one name."""
        if (kind, body) not in self._names:
            self._length += len(body)
            if self._length > LONGEST:
                raise ArgumentError(
                    f"the grammar of tools may have at most {LONGEST} characters: give fewer tools"
                )
        known = self._names.setdefault((kind, body), f"{kind}_{len(self._names)}")
        self._rules[known + attributes] = body
        return known

    # The parts of an answer.

    def _thought(self, asked: Asked) -> str:
        """Return the grammar of thoughts before the rest of the answer, or an empty text if none is needed.

        If the answer begins within thoughts, the mark that begins thoughts is left out.
        """
        thoughts = self._form.thoughts
        if thoughts is None or (thoughts.anywhere and not asked.must_call and not asked.is_held):
            return ""
        begin = "" if asked.thinking else f"{self._space()} {self._mark(thoughts.begin.strip())}"
        then = self._mark(thoughts.then) if thoughts.then.strip() else self._space()
        return f"{begin} {self._until(thoughts.end.strip())} {then}"

    def _main(self, asked: Asked) -> str:
        choices = []
        if asked.functions and (asked.must_call or asked.is_held):
            choices.append(f"{self._mark(self._form.begin[0])} {self._rest(asked)}")
        if asked.is_held and not asked.must_call:
            before, after = map(self._mark, self._form.text)
            text = "@text" if asked.document is None else self._json(asked.document)
            choices.append(f"{before} {text} {f'({after})?' if after else ''}")
        if not asked.must_call and not asked.is_held:
            choices += self._free(asked)
        return self._rule("main", " | ".join(choices))

    def _free(self, asked: Asked) -> list[str]:
        """Return the choices for an answer without constraints: a text, or a text with calls at its end."""
        form = self._form
        # Of two marks with the same end one is enough.
        begins = [
            mark
            for mark in filter(None, form.begin)
            if not any(mark != other and mark.endswith(other) for other in filter(None, form.begin))
        ]
        bare = "" in form.begin
        # What begins so isn't a text.
        others = [rf"~/(?s:\s*{_regex(self._bare_begin())}.*)/"] if bare else []
        if form.thoughts is not None and not form.thoughts.anywhere:
            others.append(rf"~/(?s:\s*{_regex(form.thoughts.begin.strip())}.*)/")
        spelled = [f"~/(?s:.*{_regex(mark)}.*)/" for mark in begins]
        text = self._rule("TEXT", " & ".join(["/(?s:.*)/", *spelled, *others]))
        inner = sorted({f"<[{id}]>" for id in self._tokens_of_texts() - self._stops})
        lead = self._rule("lead", f"({text} ({' | '.join(inner)}))*") if inner else ""
        if not asked.functions:
            return [f"{lead} {text}"]
        rest = self._rest(asked)
        choices = [f"{lead} {text}", *(f"{lead} {self._until(mark, text, others)} {rest}" for mark in begins)]
        return [*choices, f"{lead} {self._space()} {rest}"] if bare else choices

    def _space(self) -> str:
        return self._rule("SPACE", "/[ \\n]{0,4}/")

    def _bare_begin(self) -> str:
        """Return the first character of calls that have no mark before them."""
        return (self._form.opening.strip() or "{")[0]

    def _tokens_of_texts(self) -> set[int]:
        """Return the ids of tokens in marks around texts and thoughts, which may occur outside of calls."""
        form = self._form
        marks = [*form.silent, *form.text]
        if form.thoughts is not None and form.thoughts.anywhere:
            marks += [form.thoughts.begin, form.thoughts.end, form.thoughts.then]
        return {id for token, id in self._tokens.items() if any(token in mark for mark in marks)}

    def _rest(self, asked: Asked) -> str:
        """Return the grammar of everything after the first mark of calls."""
        form = self._form
        call = self._rule("calls", " | ".join(self._call(asked, *each) for each in asked.functions))
        more = asked.several and not self._ends_answer(form.end)
        listed = more and form.separator is not None
        calls = f"{call} ({self._mark(form.separator)} {call})*" if listed else call
        section = f"{self._mark(form.opening)} {calls} {self._mark(form.closing)} {self._mark(form.end)}"
        section = self._rule("section", section)
        if listed or not more:
            return section
        return f"{section} ({self._gap()} {self._mark(form.begin[0])} {section})*"

    def _gap(self) -> str:
        return self._mark(self._form.gap) if self._form.gap.strip() else self._space()

    def _ends_answer(self, mark: str) -> bool:
        return any(id in self._stops and token in mark for token, id in self._tokens.items())

    def _call(self, asked: Asked, name: str, schema: Schema | None) -> str:
        try:
            return self._call_of(name, schema)
        except ArgumentError:
            if name not in asked.loose:
                raise
            return self._call_of(name, None)

    def _call_of(self, name: str, schema: Schema | None) -> str:
        call = self._form.call
        if schema is not None and "$ref" not in schema:
            schema = {"type": "object", **schema}
        if isinstance(call, Item):
            # In the pieces that a document of JSON has, which may begin alike.
            quoted = [_literal(f'"{each}"') for each in (call.name, name, call.arguments)]
            head = f'"{{" {quoted[0]} /: ?/ {quoted[1]} /, ?/ {quoted[2]} /: ?/'
            return self._rule("call", f'{head} {self._json(schema or ANY)} "}}"')
        aside = " | ".join(self._aside(each) for each in call.asides)
        before, middle, after = map(self._mark, (call.before, call.middle, call.after))
        arguments = self._arguments(call, name, schema)
        return self._rule("call", f"{before} {_literal(name)} ({aside}) {middle} {arguments} {after}")

    def _aside(self, text: str) -> str:
        for hole, pattern in ASIDES.items():
            if hole in text:
                before, after = text.split(hole)
                return f"{self._mark(before)} /{pattern}/ {self._mark(after)}"
        return self._mark(text) or NOTHING

    # Arguments.

    def _arguments(self, call: Marked, name: str, schema: Schema | None) -> str:
        match call.arguments:
            case Values(bare_keys=False):
                return self._json(schema or ANY)
            case Values() as values:
                return self._noted(values, schema or ANY, schema or ANY, name, {})
            case Keywords():
                return self._listed(schema, name, KEYWORD, self._keyword, "/, ?/")
            case Parameters() as marks:
                ends = re.escape(marks.middle.split()[0])
                key = re.compile(rf"(?!.*{ends})\S(.*\S)?")
                return self._listed(schema, name, key, lambda *each: self._parameter(marks, *each), "")

    def _listed(
        self,
        schema: Schema | None,
        name: str,
        readable: re.Pattern[str],
        write: Callable[[str, Schema, Schema, str], str],
        comma: str,
    ) -> str:
        """Return the grammar of arguments written one after the other. `write` writes the grammar of one
        argument.

        If the schema states no properties, arguments with any names are allowed.
        """
        own, properties = _object(schema or {}, schema or {}, name, readable)
        if not properties and own.get("additionalProperties") is not False:
            one = write("", {}, {}, name)
            return f"({one} ({comma} {one})*)?" if comma else f"({one})*"
        written = [
            (write(key, part, schema or {}, f"{name}: {key}"), key in own.get("required", ()))
            for key, part in properties.items()
        ]
        return self._in_order(written, comma)

    def _in_order(self, written: Sequence[tuple[str, bool]], comma: str) -> str:
        """Return the grammar of parts in this order, with a comma between the parts that are present.

        Each part comes with whether it is required.
        """
        first, more = "", ""  # what may follow from a part on, without or after an earlier one
        for part, required in reversed(written):
            part = self._rule("part", part)
            if required:
                first, more = f"{part} {more}", f"{comma} {part} {more}"
            else:
                first = self._rule("first", f"{part} {more} | {first or NOTHING}")
                more = f"({comma} {part})? {more}"
            more = self._rule("more", more)
        return first

    def _key(self, key: str) -> str:
        """Return the grammar of a key. An empty `key` allows any key."""
        return _literal(key) if key else self._rule("KEY", "/[a-zA-Z_][a-zA-Z0-9_]{0,63}/")

    def _keyword(self, key: str, part: Schema, schema: Schema, where: str) -> str:
        part = _mapping(part, where)
        types = types_of(part, schema) or frozenset()
        words = [PYTHON_WORDS[each] for each in PYTHON_WORDS if each in types and _is_plain(part, schema)]
        if not words or not types <= set(PYTHON_WORDS):
            words.append(self._json(_with_parts(part, schema)))
        return f'{self._key(key)} "=" ({" | ".join(words)})'

    def _parameter(self, marks: Parameters, key: str, part: Schema, schema: Schema, where: str) -> str:
        """Return the grammar of an argument between marks, with a text written without quotes. An empty `key`
        allows any key.
        """
        part = _mapping(part, where)
        types = types_of(part, schema)
        own = resolved(part, schema)
        named = f"{self._mark(marks.before)} {self._key(key)}"
        after, end = self._mark(marks.after), marks.after.strip()
        as_text = f"{named} {self._mark(marks.middle)}"
        as_value = f"{named} {self._mark(marks.value_middle or marks.middle)}"
        if types is not None and "string" not in types:
            return f"{as_value} {self._json(_with_parts(part, schema))} {after}"
        if types == {"string"} and ("enum" in own or "const" in own):
            values = [one for one in _values(own) if isinstance(one, str)]
            if not values or any(end in value for value in values):
                raise _refused(where, f"an enum or const whose values aren't all texts without {end!r}")
            return f"{as_text} ({' | '.join(map(_literal, values))}) {after}"
        if not _is_plain(part, schema):
            raise _refused(where, "other keywords than type for a string")
        text = f"{as_text} {self._until(end)} {self._mark(marks.after[len(marks.after.rstrip()) :])}"
        others = {} if types is None else {"type": sorted(types - {"string"})}
        if marks.value_middle is None or types == {"string"}:
            return text
        return f"({text} | {as_value} {self._json(others)} {after})"

    def _noted(self, values: Values, part: Schema, schema: Schema, where: str, seen: dict[str, str]) -> str:
        """Return the grammar of a schema's values in a notation other than JSON.

        Each part that the schema refers to gets a rule of its own. `seen` has the names of these rules by
        reference.
        """
        part = _mapping(part, where)
        reference = part.get("$ref")
        if isinstance(reference, str):
            _check(part, {"$ref"}, where)
            if reference not in seen:
                seen[reference] = name = f"reference_{len(self._rules)}"
                self._rules[name] = self._noted(values, resolved(part, schema), schema, where, seen)
            return seen[reference]
        match part:
            case {"enum": _} | {"const": _}:
                return self._chosen(values, part, where)
            case {"anyOf": [*parts]} | {"oneOf": [*parts]}:
                _check(part, {"anyOf", "oneOf"}, where)
                return f"({' | '.join(self._noted(values, each, schema, where, seen) for each in parts)})"
            case {"type": [*names]}:
                each = [self._noted(values, {**part, "type": name}, schema, where, seen) for name in names]
                return f"({' | '.join(each)})"
            case {"type": "string"}:
                _check(part, {"type"}, where)
                return f"{self._mark(values.quotes[0])} {self._until(values.quotes[0])}"
            case {"type": "array"}:
                _check(part, {"type", "items"}, where)
                item = self._rule("item", self._noted(values, part.get("items", {}), schema, where, seen))
                return f'"[" ({item} (/, ?/ {item})*)? "]"'
            case {"type": "object"} | {"properties": _}:
                return self._noted_object(values, part, schema, where, seen)
            case {"type": str()}:
                return self._json(part)
        _check(part, set(), where)
        return self._any(values, seen)

    def _chosen(self, values: Values, part: Schema, where: str) -> str:
        _check(part, {"enum", "const", "type"}, where)
        types = types_of({"type": part["type"]}, {}) if "type" in part else None
        allowed = [each for each in _values(part) if types is None or not types.isdisjoint(type_of(each))]
        if not allowed:
            raise _refused(where, "an enum or const without a value of the stated type")
        return f"({' | '.join(self._mark(write_value(values, each)) for each in allowed)})"

    def _noted_object(
        self, values: Values, part: Schema, schema: Schema, where: str, seen: dict[str, str]
    ) -> str:
        own, properties = _object(part, schema, where, BARE)
        if not properties and own.get("additionalProperties") is not False:
            return self._any_object(values, seen)
        written = []
        for key, each in properties.items():
            value = self._noted(values, each, schema, where, seen)
            written.append((f"{_literal(key)} /: ?/ {value}", key in own.get("required", ())))
        return f'"{{" {self._in_order(written, "/, ?/")} "}}"'

    def _any(self, values: Values, seen: dict[str, str]) -> str:
        if "any" not in seen:
            seen["any"] = "any"
            quote = self._mark(values.quotes[0])
            text = f"{quote} {self._until(values.quotes[0])}"
            number = self._json({"type": ["number", "boolean", "null"]})
            self._rules["any"] = (
                f'{text} | {number} | "[" (any (/, ?/ any)*)? "]" | {self._any_object(values, seen)}'
            )
        return "any"

    def _any_object(self, values: Values, seen: dict[str, str]) -> str:
        pair = f"{self._key('')} /: ?/ {self._any(values, seen)}"
        return f'"{{" ({pair} (/, ?/ {pair})*)? "}}"'

    def _json(self, schema: Schema) -> str:
        return self._rule("json", f"%json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}")

    # Marks.

    def _parts(self, mark: str) -> list[str]:
        return [part for part in self._pattern.split(mark) if part]

    def _mark(self, mark: str | None) -> str:
        """Return the grammar of a mark. A token in the mark may be generated as a token or as its characters.

        Stop tokens are left out.
        """
        written = []
        for part in self._parts(mark or ""):
            if part not in self._tokens:
                written.append(_literal(part))
            elif self._tokens[part] not in self._stops:
                written.append(f"(<[{self._tokens[part]}]> | {_literal(part)})")
        return " ".join(written)

    def _until(self, mark: str, text: str = "", others: Sequence[str] = ()) -> str:
        """Return the grammar of any text without the mark, followed by the mark.

        If the mark begins with a token, the text before this token follows the rule `text`, if one is given.
        `others` are further terms that the text must match."""
        spelled = " & ".join([f"/(?s:.*){_regex(mark)}/", *others])
        spelled = self._rule("until", spelled, "[lazy]")
        first = next((i for i, part in enumerate(self._parts(mark)) if part in self._tokens), None)
        if first is None:
            return spelled
        before, rest = "".join(self._parts(mark)[:first]), self._parts(mark)[first + 1 :]
        if before or not text:
            without = [f"~/(?s:.*{_regex(mark)}.*)/", *others]
            text = self._rule("UNTIL", " & ".join([f"/(?s:.*){_regex(before)}/", *without]))
        token = self._tokens[self._parts(mark)[first]]
        return f"({text} <[{token}]> {self._mark(''.join(rest))} | {spelled})"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(text: str) -> str:
    return re.escape(text).replace("/", r"\/").replace("\n", "n")


def _object(
    part: Schema, schema: Schema, where: str, readable: re.Pattern[str]
) -> tuple[Schema, Mapping[str, Any]]:
    """Return a schema of objects, after following its reference, and the schema's properties.

    Raises ArgumentError for keywords that the grammar can't express, and for names that don't match
    `readable`.
    """
    own = resolved(part, schema)
    _check(own, OF_OBJECTS, where)
    for word, kind in (("properties", dict), ("required", list)):
        if not isinstance(own.get(word, kind()), kind):
            raise _refused(where, f"a keyword {word} that isn't {'an object' if kind is dict else 'a list'}")
    properties = own.get("properties", {})
    if unread := [name for name in properties if not readable.fullmatch(name) or len(name) > LONGEST_ASIDE]:
        raise _refused(where, f"the property name {unread[0]!r:.40}")
    if missing := [name for name in own.get("required", ()) if name not in [*properties]]:
        raise _refused(where, f"the required name {missing[0]!r:.40} without a property of this name")
    if not properties and isinstance(own.get("additionalProperties"), dict) and own["additionalProperties"]:
        raise _refused(where, "a schema in additionalProperties")
    return own, properties


def _is_plain(part: Schema, schema: Schema, seen: set[str] | None = None) -> bool:
    """Return whether a part of a schema states only types. Each reference is followed once (`seen`)."""
    seen = set() if seen is None else seen
    if isinstance(reference := part.get("$ref"), str):
        if reference in seen:
            return True
        seen.add(reference)
    own = resolved(part, schema)
    parts = [each for word in ("anyOf", "oneOf") for each in _listed_parts(own.get(word, []))]
    plain = own.keys() <= NOTES | {"type", "anyOf", "oneOf"}
    return plain and all(_is_plain(each, schema, seen) for each in parts)


def _values(part: Schema) -> list[Any]:
    """Return the values in a part's `enum` or `const`."""
    stated = part.get("enum", [part["const"]] if "const" in part else [])
    return stated if isinstance(stated, list) else []


def _mapping(part: object, where: str) -> Schema:
    if not isinstance(part, Mapping):
        raise _refused(where, "a part that isn't a JSON object")
    return part


def _listed_parts(parts: object) -> list[Schema]:
    if not isinstance(parts, list) or not all(isinstance(each, Mapping) for each in parts):
        raise _refused("a part", "an anyOf or oneOf that isn't a list of schemas")
    return parts


def _with_parts(part: Schema, schema: Schema) -> Schema:
    """Return a part of a schema together with the definitions that it may refer to."""
    return {**part, **{word: schema[word] for word in ("$defs", "definitions") if word in schema}}


def _check(part: Schema, known: frozenset[str] | set[str], where: str) -> None:
    if others := part.keys() - known - NOTES:
        raise _refused(where, f"the keyword {min(others)!r:.40}")


def _refused(where: str, reason: str) -> ArgumentError:
    return ArgumentError(
        f"the schema of {where:.80} has {reason}, which tfm can't enforce in this model's calls: change "
        "the schema, or remove `strict`"
    )
