"""Options as keywords: check each by name and type, and show them in the signatures of functions.

`**options: Unpack[GenerateOptions]` tells a type checker which options exist. But Python accepts any keyword
at run time, and `help()` doesn't list the options. This module checks the options at run time, and makes
`help()` list them.
"""

from __future__ import annotations

import difflib
import inspect
import numbers
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, get_args, get_origin

import numpy as np

from ...refimpl.decoding.options import options
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


def given_values(given: Mapping[str, object], declared: type) -> dict[str, object]:
    """Return the options that aren't None, with NumPy numbers converted to Python's own.

    Raises ArgumentError for an option that the TypedDict doesn't declare, and for a value of another type.
    For an unknown option, the error suggests the nearest declared name.
    """
    known = options(declared)
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]}?" if near else "help() of the function lists them"
            raise ArgumentError(f"unknown option {name!r:.60}: {advice}")
        types = [kind for kind in get_args(known[name].type) if kind is not type(None)]
        kinds = [KINDS.get(get_origin(one) or one, ("", lambda _: True)) for one in types]
        if value is not None and not any(fits(value) for _, fits in kinds):
            raise ArgumentError(f"{name} must be {' or '.join(kind for kind, _ in kinds)}, got {value!r:.80}")
    values = {name: value for name, value in given.items() if value is not None}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def spelled_out(declared: type) -> Callable[[F], F]:
    """Return a decorator for functions that take the options of a TypedDict as `**options`.

    A decorated function's signature lists each option as a keyword, and its docstring describes the
    options.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option.type)
            for name, option in options(declared).items()
        ]
        shown: Any = function
        shown.__signature__ = signature.replace(parameters=[*parameters, *keywords])
        shown.__doc__ = "\n".join(
            [inspect.cleandoc(function.__doc__ or ""), "\nOptions:\n", _described(declared)]
        )
        return function

    return decorate


@cache
def _described(declared: type) -> str:
    descriptions = (f"{name}: {option.described}" for name, option in options(declared).items())
    return "\n".join(textwrap.fill(one, 110, subsequent_indent="    ") for one in descriptions)
