"""Mirror functions that a target may replace while a graph is exported.

`@replaceable` marks the function. Inside `exporting(table)` a call goes to the table's function of that name,
everywhere else to the body. So no signature knows of targets, and nothing is patched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_names: set[str] = set()
_table: ContextVar[Mapping[str, Callable[..., Any]]] = ContextVar("table", default=MappingProxyType({}))


def replaceable(function: F) -> F:
    """The function, which a table of `exporting` can replace by its name."""
    name = function.__name__
    _names.add(name)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _table.get().get(name, function)(*args, **kwargs)

    return call  # pyright: ignore[reportReturnType]


def body(function: F) -> F:
    """The function itself, never replaced, for a replacement that calls it."""
    return function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]


@contextmanager
def extra_inputs(name: str, **arguments: Any) -> Iterator[None]:
    """Pass these arguments to the replacement of that name too: graph inputs that only a target has."""
    table = _table.get()
    token = _table.set({**table, name: partial(table[name], **arguments)})
    try:
        yield
    finally:
        _table.reset(token)


@contextmanager
def exporting(table: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replaces functions by those of the table; KeyError for a name that isn't replaceable."""
    if unknown := sorted(set(table) - _names):
        raise KeyError(f"{unknown} can't be replaced; these can: {sorted(_names)}")
    token = _table.set(table)
    try:
        yield
    finally:
        _table.reset(token)
