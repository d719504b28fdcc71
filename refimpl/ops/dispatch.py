"""Choose the function that a call of an op runs: the specification's own function, or that of another
library.

`@op` marks a function of the specification. A call of an op runs its body, which computes with NumPy. Inside
`use(table)` a call runs the table's function of that name instead; this includes calls in the body of another
op. So an op that only combines other ops, a composite, is written once for every library. An op that computes
by itself, a primitive, has a body for each library.

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
    """Mark a function as an op. A table may replace it by another function with the same name."""
    name, table = function.__name__, _table.get
    assert name not in OPS, f"there is another op called {name}"

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return table().get(name, function)(*args, **kwargs)

    OPS[name] = call
    return call  # pyright: ignore[reportReturnType]


def body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an op's own function, whatever table is in use."""
    return function.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]


def in_use() -> Table:
    """Return the table of the innermost `use`, or an empty table outside of any."""
    return _table.get()


@contextmanager
def use(table: Table) -> Iterator[None]:
    """During a `with` block, make calls of ops run the functions of this table. Raises KeyError for a name
    that no op has.
    """
    if unknown := sorted(set(table) - set(OPS)):
        raise KeyError(f"{unknown} can't be replaced, since no op has that name")
    token = _table.set(table)
    try:
        yield
    finally:
        _table.reset(token)


@op
def observe(name: str, x: Any) -> Any:
    """Return x unchanged. This op is called with every named value of a forward pass, so a caller can replace
    the op to read or change these values.
    """
    return x
