"""Reads what a public function of refimpl/ops declares: its arrays, its settings, its results.

Positional parameters are arrays with shape strings, keyword-only parameters are static settings. A
function that can't be fed from its declaration raises `UnfedError`; none is skipped.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jaxtyping
import numpy as np
from jaxtyping import AbstractArray

from ... import ops
from ...axes import DERIVED
from ...config import Activation
from .settings import HAND, SETTINGS

UNFED = "can't be fed"


class UnfedError(Exception):
    """A declaration that the strategies can't feed."""


class Index:
    """`Index[Array, "B T", "< N"]`: whole numbers from 0 to below the bound."""

    def __class_getitem__(cls, item: tuple[Any, str, str]) -> type:
        return type("Index", (_Index,), {"dim_str": item[1], "bound": item[2]})


class _Index:
    dim_str: str
    bound: str


@dataclass(frozen=True)
class Declared:
    """An array: the kind of its numbers, its axes, and the bound of an index."""

    kind: str
    dims: tuple[str, ...]
    bound: str = ""


@dataclass(frozen=True)
class Parameter:
    """A parameter: what an array may be (`Declared`, "Blocks", None), or a setting's values."""

    name: str
    setting: bool
    default: Any
    options: tuple[Any, ...]


@dataclass(frozen=True)
class Tree:
    """A parameter that is a tree of weights: leaves by name, or with `many` a list of such."""

    leaves: tuple[Parameter, ...]
    many: bool = False


@dataclass(frozen=True)
class Function:
    """A public function and what it declares; `returns` is one option or several in order."""

    name: str
    body: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    returns: tuple[Any, ...]

    @property
    def signature(self) -> Any:
        return self.parameters, self.returns

    @property
    def letters(self) -> set[str]:
        trees = [o for p in self.parameters for o in p.options if isinstance(o, Tree)]
        parameters = [*self.parameters, *(leaf for tree in trees for leaf in tree.leaves)]
        named = [o for p in parameters if not p.setting for o in p.options]
        dims = [d for o in named if isinstance(o, Declared) for d in (*o.dims, o.bound)]
        dims += [d for p in parameters if "Blocks" in p.options for d in blocked(p)[0]]
        dims += [o for p in parameters if p.setting for o in p.options if str(o).isupper()]
        return set(re.findall("[A-Z]", " ".join(dims)))


def modules(package: types.ModuleType) -> list[types.ModuleType]:
    """The modules of a package, by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def public(module: types.ModuleType) -> list[str]:
    """The names of `__all__` that are functions."""
    return [n for n in module.__all__ if not inspect.isclass(getattr(module, n))]


def _option(hint: Any) -> Any:
    if hint is type(None):
        return None
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return Declared(hint.dtype.__name__, tuple(hint.dim_str.split()))
    if inspect.isclass(hint) and issubclass(hint, _Index):
        return Declared("Index", tuple(hint.dim_str.split()), hint.bound.removeprefix("<").strip())
    if inspect.isclass(hint) and hint.__name__ == "Blocks":
        return "Blocks"
    if typing.is_typeddict(hint):
        held = typing.get_type_hints(hint, localns=_spaces({}))
        return Tree(tuple(Parameter(n, False, inspect.Parameter.empty, _options(h)) for n, h in held.items()))
    if typing.get_origin(hint) is list and isinstance(tree := _option(*typing.get_args(hint)), Tree):
        return replace(tree, many=True)
    raise UnfedError(f"{hint!r} {UNFED}: it is no array")


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(_option(h) for h in (typing.get_args(hint) if union else (hint,)))


def _values(name: str, hint: Any) -> tuple[Any, ...]:
    if hint is bool:
        return (False, True)
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if name not in SETTINGS:
        raise UnfedError(f"the setting {name!r} {UNFED}: give it values in SETTINGS")
    return SETTINGS[name]


def _spaces(names: Mapping[str, Any]) -> dict[str, Any]:
    """What the names in a declaration mean here."""
    kinds = {k: getattr(jaxtyping, k) for k in ("Float", "Int", "UInt8", "Bool")}
    return {**names, **kinds, "Index": Index, "Array": np.ndarray, "Activation": Activation}


def read(function: Callable[..., Any]) -> Function:
    """What a function declares; `UnfedError` where that isn't arrays and settings."""
    body = inspect.unwrap(function)
    hints = typing.get_type_hints(body, _spaces(body.__globals__))
    parameters = []
    for p in inspect.signature(body).parameters.values():
        setting = p.kind is p.KEYWORD_ONLY
        options = _values(p.name, hints[p.name]) if setting else _options(hints[p.name])
        parameters.append(Parameter(p.name, setting, p.default, options))
    back = hints["return"]
    several = typing.get_args(back) if typing.get_origin(back) is tuple else (back,)
    return Function(body.__name__, function, tuple(parameters), tuple(_option(b) for b in several))


def value(expression: str, size: Callable[[str], int]) -> int:
    """A sum of products of letters and numbers."""
    number = lambda a: int(a) if a.isdigit() else size(a)  # noqa: E731
    return sum(math.prod(map(number, term.split("*"))) for term in expression.split("+"))


def sizes(letters: set[str], size_of: Callable[[str], int]) -> dict[str, int]:
    """A size for each letter: derived where a part of the rule stands in the signature, or drawn."""
    found: dict[str, int] = {}

    def get(letter: str) -> int:
        if letter not in found:
            rule = DERIVED.get(letter, "")
            derived = letters & set(re.findall("[A-Z]", rule))
            found[letter] = value(rule, get) if derived else size_of(letter)
        return found[letter]

    for letter in sorted(letters):
        get(letter)
    return found


def drawn_letters(f: Function) -> set[str]:
    """The letters whose sizes are drawn; the others follow from them."""
    asked: set[str] = set()
    sizes(f.letters, lambda letter: asked.add(letter) or 1)
    return asked


def axes(p: Parameter, array: Any, size: Mapping[str, int]) -> tuple[str, ...]:
    """The declared axes of an argument, by its shape where the parameter may be several arrays."""
    found = [o.dims for o in p.options if isinstance(o, Declared)]
    if len(found) < 2:
        return found[0] if found else ()
    return next(dims for dims in found if array.shape == tuple(value(d, size.__getitem__) for d in dims))


def blocked(p: Parameter) -> tuple[tuple[str, ...], int]:
    """Axes of a quantized weight, and along which it is blocked: tables are read by row."""
    axis = int(p.name == "table")
    floats = [o.dims for o in p.options if isinstance(o, Declared)]
    return floats[0] if floats else ("N", "D") if axis else ("D", "F"), axis


@functools.cache
def specified() -> dict[str, Callable[..., Any]]:
    """`module.name` -> function, of all that refimpl/ops makes public but what `HAND` names."""
    found = {}
    for module in modules(ops):
        short = module.__name__.rsplit(".", 1)[-1]
        found |= {f"{short}.{name}": getattr(module, name) for name in public(module)}
    return {name: function for name, function in found.items() if name not in HAND}


def functions() -> dict[str, Function]:
    """`module.name` -> declaration, of all specified functions."""
    return {name: read(function) for name, function in specified().items()}
