"""Options as keywords: each is checked by name and kind, and stands in the signatures of what takes them.

`**options: Unpack[GenerateOptions]` tells a type checker which options there are, but neither Python, which
takes any keyword, nor `help()`.
"""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from ...refimpl.errors import ArgumentError
from .documents import is_class

F = TypeVar("F", bound=Callable[..., Any])
# What counts as a value of each type, and how a message names it. Options of other types are not checked.
KINDS: dict[Any, tuple[str, Callable[[object], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool | np.bool_)),
    int: ("a whole number", lambda value: isinstance(value, numbers.Integral) and type(value) is not bool),
    float: ("a number", lambda value: isinstance(value, numbers.Real) and type(value) is not bool),
    str: ("a text", lambda value: isinstance(value, str)),
    type: ("a pydantic class", is_class),
    Mapping: ("a mapping", lambda value: isinstance(value, Mapping)),
    Sequence: ("a list", lambda value: isinstance(value, Iterable) and not isinstance(value, str | bytes)),
}


def given_values(options: Mapping[str, object], declared: type) -> dict[str, object]:
    """The options that aren't None, numbers of NumPy as Python's own.

    ArgumentError for one that the TypedDict doesn't declare, with the nearest name that it does, and for a
    value of another kind.
    """
    hints = _hints(declared)
    for name, value in options.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            advice = f"did you mean {near[0]}?" if near else "help() of the function lists them"
            raise ArgumentError(f"no option is named {name!r:.60}: {advice}")
        types = [kind for kind in get_args(hints[name]) if kind is not type(None)]
        kinds = [KINDS.get(get_origin(one) or one, ("", lambda _: True)) for one in types]
        if value is not None and not any(fits(value) for _, fits in kinds):
            raise ArgumentError(f"{name} must be {' or '.join(kind for kind, _ in kinds)}, got {value!r:.80}")
    values = {name: value for name, value in options.items() if value is not None}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def spelled_out(*declared: type) -> Callable[[F], F]:
    """Decorates a function that takes options of these TypedDicts as `**options`: its signature lists each
    as a keyword, and its docstring describes them."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        hints = {name: hint for one in declared for name, hint in _hints(one).items()}
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for name, hint in hints.items()
        ]
        descriptions = [inspect.cleandoc(one.__doc__ or "").partition("\n\n")[2] for one in declared]
        shown: Any = function
        shown.__signature__ = signature.replace(parameters=[*parameters, *keywords])
        shown.__doc__ = "\n\n".join([inspect.cleandoc(function.__doc__ or ""), "Options:", *descriptions])
        return function

    return decorate


@cache
def _hints(declared: type) -> dict[str, Any]:
    """The options of a TypedDict with their types."""
    return get_type_hints(declared)
