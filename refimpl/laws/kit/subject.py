"""The function under test, in the form that laws use."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ...ops.quant import Blocks
from .budget import FINE, budget, cast, each
from .call import Call
from .declare import Declared, Function, Parameter, Structure, axes, drawn_letters
from .draw import calls, factors
from .results import compare, flat


class UnsupportedError(Exception):
    """Raised if a law doesn't apply, because the function under test lacks an argument that the law needs."""


@dataclass(frozen=True)
class Subject:
    """A kernel in place of a specified function. A law uses it to generate random calls, run them and
    compare results.

    `choices` are the values that each parameter may take, and `sizes` are the axes with a fixed size.
    Parameters that the kernel doesn't take stay at their defaults. Floats have the type `dtype`, and
    `arrays` converts each array to what the kernel takes. `history` contains the calls so far.
    """

    f: Function
    kernel: Callable[..., Any]
    dtype: Any
    arrays: Callable[[Any], Any]
    accepted: frozenset[str]
    choices: dict[str, tuple[Any, ...]]
    sizes: dict[str, int]
    history: list[Call] = field(default_factory=list)

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Run the kernel for a `Call`, or for arrays and settings, and return its result as NumPy arrays."""
        call = args[0] if args and isinstance(args[0], Call) else self.call(*args, **settings)
        arrays = list(call.arrays.items())
        for p in self.f.parameters:
            is_set = call[p.name] != p.default if p.setting else call[p.name] is not None
            if is_set and p.name not in self.accepted:
                raise UnsupportedError(p.name)
        while arrays and arrays[-1][0] not in self.accepted:
            arrays.pop()
        self.history.append(call)
        positional = [None if a is None else each(self.arrays, cast(a, self.dtype)) for _, a in arrays]
        named = {n: s for n, s in call.settings.items() if n in self.accepted}
        return self._structured(_numpy(self.kernel(*positional, **named)))

    def _structured(self, result: Any) -> Any:
        """Return the result in the structures that the function declares, since a kernel may return plain
        tuples.
        """
        returns = self.f.returns
        if len(returns) == 1:
            return _as(returns[0], result)
        return tuple(_as(option, part) for option, part in zip(returns, result, strict=True))

    def call(self, *arrays: Any, **settings: Any) -> Call:
        """Return a call with the given arrays, in the order of the parameters, and the given settings. All
        other settings have their defaults.
        """
        names = [p.name for p in self.f.parameters if not p.setting]
        by_name = dict(zip(names, arrays, strict=False))
        values = {p.name: by_name.get(p.name, settings.get(p.name, p.default)) for p in self.f.parameters}
        if missing := [n for n, a in values.items() if a is inspect.Parameter.empty]:
            raise TypeError(f"{self.f.name} needs the arguments {missing}")
        call = Call(self.f, {n: values.pop(n) for n in names}, values, {})
        return call.but(**settings)

    def calls(self, *, largest: int = 6, **fixed: Any) -> st.SearchStrategy[Call]:
        """Return a hypothesis strategy that generates random calls from the declaration, with axes up to
        size `largest`.

        A keyword may fix a setting to a value, an axis letter to a size, or an array to be present (True)
        or absent (None): `attend.calls(mask=None, softcap=2.0, S=5)`.
        """
        choices, sizes = narrowed(self.f, self.choices, self.sizes, fixed)
        drawn = calls(self.f, fixed=sizes, largest=largest, choices=choices)
        return drawn.map(lambda c: replace(c, arrays=cast(c.arrays, self.dtype)))

    def take(self, call: Call, letter: str, index: Any) -> Call:
        """Return the call with only the given indices along an axis, in the given order, in each array
        that has this axis."""

        def chosen(p: Parameter, array: Any) -> Any:
            if not isinstance(array, np.ndarray) or letter not in (dims := axes(p, array, call.sizes)):
                return array
            return np.take(array, index, dims.index(letter))

        return call.changed(chosen)

    def near(self, got: Any, expected: Any, *calls: Call, times: float = 1.0) -> None:
        """Check that `got` equals `expected` within the error budgets of the `calls` from which they were
        computed.

        Without `calls` they must be exactly equal. The budgets of several calls add up. They are
        multiplied by `times` if a result sums that many elements. If `expected` is a complete result, each
        output has its own budget; otherwise the largest budget applies to all.
        """
        share = times if self.dtype == np.float32 else times * FINE
        arrays = {n: np.asarray(a) for n, a in flat(expected)}
        allowed = dict.fromkeys(arrays, 0.0)
        budgets = {id(c): budget(self.f, c) for c in calls}
        for one in (budgets[id(c)] for c in calls):
            for n in arrays:
                allowed[n] += one[n] if set(one) == set(arrays) else max(one.values(), default=0.0)
        compare(self.f.name, dict(flat(got)), arrays, allowed, share)


def _as(option: Any, result: Any) -> Any:
    plain = isinstance(option, Structure) and type(result) is tuple
    return option.kind(*result) if plain else result


def _numpy(result: Any) -> Any:
    if result is None or isinstance(result, int):
        return result
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*(_numpy(r) for r in result))
    if isinstance(result, tuple | list):
        return tuple(_numpy(r) for r in result)
    if is_dataclass(result):
        blocks: dict[str, Any] = {f.name: getattr(result, f.name) for f in fields(Blocks)}
        for n in ("codes", "scale", "zero", "minimum"):
            blocks[n] = None if blocks[n] is None else np.asarray(blocks[n])
        return Blocks(**blocks)
    return np.asarray(result)


def narrowed(
    f: Function, choices: dict[str, tuple[Any, ...]], sizes: dict[str, int], fixed: dict[str, Any]
) -> tuple[dict[str, tuple[Any, ...]], dict[str, int]]:
    """Return the choices and sizes that remain possible after some of them are fixed."""
    choices, sizes = dict(choices), dict(sizes)
    arrays = {p.name for p in f.leaves if not p.setting}
    for name, value in fixed.items():
        if re.fullmatch("[A-Z]", name):
            if name not in (drawn := sorted(drawn_letters(f))):
                raise TypeError(
                    f"{f.name} has no size {name!r} to fix: only the sizes {drawn} can be fixed, because the "
                    "others follow from these"
                )
            if sizes.setdefault(name, value) != value:
                raise UnsupportedError(name)
            continue
        if name not in choices:
            raise TypeError(
                f"{f.name} has no argument {name!r} to fix, but has {list(choices)} and the letters of axes"
            )
        if name not in arrays:
            remaining = (value,) if len(choices[name]) > 1 or value in choices[name] else ()
        else:
            remaining = tuple(
                c for c in choices[name] if (isinstance(c, Declared | Structure) if value else c is None)
            )
        if not remaining:
            raise UnsupportedError(name)
        choices[name] = remaining
    return choices, sizes


def subject(
    f: Function,
    kernel: Callable[..., Any],
    dtype: Any,
    arrays: Callable[[Any], Any],
    quantized: bool,
    fixed: dict[str, Any],
) -> Subject:
    """Return a `Subject` for a kernel. It takes only the parameters in the kernel's signature that the
    caller hasn't fixed.
    """
    accepted = _accepted(f, kernel)
    choices = factors(f)
    for p in f.parameters:
        if p.name in accepted or (p.name not in choices and not is_dataclass(p.options[0])):
            continue
        if p.default is inspect.Parameter.empty:
            raise TypeError(f"{f.name} needs {p.name!r}, which the function under test doesn't take")
        choices[p.name] = (p.default,)
    for p in f.leaves:
        if p.name in choices and not quantized and not p.setting:
            choices[p.name] = tuple(c for c in choices[p.name] if not isinstance(c, str)) or choices[p.name]
    choices, sizes = narrowed(f, choices, {}, fixed)
    return Subject(f, kernel, np.dtype(dtype), arrays, accepted, choices, sizes)


def _accepted(f: Function, kernel: Callable[..., Any]) -> frozenset[str]:
    """Return the parameters that a kernel takes: arrays by position, settings by name."""
    arrays = [p.name for p in f.parameters if not p.setting]
    settings = {p.name for p in f.parameters if p.setting}
    names, places = set(), 0
    for p in inspect.signature(kernel).parameters.values():
        match p.kind:
            case p.VAR_POSITIONAL:
                places = len(arrays)
            case p.VAR_KEYWORD:
                names |= settings
            case _ if p.name in settings:
                names.add(p.name)
            case p.KEYWORD_ONLY:
                pass
            case _:
                places += 1
    return frozenset(names | set(arrays[:places]))
