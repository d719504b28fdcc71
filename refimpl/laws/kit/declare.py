"""Read the declaration of a public function of refimpl/ops: its arrays, its settings and its results.

Positional parameters are arrays with shape strings, or structures of arrays: a TypedDict of weights, a
NamedTuple such as a cache, or a list of either. Keyword-only parameters are static settings: single values
or a dataclass of the Config. If a function's arguments can't be generated from its declaration,
`UnfedError` is raised. No function is skipped.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Literal

import jaxtyping
import numpy as np
from jaxtyping import AbstractArray

from ... import ops
from ...axes import DERIVED
from ...config import Activation
from ...ops import arrays, dispatch
from .settings import CLASSES, DRAWN, HAND, INNER, LISTED, SETTINGS

UNFED = "can't be drawn at random"


class UnfedError(Exception):
    """Raised if arguments can't be generated from a function's declaration."""


class Index:
    """The annotation of an array of whole numbers from 0 to below a bound, such as `Index[Array, "B T", "<
    N"]`.
    """

    def __class_getitem__(cls, item: tuple[Any, str, str]) -> type:
        return type("Index", (_Index,), {"dim_str": item[1], "bound": item[2]})


class _Index:
    dim_str: str
    bound: str


@dataclass(frozen=True)
class Declared:
    """The declaration of an array: the kind of its numbers, its axes, and the bound of its numbers if they
    are indices.
    """

    kind: str
    dims: tuple[str, ...]
    bound: str = ""


@dataclass(frozen=True)
class Parameter:
    """The declaration of a parameter, or of a field of a parameter's structure.

    For an array, `options` says what the array may be (`Declared`, "Blocks", `Structure`, None). For a
    setting, `options` are its possible values, or the dataclass if the settings are a dataclass.
    """

    name: str
    setting: bool
    default: Any
    options: tuple[Any, ...]


@dataclass(frozen=True)
class Structure:
    """The declaration of named arrays: a TypedDict (`mapping`) or a NamedTuple. With `many`, it is a list
    of such structures.
    """

    name: str
    fields: tuple[Parameter, ...]
    mapping: bool
    many: bool = False
    kind: Any = None

    def of(self, values: Mapping[str, Any]) -> Any:
        """Return the structure with these values. A TypedDict leaves out values that are None."""
        if self.mapping:
            return {name: value for name, value in values.items() if value is not None}
        return self.kind(**values)

    def items(self, value: Any) -> Iterator[tuple[Parameter, Any]]:
        """Yield each field of a structure with its value, or with None if the value is missing."""
        for p in self.fields:
            yield p, value.get(p.name) if self.mapping else getattr(value, p.name)


@dataclass(frozen=True)
class Function:
    """A public function with its declared arguments and results. `returns` is one option, or a tuple of
    several in order.
    """

    name: str
    body: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    returns: tuple[Any, ...]

    @property
    def signature(self) -> Any:
        return self.parameters, self.returns

    @property
    def letters(self) -> set[str]:
        return letters_of(self.parameters)

    def parameter(self, name: str) -> Parameter:
        """Return the declaration of the parameter, or of the structure's field, with that name."""
        return next(p for p in self.leaves if p.name == name)

    @property
    def leaves(self) -> list[Parameter]:
        """Return all parameters, each followed by the fields of its structure."""
        return list(_leaves(self.parameters))


def _leaves(parameters: tuple[Parameter, ...]) -> Iterator[Parameter]:
    for p in parameters:
        yield p
        for option in p.options:
            if isinstance(option, Structure):
                yield from _leaves(option.fields)


def letters_of(parameters: tuple[Parameter, ...]) -> set[str]:
    """Return the axis letters that occur in these declarations."""
    parameters = tuple(_leaves(parameters))
    arrays = [o for p in parameters if not p.setting for o in p.options]
    dims = [d for o in arrays if isinstance(o, Declared) for d in (*o.dims, o.bound)]
    dims += [d for p in parameters if "Blocks" in p.options for d in blocked(p)[0]]
    dims += [o for p in parameters if p.setting for o in p.options if str(o).isupper()]
    dims += [DRAWN[p.options[0]].letters for p in parameters if p.setting and p.options[0] in DRAWN]
    dims += [LISTED.get(p.name, "") for p in parameters]
    return set(re.findall("[A-Z]", " ".join(dims)))


def modules(package: types.ModuleType) -> list[types.ModuleType]:
    """Return the modules of a package, sorted by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def public(module: types.ModuleType) -> list[str]:
    """Return the names of the ops in a module, except the names in `INNER`. The modules `arrays` and
    `dispatch` count as having none.
    """
    if module in (arrays, dispatch):
        return []
    short = module.__name__.rpartition(".")[2]
    own = (name for name, one in dispatch.OPS.items() if one.__module__ == module.__name__)
    return sorted(name for name in own if f"{short}.{name}" not in INNER)


def _option(hint: Any) -> Any:
    if hint is type(None):
        return None
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return Declared(hint.dtype.__name__, tuple(hint.dim_str.split()))
    if inspect.isclass(hint) and issubclass(hint, _Index):
        return Declared("Index", tuple(hint.dim_str.split()), hint.bound.removeprefix("<").strip())
    if inspect.isclass(hint) and hint.__name__ == "Blocks":
        return "Blocks"
    if typing.is_typeddict(hint) or hasattr(hint, "_field_defaults"):
        return _structure(hint)
    if typing.get_origin(hint) is list and isinstance(one := _option(*typing.get_args(hint)), Structure):
        return replace(one, many=True)
    raise UnfedError(f"{hint!r} {UNFED}: the type isn't an array")


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(_option(h) for h in (typing.get_args(hint) if union else (hint,)))


def _structure(kind: Any) -> Structure:
    mapping = typing.is_typeddict(kind)
    defaults = {} if mapping else kind._field_defaults
    fields = []
    for name, hint in typing.get_type_hints(kind, localns=_spaces({}), include_extras=True).items():
        missing: tuple[Any, ...] = ()
        if typing.get_origin(hint) is typing.NotRequired:
            (hint,), missing = typing.get_args(hint), (None,)
        setting = hint in (int, float, bool)
        options = _values(name, hint) if setting else (*_options(hint), *missing)
        fields.append(Parameter(name, setting, defaults.get(name, inspect.Parameter.empty), options))
    return Structure(kind.__name__, tuple(fields), mapping, kind=kind)


def _values(name: str, hint: Any) -> tuple[Any, ...]:
    if hint in CLASSES:
        return CLASSES[hint]
    if is_dataclass(hint):
        if hint not in DRAWN:
            raise UnfedError(
                f"settings of the class {hint} {UNFED}: state in DRAWN how such settings are drawn"
            )
        return (hint,)
    if hint is bool:
        return (False, True)
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if name not in SETTINGS and typing.get_origin(hint) is typing.Union:
        return tuple(value for one in typing.get_args(hint) for value in _values(name, one))
    if name not in SETTINGS:
        raise UnfedError(f"the setting {name!r} {UNFED}: add its values to SETTINGS")
    return SETTINGS[name]


def _spaces(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the meaning of each name that may occur in a declaration."""
    kinds = {k: getattr(jaxtyping, k) for k in ("Float", "Int", "UInt8", "Bool")}
    return {**names, **kinds, "Index": Index, "Array": np.ndarray, "Activation": Activation}


def read(function: Callable[..., Any]) -> Function:
    """Return a function's declaration. Raises `UnfedError` if the function takes anything but arrays and
    settings.
    """
    body = inspect.unwrap(function)
    hints = typing.get_type_hints(body, _spaces(body.__globals__))
    parameters = []
    for p in inspect.signature(body).parameters.values():
        setting = p.kind is p.KEYWORD_ONLY
        options = _values(p.name, hints[p.name]) if setting else _options(hints[p.name])
        parameters.append(Parameter(p.name, setting, p.default, options))
    back = hints["return"]
    several = typing.get_args(back) if typing.get_origin(back) is tuple else (back,)
    returns = tuple(_option(b) for b in several)
    declared = Function(body.__name__, function, tuple(parameters), returns)
    letters = declared.letters
    if "L" in letters and "O" not in letters:
        # Without a past, tables of positions have just the T rows of the call.
        declared = replace(
            declared,
            parameters=tuple(_renamed(p, "L", "T") for p in declared.parameters),
            returns=tuple(_with_axis(r, "L", "T") for r in declared.returns),
        )
    return declared


def _renamed(p: Parameter, old: str, new: str) -> Parameter:
    """Return the parameter with one axis letter replaced by another."""
    return p if p.setting else replace(p, options=tuple(_with_axis(o, old, new) for o in p.options))


def _with_axis(option: Any, old: str, new: str) -> Any:
    """Return an option of an array with one axis letter replaced by another."""
    if isinstance(option, Declared):
        return replace(option, dims=tuple(d.replace(old, new) for d in option.dims))
    if isinstance(option, Structure):
        return replace(option, fields=tuple(_renamed(f, old, new) for f in option.fields))
    return option


def walk(p: Parameter, value: Any, name: str = "") -> Iterator[tuple[str, Parameter, Any]]:
    """Yield (dotted name, declaration, value) for each array, setting or `Blocks` inside an argument.
    Values of None are left out."""
    name = name or p.name
    structure = structure_of(p)
    if value is None:
        return
    if structure is None:
        yield name, p, value
    elif structure.many:
        for i, item in enumerate(value):
            for f, part in structure.items(item):
                yield from walk(f, part, f"{name}.{i}.{f.name}")
    else:
        for f, part in structure.items(value):
            yield from walk(f, part, f"{name}.{f.name}")


def mapped(p: Parameter, value: Any, change: Callable[[str, Parameter, Any], Any], name: str = "") -> Any:
    """Return the argument with `change` applied to each value that `walk` yields."""
    name = name or p.name
    structure = structure_of(p)
    if value is None:
        return None
    if structure is None:
        return change(name, p, value)

    def one(item: Any, name: str) -> Any:
        fields = {f.name: mapped(f, part, change, f"{name}.{f.name}") for f, part in structure.items(item)}
        return structure.of(fields)

    return [one(v, f"{name}.{i}") for i, v in enumerate(value)] if structure.many else one(value, name)


def structure_of(p: Parameter) -> Structure | None:
    """Return the structure of a parameter, or None if it has none."""
    return next((o for o in p.options if isinstance(o, Structure)), None)


def value(expression: str, size: Callable[[str], int]) -> int:
    """Return the value of an expression of letters and numbers: a sum of products, such as "H*K+1"."""
    number = lambda a: int(a) if a.isdigit() else size(a)  # noqa: E731
    return sum(math.prod(map(number, term.split("*"))) for term in expression.split("+"))


def sizes(letters: set[str], size_of: Callable[[str], int]) -> dict[str, int]:
    """Return a size for each axis letter. If a rule gives the size from letters in the signature, the size
    is computed. Otherwise it is random.
    """
    size: dict[str, int] = {}

    def get(letter: str) -> int:
        if letter not in size:
            rule = DERIVED.get(letter, "")
            derived = letters & set(re.findall("[A-Z]", rule))
            size[letter] = value(rule, get) if derived else size_of(letter)
        return size[letter]

    for letter in sorted(letters):
        get(letter)
    return size


def drawn_letters(f: Function) -> set[str]:
    """Return the axis letters with random sizes. The sizes of all other letters follow from these."""
    drawn: set[str] = set()
    sizes(f.letters, lambda letter: drawn.add(letter) or 1)
    return drawn


def axes(p: Parameter, array: Any, size: Mapping[str, int]) -> tuple[str, ...]:
    """Return the declared axes of an argument. If several kinds of arrays are possible, the argument's
    shape decides.
    """
    several = [o.dims for o in p.options if isinstance(o, Declared)]
    if len(several) < 2:
        return several[0] if several else ()
    return next(dims for dims in several if array.shape == tuple(value(d, size.__getitem__) for d in dims))


def blocked(p: Parameter) -> tuple[tuple[str, ...], int]:
    """Return the axes of a quantized weight, and the index of the axis that is divided into blocks. A
    table is blocked along its rows.
    """
    axis = int(p.name == "table")
    floats = [o.dims for o in p.options if isinstance(o, Declared)]
    return floats[0] if floats else ("N", "D") if axis else ("D", "F"), axis


@functools.cache
def specified() -> dict[str, Callable[..., Any]]:
    """Return all public functions of refimpl/ops except those named in `HAND`, as a dict from
    `module.name` to function.
    """
    by_name = {}
    for module in modules(ops):
        short = module.__name__.rsplit(".", 1)[-1]
        by_name |= {f"{short}.{name}": getattr(module, name) for name in public(module)}
    return {name: function for name, function in by_name.items() if name not in HAND}


def functions() -> dict[str, Function]:
    """Return the declarations of all specified functions, as a dict from `module.name` to declaration."""
    return {name: read(function) for name, function in specified().items()}
