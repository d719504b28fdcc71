"""Parse a model's text into thoughts, text and tool calls while the text is being generated.

The joined events don't depend on how the text is cut into pieces. The name of a call is reported once its
arguments begin. The arguments are reported as they are generated, as JSON. If the beginning of a call turns
out not to be a call, it becomes text. If the call's name was already reported, an event `broken` cancels the
call. A call that the end of the answer cuts off is broken too, and its text is dropped.

The time is linear in the length of the text, because text that was parsed as a call isn't parsed again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from .argument_types import Schema, type_of_json, types_of_property
from .call_formats import JSON, CallFormat, Item, Keywords, Marked, Parameters, Values
from .call_values import ValueReader, to_json
from .text_reader import Marks, Reading, UnreadableError

NAME = re.compile(r"[\w.-]+", re.ASCII)
Kind = Literal["thought", "text", "name", "arguments", "end", "broken"]


class Event(NamedTuple):
    """A piece of an answer. An event `name` begins a call. Events `arguments` with pieces of the call's
    arguments follow, and then an event `end`, or `broken` if the call is invalid.
    """

    kind: Kind
    text: str = ""


class Call(NamedTuple):
    """A call: the function's name, and the arguments as a JSON object."""

    name: str
    arguments: str


class Answer(NamedTuple):
    """A complete answer: its thoughts, its text and its calls."""

    thoughts: str
    text: str
    calls: list[Call]


class AnswerParser(ValueReader):
    """A parser for one answer. `functions` has the schemas of the functions that the answer may call, by
    name.

    `thinking` says that the prompt ends within thoughts."""

    def __init__(self, form: CallFormat, functions: Mapping[str, Schema], *, thinking: bool = False) -> None:
        super().__init__()
        self._form, self._functions = form, functions
        self._cut = False
        self._call_at = 0  # where what is read as a call begins
        self._begun = self._after_call = False
        self._blanks = ""  # at the end of the text so far: nothing, if a call follows
        self._events: list[Event] = []
        self._marks = Marks([*form.silent, *self._beginnings(form)])
        self._reading = self._answer(thinking)

    def _beginnings(self, form: CallFormat) -> Iterable[str]:
        if self._functions:
            yield from filter(None, form.begin)
        if form.thoughts is not None and form.thoughts.anywhere:
            yield form.thoughts.begin.strip()

    def feed(self, text: str) -> list[Event]:
        """Parse the next piece of the text, and return its events."""
        self._buffer += text
        return self._read()

    def finish(self, *, cut: bool = False) -> list[Event]:
        """End the answer's text, and return the last events. `cut` says that the answer was cut off before
        the model ended it.
        """
        self._ended, self._cut = True, cut
        return self._read()

    def _read(self) -> list[Event]:
        next(self._reading, None)
        events, self._events = self._events, []
        return events

    def _tell(self, kind: Kind, text: str) -> None:
        if text:
            self._events.append(Event(kind, text))

    def _tell_json(self, piece: str) -> None:
        self._tell("arguments", piece)

    # The parts of an answer.

    def _answer(self, thinking: bool) -> Reading[None]:
        thoughts = self._form.thoughts
        if thoughts is not None and (thinking or (yield from self._next_is(thoughts.begin))):
            yield from self._think(thoughts.end)
        if self._functions and "" in self._form.begin:
            yield from self._calls(self._at)
        while (found := (yield from self._say_until_mark())) is not None:
            if thoughts is not None and found[0] == thoughts.begin.strip():
                yield from self._think(thoughts.end)
            elif found[0] in self._form.begin:
                yield from self._calls(found.start())
        if not self._after_call:
            self._tell("text", self._blanks)

    def _think(self, end: str) -> Reading[None]:
        """Read thoughts and the mark `end` after them, and report the thoughts without blanks around them."""
        yield from self._skip_blanks()
        blanks, marks, found = "", Marks([end.strip()]), None
        while found is None:
            found, certain = self._find(marks)
            text = blanks + self._buffer[self._at : certain]
            thought = text.rstrip()
            blanks = text[len(thought) :]
            self._tell("thought", thought)
            self._at = certain if found is None else found.end()
            if found is None and self._ended:
                return
            if found is None:
                self._forget()
                yield
        yield from self._skip_blanks()

    def _say_until_mark(self) -> Reading[re.Match[str] | None]:
        """Report the text before the next mark, and read the mark. Returns the mark, or None at the end of
        the answer.
        """
        while True:
            found, certain = self._find(self._marks)
            self._say(self._buffer[self._at : certain])
            self._at = certain if found is None else found.end()
            if found is not None or self._ended:
                return found
            self._forget()
            yield

    def _say(self, text: str) -> None:
        """Report a text. Blanks at its end are held back, since they are dropped if a call follows."""
        text = self._blanks + text
        said = text.rstrip() if self._functions else text
        self._blanks = text[len(said) :]
        self._after_call = self._after_call and not said
        self._tell("text", said)

    def _calls(self, start: int) -> Reading[None]:
        """Read the calls after one mark. The mark begins at `start` and has already been read."""
        self._call_at = start
        try:
            yield from self._expect(self._form.opening)
            while True:
                yield from self._call()
                self._call_at = self._at
                if not (yield from self._another_follows()):
                    break
        except UnreadableError:
            self._give_up()

    def _another_follows(self) -> Reading[bool]:
        form = self._form
        apart = form.separator is not None and bool(form.separator.strip())
        if apart and (yield from self._next_is(form.separator or "")):
            return True
        yield from self._next_is(form.closing)
        if form.end and (yield from self._next_is(form.end)):
            return False
        return form.separator is not None and not apart and (yield from self._call_begins())

    def _call_begins(self) -> Reading[bool]:
        """Return whether a call may begin here, without reading it."""
        assert isinstance(self._form.call, Marked)
        at, before = self._at, self._form.call.before
        if before:
            found = yield from self._next_is(before)
        else:
            yield from self._skip_blanks()
            found = NAME.match((yield from self._peek())) is not None
        self._at = at
        return found

    def _give_up(self) -> None:
        """Report what was read of an invalid call as text.

        If the answer was cut off within something that is surely a call, the rest of the answer is dropped
        instead.
        """
        surely = self._begun or "" not in self._form.begin
        if self._begun:
            self._events.append(Event("broken"))
        self._begun, self._captured = False, None
        if self._cut and self._short and surely:
            self._at, self._after_call = len(self._buffer), True
        else:
            self._say(self._buffer[self._call_at : self._at])

    def _call(self) -> Reading[None]:
        call = self._form.call
        yield from self._item(call) if isinstance(call, Item) else self._marked(call)
        self._events.append(Event("end"))
        self._begun, self._blanks, self._after_call = False, "", True

    def _begin(self, name: str) -> None:
        self._tell("name", name)
        self._begun = True

    def _item(self, call: Item) -> Reading[None]:
        """Read a call that is a JSON object with its keys in any order."""
        name, arguments, seen = "", "", set()
        yield from self._expect("{")
        while True:
            key = json.loads((yield from self._key(JSON, seen)))
            yield from self._expect(":")
            if key == call.name:
                name = self._known(json.loads((yield from self._capture(self._value(JSON, 1)))))
            elif key == call.arguments:
                yield from self._expect_object()
                if name:
                    self._begin(name)
                    yield from self._value(JSON, 1)
                else:
                    arguments = yield from self._capture(self._value(JSON, 1))
            elif key in call.others:
                yield from self._capture(self._value(JSON, 1))
            else:
                raise UnreadableError
            if not (yield from self._next_is(",")):
                break
        if name and arguments:
            self._begin(name)
            self._put(arguments)
        yield from self._expect("}")
        if not self._begun:
            raise UnreadableError

    def _marked(self, call: Marked) -> Reading[None]:
        yield from self._expect(call.before)
        name = self._known((yield from self._run(NAME)))
        if call.asides == ("",):
            yield from self._expect(call.middle)
        else:
            yield from self._until(call.middle)
        match call.arguments:
            case Values() as values:
                yield from self._expect_object()
                self._begin(name)
                yield from self._value(values, 1)
            case Keywords(values):
                self._begin(name)
                yield from self._keywords(values, call.after)
            case Parameters() as marks:
                yield from self._expect_one(marks.before, call.after)
                self._begin(name)
                yield from self._parameters(marks, self._functions[name])
        yield from self._expect(call.after)

    def _known(self, name: object) -> str:
        if not isinstance(name, str) or name not in self._functions:
            raise UnreadableError
        return name

    def _expect_object(self) -> Reading[None]:
        yield from self._expect_one("{")

    def _expect_one(self, *marks: str) -> Reading[None]:
        """Raise UnreadableError unless one of these marks follows. The mark isn't read."""
        at = self._at
        for mark in marks:
            if (yield from self._next_is(mark)):
                self._at = at
                return
        raise UnreadableError

    def _parameters(self, marks: Parameters, schema: Schema) -> Reading[None]:
        first, *rest = marks.middle.split()
        seen: set[str] = set()
        self._put("{")
        while (yield from self._next_is(marks.before)):
            self._put(", " if seen else "")
            key = (yield from self._until(first)).strip()
            self._put_key(key, seen)
            types = types_of_property(schema, key)
            if marks.value_middle is None:
                yield from self._expect(" ".join(rest))
            elif (yield from self._next_is(" ".join(marks.value_middle.split()[1:]))):
                types = frozenset()
            else:
                yield from self._expect(" ".join(rest))
                types = frozenset({"string"})
            yield from self._as_it_is(marks, types)
        self._put("}")

    def _as_it_is(self, marks: Parameters, types: Collection[str] | None) -> Reading[None]:
        """Read a value without quotes, and report the value as JSON. `types` are the JSON types that the
        value may have.
        """
        if marks.middle.endswith("\n") and (yield from self._peek()) == "\n":
            self._at += 1
        end = Marks([marks.after.strip()], "\n" if marks.after.startswith("\n") else "")
        if types == {"string"}:
            self._put('"')
            yield from self._pieces(end)
            self._put('"')
            return
        text = yield from self._capture(self._pieces(end, escaped=False))
        value = to_json(text)
        if value is None and types and "string" not in types and text.lstrip().startswith(("{", "[")):
            raise UnreadableError
        self._put(
            json.dumps(text, ensure_ascii=False) if value is None or not _may_be(value, types) else value
        )


def _may_be(value: str, types: Collection[str] | None) -> bool:
    """Return whether a value that could be JSON is JSON, not a text.

    If the argument may be a text, a value in quotes is a text, and so is a value of a type that isn't
    allowed.
    """
    own = type_of_json(value)
    if types is None or "string" in types:
        return "string" not in own and (types is None or not own.isdisjoint(types))
    return True


def read_answer(
    text: str, form: CallFormat, functions: Mapping[str, Schema], *, thinking: bool = False, cut: bool = False
) -> Answer:
    """Parse a complete answer. An invalid call becomes text.

    With `cut`, a call that was cut off at the end of the answer is dropped.
    """
    parser = AnswerParser(form, functions, thinking=thinking)
    return joined([*parser.feed(text), *parser.finish(cut=cut)])


def joined(events: Iterable[Event]) -> Answer:
    """Join the events of an answer into a complete answer."""
    thoughts, text, calls, call = "", "", [], Call("", "")
    for kind, piece in events:
        match kind:
            case "thought":
                thoughts += piece
            case "text":
                text += piece
            case "name":
                call = Call(piece, "")
            case "arguments":
                call = Call(call.name, call.arguments + piece)
            case "end":
                calls.append(call)
    return Answer(thoughts, text, calls)
