"""Seams: mirror functions that a target may replace while a graph is exported.

`@seam` marks the function; inside `exporting(table)` a call goes to the table's function of that
name, everywhere else to the body. No signature knows of targets, and nothing is patched.
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


def seam(function: F) -> F:
    """The function, to be replaced by its name inside `exporting`."""
    name = function.__name__
    _names.add(name)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _table.get().get(name, function)(*args, **kwargs)

    return call  # pyright: ignore[reportReturnType]


def body(function: F) -> F:
    """What stands below the seam: for an emit that calls the function that it replaces."""
    return function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]


@contextmanager
def given(name: str, **arguments: Any) -> Iterator[None]:
    """What replaces the seam of that name takes these too: inputs of a graph that only a target knows."""
    table = _table.get()
    token = _table.set({**table, name: partial(table[name], **arguments)})
    try:
        yield
    finally:
        _table.reset(token)


@contextmanager
def exporting(table: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Calls of seams go to `table`; KeyError for a name that isn't a seam, which would go unused."""
    if unknown := sorted(set(table) - _names):
        raise KeyError(f"{unknown} are no seams; these are: {sorted(_names)}")
    token = _table.set(table)
    try:
        yield
    finally:
        _table.reset(token)
