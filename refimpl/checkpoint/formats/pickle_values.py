"""Read plain values from a pickle, with an interpreter that can't run any code.

A pickle is a program for a machine with a stack and a memo (PEP 307). Python's own machine imports the
classes and functions that the program names, and calls them. The machine here has only the instructions that
make numbers, texts, lists, tuples and dicts. The name of a class or function stays a `Name`, and must be in a
fixed list. If a pickle "calls" a name, a function of tfm is called instead. Any other instruction or name
raises an error that mentions it.

A value may contain another value many times, so no code here prints, compares or hashes a container.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import CheckpointError
from .cursor import Cursor

STEP = 120  # bytes of memory that an instruction may keep, beside its text
MAX_TEXT, MAX_NAME = 2**16, 200


@dataclass(frozen=True)
class Name:
    """The name of a class or function in a pickle, as `module.name`. The class or function is never
    imported.
    """

    text: str


_MARK = object()
# The instructions that raise an error, with their names in Python's pickletools.
REFUSED = {
    "0": "POP", "1": "POP_MARK", "2": "DUP", "F": "FLOAT", "I": "INT", "L": "LONG", "S": "STRING",
    "V": "UNICODE", "P": "PERSID", "d": "DICT", "l": "LIST", "g": "GET", "p": "PUT", "i": "INST", "o": "OBJ",
    "B": "BINBYTES", "C": "SHORT_BINBYTES", "\x81": "NEWOBJ", "\x82": "EXT1", "\x83": "EXT2",
    "\x84": "EXT4", "\x8b": "LONG4", "\x8c": "SHORT_BINUNICODE", "\x8d": "BINUNICODE8", "\x8e": "BINBYTES8",
    "\x8f": "EMPTY_SET", "\x90": "ADDITEMS", "\x91": "FROZENSET", "\x92": "NEWOBJ_EX", "\x93": "STACK_GLOBAL",
    "\x94": "MEMOIZE", "\x95": "FRAME", "\x96": "BYTEARRAY8", "\x97": "NEXT_BUFFER",
    "\x98": "READONLY_BUFFER",
}  # fmt: skip
_MADE: dict[str, Callable[[], Any]] = {
    "(": lambda: _MARK, "N": lambda: None, "\x88": lambda: True, "\x89": lambda: False,
    ")": tuple, "]": list, "}": dict,
}  # fmt: skip
_NUMBERS = {"J": "<i", "K": "<B", "M": "<H", "G": ">d"}
_TEXTS = {"X": "<I", "T": "<I", "U": "<B"}  # a length, then UTF-8: BINUNICODE, and strings of Python 2
_PUTS, _GETS = {"q": "<B", "r": "<I"}, {"h": "<B", "j": "<I"}
_TUPLES = {"\x85": 1, "\x86": 2, "\x87": 3}


class PickleReader:
    """A reader of pickles of protocol 2, one after the other in a file.

    `calls` are the names that a pickle may contain. Each name has a function that turns the tuple of
    arguments into the value of a call, or None if the name can't be called. `persistent` returns the value of
    a persistent id, which refers to something outside the pickle. All these functions may raise
    CheckpointError.
    """

    def __init__(
        self,
        cursor: Cursor,
        calls: Mapping[str, Callable[[tuple[Any, ...]], Any] | None],
        persistent: Callable[[Any], Any],
    ) -> None:
        self._cursor, self._calls, self._persistent = cursor, calls, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """Return the value of the next pickle. Raises CheckpointError for a damaged pickle, or a pickle that
        needs more than plain values.
        """
        self._stack, self._memo = [], {}
        while (code := self._byte()) != ".":
            self._cursor.hold(STEP, "a value")
            self._carry_out(code)
        value = self._pop()
        if self._stack:
            raise self._fail(f"must contain one value, but it contains {len(self._stack)} more")
        return value

    def _fail(self, message: str) -> CheckpointError:
        return self._cursor.fail(f"the pickle {message}")

    def _byte(self) -> str:
        return self._cursor.take(1, "the pickle").decode("latin-1")

    def _number(self, form: str) -> Any:
        return self._cursor.number(form, "the pickle")

    def _carry_out(self, code: str) -> None:
        if code in _MADE:
            self._stack.append(_MADE[code]())
        elif code in _NUMBERS:
            self._stack.append(self._number(_NUMBERS[code]))
        elif code in _TEXTS:
            self._stack.append(self._text(self._number(_TEXTS[code])))
        elif code in _PUTS:
            self._memo[self._number(_PUTS[code])] = self._top()
        elif code in _GETS:
            self._get(self._number(_GETS[code]))
        elif code in _TUPLES:
            self._stack.append(tuple(self._pop() for _ in range(_TUPLES[code]))[::-1])
        elif (step := _STEPS.get(code)) is not None:
            step(self)
        else:
            name = REFUSED.get(code, hex(ord(code)))
            raise self._fail(
                f"has the instruction {name} at byte {self._cursor.at - 1}, which no weights need"
            )

    def _text(self, size: int) -> str:
        if size > MAX_TEXT:
            raise self._fail(f"may have texts of at most {MAX_TEXT} bytes, but it claims {size}")
        self._cursor.hold(4 * size, "a text")
        try:
            return self._cursor.take(size, "the pickle").decode("utf-8")
        except UnicodeDecodeError:
            raise self._fail("must have texts in UTF-8") from None

    def _line(self) -> str:
        """Read the rest of the line, which is the name of a module, class or function."""
        line = ""
        while (letter := self._byte()) != "\n":
            line += letter
            if len(line) > MAX_NAME:
                raise self._fail(f"may have names of at most {MAX_NAME} letters, but {line!r:.40} is longer")
        return line

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise self._fail("uses a value that doesn't exist: the file is damaged")
        return self._stack[-1]

    def _pop(self, kind: type | None = None) -> Any:
        value = self._top()
        if kind is not None and type(value) is not kind:
            raise self._fail(
                f"must have a {kind.__name__} at byte {self._cursor.at}, but it has a {type(value).__name__}"
            )
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while at >= 0 and self._stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise self._fail("ends a group of values without a beginning: the file is damaged")
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def _get(self, number: int) -> None:
        if number not in self._memo:
            raise self._fail(f"uses the value {number} before storing this value: the file is damaged")
        self._stack.append(self._memo[number])

    def _proto(self) -> None:
        if (version := self._number("<B")) != 2:
            raise self._fail(f"must have protocol 2, but it has {version}")

    def _long(self) -> None:
        size = self._number("<B")
        self._stack.append(int.from_bytes(self._cursor.take(size, "the pickle"), "little", signed=True))

    def _tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _append(self) -> None:
        value = self._pop()
        self._list().append(value)

    def _appends(self) -> None:
        values = self._since_mark()
        self._list().extend(values)

    def _list(self) -> list[Any]:
        value = self._pop(list)
        self._stack.append(value)
        return value

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set(key, value)

    def _set_items(self) -> None:
        values = self._since_mark()
        if len(values) % 2:
            raise self._fail("must give each key a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        values = self._pop(dict)
        self._stack.append(values)
        if type(key) not in (str, int):  # a tuple's hash goes as deep as it is nested
            raise self._fail(f"must have texts or whole numbers as keys, but it has a {type(key).__name__}")
        if key in values:
            raise self._fail(f"may have each key once, but {key!r:.80} occurs twice")
        values[key] = value

    def _global(self) -> None:
        text = f"{self._line()}.{self._line()}"
        if text not in self._calls:
            raise self._fail(
                f"names {text!r:.120}, which tfm neither imports nor runs: files of weights need only tensors"
            )
        self._stack.append(Name(text))

    def _reduce(self) -> None:
        arguments, name = self._pop(tuple), self._pop(Name)
        call = self._calls[name.text]
        if call is None:
            raise self._fail(f"calls {name.text}, which weights don't need")
        self._stack.append(call(arguments))

    def _build(self) -> None:
        """Drop the attributes that a pickle sets on an OrderedDict, such as the versions of modules, because
        nobody reads them.
        """
        self._pop(dict)
        self._stack.append(self._pop(dict))

    def _persistent_id(self) -> None:
        self._stack.append(self._persistent(self._pop()))


_STEPS: Mapping[str, Callable[[PickleReader], None]] = {
    "\x80": PickleReader._proto, "\x8a": PickleReader._long, "t": PickleReader._tuple,
    "a": PickleReader._append, "e": PickleReader._appends, "s": PickleReader._set_item,
    "u": PickleReader._set_items, "c": PickleReader._global, "R": PickleReader._reduce,
    "b": PickleReader._build, "Q": PickleReader._persistent_id,
}  # fmt: skip
