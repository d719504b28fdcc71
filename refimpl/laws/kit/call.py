"""The arguments of one call, with names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

# Up to this many numbers of an array are shown.
SHOWN = 24


@dataclass(repr=False)
class Call:
    """Arrays by name in the order of the parameters, settings, and the sizes that were drawn."""

    arrays: dict[str, Any]
    settings: dict[str, Any]
    sizes: dict[str, int]

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name] if name in self.arrays else self.settings[name]

    def but(self, **changed: Any) -> Call:
        """The same call with other arrays or settings."""
        unknown = set(changed) - {*self.arrays, *self.settings}
        if unknown:
            raise TypeError(f"a call has no {sorted(unknown)}, it has {[*self.arrays, *self.settings]}")
        return replace(
            self,
            arrays={n: changed.get(n, a) for n, a in self.arrays.items()},
            settings={n: changed.get(n, s) for n, s in self.settings.items()},
        )

    def run(self, function: Callable[..., Any], change: Callable[[Any], Any] = lambda a: a) -> Any:
        """The function's result with `change` done to each array."""
        return function(*(None if a is None else change(a) for a in self.arrays.values()), **self.settings)

    def __repr__(self) -> str:
        arrays = [f"{n}: {shown(a)}" for n, a in self.arrays.items() if a is not None]
        return "\n".join(["Call", *arrays, *(f"{n}: {s!r}" for n, s in self.settings.items())])


def shown(value: Any) -> str:
    """Type and shape, and the numbers where they are few."""
    if is_dataclass(value):
        inside = ", ".join(f"{f.name}={shown(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({inside})"
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
