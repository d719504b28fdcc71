"""The arguments of one call of a function, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from .declare import Function, Parameter, mapped, structure_of

# Up to this many numbers of an array are shown.
SHOWN = 24


@dataclass(repr=False)
class Call:
    """The arguments of one call: the arrays by name in the order of the parameters, the settings, and the
    random sizes.

    `call["wq"]` and `call.but(wq=...)` also find fields inside structures and settings, by the field's own
    name.
    """

    f: Function
    arrays: dict[str, Any]
    settings: dict[str, Any]
    sizes: dict[str, int]

    def __getitem__(self, name: str) -> Any:
        if name in self.arrays:
            return self.arrays[name]
        if name in self.settings:
            return self.settings[name]
        for holder in self._holders(name):
            argument = self[holder]
            if isinstance(argument, dict):
                return argument.get(name)
            return None if argument is None else getattr(argument, name)
        raise KeyError(f"a call of {self.f.name} has no argument {name!r}")

    def _holders(self, name: str) -> list[str]:
        """Return the parameters with a structure that has a field of that name. If there are none, return
        the settings that have such a field.
        """
        structures = {p.name: structure_of(p) for p in self.f.parameters}
        holders = [
            n for n, s in structures.items() if s and not s.many and name in {f.name for f in s.fields}
        ]
        return holders or [n for n, s in self.settings.items() if is_dataclass(s) and hasattr(s, name)]

    def but(self, **changed: Any) -> Call:
        """Return a copy of the call in which the given arrays, settings, or fields of structures are
        replaced.
        """
        direct = {n: v for n, v in changed.items() if n in self.arrays or n in self.settings}
        arrays = {n: direct.get(n, a) for n, a in self.arrays.items()}
        settings = {n: direct.get(n, s) for n, s in self.settings.items()}
        for name in changed.keys() - direct.keys():
            holders = self._holders(name)
            if len(holders) != 1:
                where = f"several: {holders}" if holders else "none"
                raise TypeError(
                    f"the field {name!r} must belong to exactly one argument of {self.f.name}, got {where}"
                )
            holder = holders[0]
            if holder in settings:
                settings[holder] = replace(settings[holder], **{name: changed[name]})
            else:
                structure = structure_of(self.f.parameter(holder))
                assert structure is not None
                fields_ = {f.name: value for f, value in structure.items(arrays[holder])}
                arrays[holder] = structure.of(fields_ | {name: changed[name]})
        return replace(self, arrays=arrays, settings=settings)

    def changed(self, change: Callable[[Parameter, Any], Any]) -> Call:
        """Return a copy of the call with `change` applied to each array, including arrays inside
        structures.
        """
        arrays = {
            p.name: mapped(p, self.arrays[p.name], lambda _, leaf, value: change(leaf, value))
            for p in self.f.parameters
            if not p.setting
        }
        return replace(self, arrays=arrays)

    def run(self, function: Callable[..., Any], change: Callable[[Any], Any] = lambda a: a) -> Any:
        """Return the result of a function for this call, with `change` applied to each array first."""
        return function(*(None if a is None else change(a) for a in self.arrays.values()), **self.settings)

    def __repr__(self) -> str:
        arrays = [f"{n}: {shown(a)}" for n, a in self.arrays.items() if a is not None]
        return "\n".join(["Call", *arrays, *(f"{n}: {s!r}" for n, s in self.settings.items())])


def shown(value: Any) -> str:
    """Return an array's type and shape as text, and also its numbers if there are few."""
    if is_dataclass(value):
        inside = ", ".join(f"{f.name}={shown(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({inside})"
    if isinstance(value, tuple):
        return f"{type(value).__name__}({', '.join(shown(v) for v in value)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{n}: {shown(v)}" for n, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(shown(v) for v in value) + "]"
    if not isinstance(value, np.ndarray):
        return repr(value)
    kind = f"{value.dtype}{list(value.shape)}"
    if value.size > SHOWN:
        return kind
    lines = np.array2string(value, separator=", ", floatmode="unique", max_line_width=10**6).splitlines()
    return f"{kind} = {' '.join(line.strip() for line in lines)}"
