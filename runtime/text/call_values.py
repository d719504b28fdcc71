"""Parse the values of tool calls while they are being generated, and convert them to JSON."""

from __future__ import annotations

import json
import re

from ...refimpl.checkpoint.formats.strict_json import DEPTH
from .call_formats import PYTHON, Values
from .text_reader import Marks, Reading, TextReader, UnreadableError

WORDS = ("true", "false", "null")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
WORD = re.compile(r"[\w.+-]+", re.ASCII)
KEYWORD = re.compile(r"[^\s=(),]+")
# What may follow a backslash: characters that JSON has too, digits of a number, and JSON for the others.
PLAIN = '"\\/bfnrt'
DIGITS = {"json": {"u": 4}, "python": {"u": 4, "x": 2, "U": 8}}
OTHERS = {"json": {}, "python": {"'": "'", "a": "\\u0007", "v": "\\u000b", "0": "\\u0000", "\n": ""}}


class ValueReader(TextReader):
    """Reads values in a text that comes in pieces, and converts the values to JSON.

    The JSON is passed piece by piece to `_tell_json`, or captured.
    """

    def __init__(self) -> None:
        super().__init__()
        self._captured: list[str] | None = None

    def _tell_json(self, piece: str) -> None:
        raise NotImplementedError

    def _put(self, piece: str) -> None:
        if self._captured is None:
            self._tell_json(piece)
        else:
            self._captured.append(piece)

    def _capture(self, reading: Reading[None]) -> Reading[str]:
        """Run a reading, and return the JSON that it makes instead of passing the JSON to `_tell_json`."""
        outer, self._captured = self._captured, []
        yield from reading
        inner, self._captured = self._captured, outer
        return "".join(inner)

    def _keywords(self, values: Values, end: str) -> Reading[None]:
        seen: set[str] = set()
        self._put("{")
        yield from self._skip_blanks()
        while (yield from self._peek()) != end:
            self._put(", " if seen else "")
            self._put_key((yield from self._run(KEYWORD)), seen)
            yield from self._expect("=")
            yield from self._value(values, 2)
            if not (yield from self._next_is(",")):
                break
            yield from self._skip_blanks()
        self._put("}")

    def _pieces(self, end: Marks, *, escaped: bool = True) -> Reading[None]:
        """Read the text before a mark piece by piece, then read the mark. With `escaped`, the pieces get
        JSON's escapes.
        """
        while True:
            found, certain = self._find(end)
            piece = self._buffer[self._at : certain]
            self._put(inside(piece) if escaped else piece)
            self._at = certain
            if found is not None:
                self._at = found.end()
                return
            yield from self._wait()

    def _value(self, values: Values, depth: int) -> Reading[None]:
        if depth > DEPTH:
            raise UnreadableError
        yield from self._skip_blanks()
        for quote in values.quotes:
            if (yield from self._next_is(quote)):
                yield from self._string(values, quote)
                return
        match (yield from self._peek()):
            case "{":
                yield from self._object(values, depth)
            case "[":
                yield from self._array(values, depth)
            case _:
                yield from self._word(values)

    def _object(self, values: Values, depth: int) -> Reading[None]:
        seen: set[str] = set()
        self._at += 1
        self._put("{")
        if not (yield from self._next_is("}")):
            while True:
                self._put((yield from self._key(values, seen)) + ": ")
                yield from self._expect(":")
                yield from self._value(values, depth + 1)
                if not (yield from self._next_is(",")):
                    break
                self._put(", ")
            yield from self._expect("}")
        self._put("}")

    def _array(self, values: Values, depth: int) -> Reading[None]:
        self._at += 1
        self._put("[")
        if not (yield from self._next_is("]")):
            while True:
                yield from self._value(values, depth + 1)
                if not (yield from self._next_is(",")):
                    break
                self._put(", ")
            yield from self._expect("]")
        self._put("]")

    def _key(self, values: Values, seen: set[str]) -> Reading[str]:
        """Read a key of an object, and return the key as JSON. Raises UnreadableError for a key in `seen`."""
        yield from self._skip_blanks()
        for quote in values.quotes:
            if (yield from self._next_is(quote)):
                key = yield from self._capture(self._string(values, quote))
                break
        else:
            if not values.bare_keys:
                raise UnreadableError
            key = json.dumps((yield from self._until(":")).strip(), ensure_ascii=False)
            self._at -= 1
        self._see(json.loads(key), seen)
        return key

    def _put_key(self, key: str, seen: set[str]) -> None:
        self._see(key, seen)
        self._put(json.dumps(key, ensure_ascii=False) + ": ")

    def _see(self, key: str, seen: set[str]) -> None:
        if key in seen:
            raise UnreadableError
        seen.add(key)

    def _string(self, values: Values, quote: str) -> Reading[None]:
        """Read the rest of a text after its first quote, and convert the text to JSON."""
        self._put('"')
        if values.escapes is None:
            yield from self._pieces(Marks([quote]))
        else:
            ends = Marks([quote, "\\"])
            while True:
                found, certain = self._find(ends)
                self._put(inside(self._buffer[self._at : certain]))
                self._at = certain
                if found is None:
                    yield from self._wait()
                    continue
                self._at = found.end()
                if found[0] == quote:
                    break
                yield from self._escape(values.escapes)
        self._put('"')

    def _escape(self, kind: str) -> Reading[None]:
        """Read the characters after a backslash, and convert the escape to JSON."""
        character = yield from self._peek()
        if not character:
            yield from self._wait()
        self._at += 1
        if character in PLAIN:
            self._put("\\" + character)
        elif character in DIGITS[kind]:
            self._put(_escape_of((yield from self._digits(DIGITS[kind][character]))))
        elif character in OTHERS[kind]:
            self._put(OTHERS[kind][character])
        elif kind == "python":  # no escape there
            self._put("\\\\" + inside(character))
        else:
            raise UnreadableError

    def _digits(self, count: int) -> Reading[int]:
        while len(self._buffer) < self._at + count:
            yield from self._wait()
        digits = self._buffer[self._at : self._at + count]
        self._at += count
        if not re.fullmatch("[0-9a-fA-F]+", digits) or int(digits, 16) > 0x10FFFF:
            raise UnreadableError
        return int(digits, 16)

    def _word(self, values: Values) -> Reading[None]:
        """Read a number, or a word such as true, and convert it to JSON."""
        word = yield from self._run(WORD)
        word = values.words.get(word, word)
        if not (word in WORDS or NUMBER.fullmatch(word)):
            raise UnreadableError
        self._put(word)


class _Whole(ValueReader):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._buffer, self._ended = text, True

    def json(self) -> str | None:
        reading = self._capture(self._value(PYTHON, 2))
        try:
            next(reading)
        except StopIteration as end:
            return end.value if not self._buffer[self._at :].strip() else None
        except UnreadableError:
            return None
        raise AssertionError("a whole text waits for nothing")


def to_json(text: str) -> str | None:
    """Convert a value that is written as in JSON or Python to JSON. Returns None if the text is no such
    value.
    """
    return _Whole(text).json()


def inside(text: str) -> str:
    """Return a text with JSON's escapes, ready to be put inside the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _escape_of(code: int) -> str:
    """Return the character with this code point in the form that a JSON string has. Code points below 0x10000
    are written as escapes, so half of a surrogate pair stays an escape.
    """
    return f"\\u{code:04x}" if code < 0x10000 else inside(chr(code))
