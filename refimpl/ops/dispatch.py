"""Choose which function a call of an op runs: the specification's own function, or another library's.

`@op` marks a function of the specification. By default, a call of an op runs this function, which computes
with NumPy. Inside `use(table)`, the call runs the table's function of the same name instead. This includes
calls inside other ops. So an op that only combines other ops, a composite, is written once for every
library. An op that computes by itself, a primitive, has a function for each library.

A table is valid only in the thread or task that entered `use`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Table = Mapping[str, Callable[..., Any]]

OPS: dict[str, Callable[..., Any]] = {}  # name -> op
NOTHING: Table = MappingProxyType({})

_table: ContextVar[Table] = ContextVar("table", default=NOTHING)


def op(function: F) -> F:
    """Mark a function as an op, so that a table in `use` can replace it by another function with the same
    name.
    """
    name, table = function.__name__, _table.get
    assert name not in OPS, f"there is another op called {name}"

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return table().get(name, function)(*args, **kwargs)

    OPS[name] = call
    return call  # pyright: ignore[reportReturnType]


def body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the specification's own function of an op, whatever table is in use."""
    return function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]


def in_use() -> Table:
    """Return the table of the innermost `use` block, or an empty table outside any such block."""
    return _table.get()


@contextmanager
def use(table: Table) -> Iterator[None]:
    """Run the functions of this table instead of the ops with the same names, for the duration of a `with`
    block. Raises KeyError if the table contains a name that no op has.
    """
    if unknown := sorted(set(table) - set(OPS)):
        raise KeyError(f"no op is named {', '.join(unknown)}, so there is nothing to replace")
    token = _table.set(table)
    try:
        yield
    finally:
        _table.reset(token)


@op
def observe(name: str, x: Any) -> Any:
    """Return x unchanged. A forward pass calls this op with each of its named values, so a caller can
    replace the op to read or change these values.
    """
    return x
