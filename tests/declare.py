"""Reads what a function of refimpl/ops declares, and draws inputs from it.

Positional parameters are arrays: one size is drawn for each axis letter, derived letters are
computed. Keyword-only parameters are static settings; their values stand in `SETTINGS` by name. An
optional array is there or not, a weight is an array or `Blocks`: each combination is a variant. A
function that can't be fed raises `UnfedError`; none is skipped.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import jaxtyping
import numpy as np
from hypothesis import strategies as st
from jaxtyping import AbstractArray
from tfm.refimpl import ops
from tfm.refimpl.axes import DERIVED
from tfm.refimpl.ops.quant import Blocks

SETTINGS: dict[str, tuple[Any, ...]] = {
    "eps": (1e-5, 0.1),
    "norm_eps": (1e-6, 0.1),
    "window": (None, 1, 3),
    "scale": (None, 0.7),
    "softcap": (None, 2.0),
    "theta": (10_000.0, 50.0),
    "factor": (8.0,),
    "low_freq_factor": (1.0,),
    "high_freq_factor": (4.0,),
    "original_context": (16,),
    "bits": (8, 4),
    "block": (4, 16),
    "axis": (0, 1),
}
# Parameters that stand side by side, or none of them.
TOGETHER = {"sin": "cos", "k_norm": "q_norm", "bk": "bq", "bv": "bq", "c0": "h0"}
TOGETHER |= {"bias_back": "bias", "peephole_back": "peephole"}
# Blocks that are drawn: (bits, has zero points, has minima, activations). Where a product may read
# another one's output, only `PASSIVE` is: one activation code flipped by an ulp would hide all else.
SCHEMES: dict[str, tuple[int, bool, bool, Literal["none", "block", "row"]]] = {
    "8": (8, False, False, "block"),
    "4 zero": (4, True, False, "block"),
    "4 minimum": (4, False, True, "block"),
    "8 row": (8, False, False, "row"),
    "8 plain": (8, True, False, "none"),
    "4 plain minimum": (4, True, True, "none"),
}
PASSIVE = "4 plain minimum"
BLOCK = 4
# What may have no element, and what is never empty.
EMPTY = frozenset("OUP")
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
        named = [o for p in self.parameters if not p.setting for o in p.options]
        dims = [d for o in named if isinstance(o, Declared) for d in (*o.dims, o.bound)]
        dims += [d for p in self.parameters if "Blocks" in p.options for d in blocked(p)[0]]
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


def read(function: Callable[..., Any]) -> Function:
    """What a function declares; `UnfedError` where that isn't arrays and settings."""
    body = inspect.unwrap(function)
    kinds = {k: getattr(jaxtyping, k) for k in ("Float", "Int", "UInt8", "Bool")}
    spaces = {**body.__globals__, **kinds, "Index": Index, "Array": np.ndarray}
    hints = typing.get_type_hints(body, globalns=spaces)
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


def blocked(p: Parameter) -> tuple[tuple[str, ...], int]:
    """Axes of a quantized weight, and along which it is blocked: tables are read by row."""
    axis = int(p.name == "table")
    floats = [o.dims for o in p.options if isinstance(o, Declared)]
    return floats[0] if floats else ("N", "D") if axis else ("D", "F"), axis


Variant = tuple[tuple[str, Any], ...]


def factors(f: Function) -> dict[str, tuple[Any, ...]]:
    """Parameter name -> the choices that make another graph of it."""
    products = sum("Blocks" in p.options for p in f.parameters)
    found: dict[str, tuple[Any, ...]] = {}
    for p in f.parameters:
        options: list[Any] = []
        for o in p.options:
            if o == "Blocks" and not p.setting:
                options += SCHEMES if products == 1 else [PASSIVE]
            else:
                options.append(o)
        found[p.name] = tuple(options)
    return {k: v for k, v in found.items() if k not in TOGETHER}


def pairwise(choices: dict[str, tuple[Any, ...]]) -> list[Variant]:
    """Few variants in which each pair of choices of two parameters occurs."""
    names = list(choices)
    places = {n: range(len(choices[n])) for n in names}
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i, j in itertools.product(places[a], places[b])
    }
    missing |= {((n, i), (n, i)) for n in names for i in places[n]}
    found: list[Variant] = []
    while missing:
        made = dict(min(missing, key=repr))
        for n in names:
            if n not in made:
                new = {i: sum(_fits(pair, {**made, n: i}) for pair in missing) for i in places[n]}
                made[n] = max(new, key=new.__getitem__)
        missing = {pair for pair in missing if not _fits(pair, made)}
        found.append(tuple((n, choices[n][made[n]]) for n in names))
    return found or [()]


def _fits(pair: Any, made: dict[str, int]) -> bool:
    return all(made.get(n) == i for n, i in pair)


@dataclass
class Call:
    """Arguments of one call: arrays by name in the order of the parameters, and settings."""

    arrays: dict[str, Any]
    settings: dict[str, Any]
    sizes: dict[str, int]

    def run(self, function: Callable[..., Any], change: Callable[[Any], Any] = lambda a: a) -> Any:
        """The function's result with `change` done to each array."""
        return function(*(None if a is None else change(a) for a in self.arrays.values()), **self.settings)


def make(
    f: Function, variant: Variant, size: dict[str, int], seed: int, scale: float, halves: bool = False
) -> Call:
    """The arguments that a variant, sizes, a seed and a scale stand for; floats are float32.

    With `halves` floats are multiples of scale / 2 up to 127, 127.5 or 128 of them: then many lie just
    halfway between two codes of a quantized row, where rounding rules differ.
    """
    rng = np.random.default_rng(seed)
    chosen = dict(variant)
    arrays: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for p in f.parameters:
        option = chosen[TOGETHER.get(p.name, p.name)]
        if p.setting:
            settings[p.name] = option
        elif option is None:
            arrays[p.name] = None
        elif isinstance(option, str):
            arrays[p.name] = _blocks(p, option, size, rng, scale)
        else:
            here = next(o for o in p.options if isinstance(o, Declared))
            arrays[p.name] = _array(here, size, rng, scale, halves)
    return Call(arrays, settings, size)


def _array(
    declared: Declared, size: dict[str, int], rng: np.random.Generator, scale: float, halves: bool
) -> np.ndarray:
    shape = tuple(value(d, size.__getitem__) for d in declared.dims)
    match declared.kind:
        case "Float" if halves:
            end = rng.choice([127.0, 127.5, 128.0])
            steps = np.clip(rng.integers(-320, 321, shape) / 2, -end, end)
            return (steps * scale).astype(np.float32)
        case "Float":
            return (rng.standard_normal(shape) * scale).astype(np.float32)
        case "Int":
            return rng.integers(0, 9, shape)
        case "Bool":
            return rng.random(shape) < 0.6
        case "Index":
            return rng.integers(0, value(declared.bound, size.__getitem__), shape)
    raise UnfedError(f"an array of {declared.kind} {UNFED}")


def _blocks(
    p: Parameter, scheme: str, size: dict[str, int], rng: np.random.Generator, scale: float
) -> Blocks:
    bits, zero, minimum, activations = SCHEMES[scheme]
    dims, axis = blocked(p)
    shape = [value(d, size.__getitem__) for d in dims]
    block = shape[axis] if activations == "row" else BLOCK
    few = list(shape)
    few[axis] = -(-shape[axis] // block)
    codes = lambda s: rng.integers(0, 2**bits, s).astype(np.uint8)  # noqa: E731
    floats = lambda s: (rng.standard_normal(s) * scale / 2 ** (bits - 1)).astype(np.float32)  # noqa: E731
    return Blocks(
        codes=codes(shape),
        scale=floats(few),
        zero=codes(few) if zero else None,
        minimum=floats(few) if minimum else None,
        bits=bits,
        block=block,
        axis=axis,
        activations=activations,
    )


@st.composite
def calls(
    draw: st.DrawFn,
    f: Function,
    variant: Variant | None = None,
    fixed: dict[str, int] | None = None,
    largest: int = 6,
) -> Call:
    """Calls of a function; a variant and the sizes of some letters may be given."""
    if variant is None:
        variant = tuple((n, draw(st.sampled_from(c), label=n)) for n, c in factors(f).items())
    given = fixed or {}

    def size_of(letter: str) -> int:
        if letter in given:
            return given[letter]
        return draw(st.integers(0 if letter in EMPTY else 1, largest), label=letter)

    size = sizes(f.letters, size_of)
    seed = draw(st.integers(0, 2**32 - 1), label="seed")
    scale = draw(st.sampled_from((0.125, 1.0, 8.0)), label="scale")
    return make(f, variant, size, seed, scale, draw(st.sampled_from((False, False, True)), label="halves"))


def flat(result: Any, name: str = "out") -> Iterator[tuple[str, Any]]:
    """The arrays of a result, each with a name that says where it stood."""
    if isinstance(result, dict):
        for i, item in enumerate(result.values()):
            yield from flat(item, f"{name}.{i}")
    elif isinstance(result, tuple | list):
        for i, item in enumerate(result):
            yield from flat(item, f"{name}.{i}")
    elif is_dataclass(result):
        for field in fields(result):
            yield from flat(getattr(result, field.name), f"{name}.{field.name}")
    elif result is not None and not isinstance(result, str | int):
        yield name, result


def check_result(f: Function, call: Call, result: Any) -> None:
    """The result has the declared shapes and kinds; floats have the type of the float inputs."""
    several = result if isinstance(result, tuple) else (result,)
    assert len(several) == len(f.returns), f"{f.name} gave {len(several)} results, declares {len(f.returns)}"
    floats = {a.dtype for _, a in flat(list(call.arrays.values())) if a.dtype.kind == "f"}
    size = dict(call.sizes)
    for declared, array in zip(f.returns, several, strict=True):
        if declared == "Blocks":
            assert type(array).__name__ == "Blocks", f"{f.name} gave {type(array)}, declares Blocks"
            assert array.codes.dtype == np.uint8
            assert array.scale.dtype in floats, f"{f.name} gave scales in {array.scale.dtype}, took {floats}"
            continue
        kinds = {"Float": "f", "Int": "i", "Index": "i", "UInt8": "u", "Bool": "b"}
        assert array.dtype.kind == kinds[declared.kind], f"{f.name} gave {array.dtype}, declares {declared}"
        if declared.kind == "Float" and floats:
            assert {array.dtype} == floats, f"{f.name} gave {array.dtype}, took {floats}"
        assert array.ndim == len(declared.dims), f"{f.name} gave shape {array.shape}, declares {declared}"
        for d, got in zip(declared.dims, array.shape, strict=True):
            # A letter that no input has, as the blocks of a quantized row, is bound by its first use.
            if d in "C":
                size.setdefault(d, got)
            wanted = value(d, size.__getitem__)
            assert got == wanted, f"{f.name} gave shape {array.shape}, declares {declared.dims} of {size}"


def functions() -> dict[str, Function]:
    """`module.name` -> declaration, of all that refimpl/ops makes public but what `HAND` names."""
    found = {}
    for module in modules(ops):
        short = module.__name__.rsplit(".", 1)[-1]
        for name in public(module):
            if f"{short}.{name}" not in HAND:
                found[f"{short}.{name}"] = read(getattr(module, name))
    return found


# Functions of a whole tree: an annotation can't say which one, so tests/export/test_model.py feeds them.
HAND = ("block.block", "block.normalize", "model.model", "model.position_tables")
