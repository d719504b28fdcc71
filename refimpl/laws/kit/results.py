"""The results of functions: arrays by name, the declared shapes and types, and how far arrays differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from .call import Call, shown
from .declare import Declared, Function, Structure, value


def flat(result: Any, name: str = "out") -> Iterator[tuple[str, Any]]:
    """Yield each array of a result with a name that says where in the result it is."""
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
    """Check that the result has the declared shapes and kinds of numbers, and that its floats have the
    type of the input's floats."""
    several = result if isinstance(result, tuple) and not hasattr(result, "_fields") else (result,)
    assert len(several) == len(f.returns), (
        f"{f.name} returned {len(several)} results, but declares {len(f.returns)}"
    )
    floats = {a.dtype for _, a in flat(list(call.arrays.values())) if a.dtype.kind == "f"}
    size = dict(call.sizes)
    for declared, array in _declared(f.returns, several):
        if declared == "Blocks":
            assert type(array).__name__ == "Blocks", f"{f.name} returned {type(array)}, but declares Blocks"
            assert array.codes.dtype == np.uint8
            assert array.scale.dtype in floats, (
                f"{f.name} returned scales in {array.scale.dtype}, but its inputs are {floats}"
            )
            continue
        kinds = {"Float": "f", "Int": "i", "Index": "i", "UInt8": "u", "Bool": "b"}
        assert array.dtype.kind == kinds[declared.kind], (
            f"{f.name} returned {array.dtype}, but declares {declared}"
        )
        if declared.kind == "Float" and floats:
            assert {array.dtype} == floats, f"{f.name} returned {array.dtype}, but its inputs are {floats}"
        assert array.ndim == len(declared.dims), (
            f"{f.name} returned shape {array.shape}, but declares {declared}"
        )
        for d, got in zip(declared.dims, array.shape, strict=True):
            # A letter that no input has, as the blocks of a quantized row, is bound by its first use.
            if d in "CMNI":
                size.setdefault(d, got)
            expected = value(d, size.__getitem__)
            assert got == expected, f"{f.name} gave shape {array.shape}, declares {declared.dims} of {size}"


def _declared(returns: tuple[Any, ...], several: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """Yield each array of a result with its declaration. Missing fields of a structure are left out."""
    for declared, result in zip(returns, several, strict=True):
        if not isinstance(declared, Structure):
            yield declared, result
            continue
        for p, array in declared.items(result):
            if array is not None and not p.setting:
                yield next(o for o in p.options if isinstance(o, Declared)), array


def largest(a: np.ndarray) -> float:
    return float(np.max(np.abs(a), initial=0))


def apart(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference between two arrays. Equal infinities count as a difference of 0."""
    off = np.zeros(expected.shape, np.float64)
    return largest(np.subtract(got, expected, out=off, where=got != expected, dtype=np.float64))


def compare(
    label: str, got: dict[str, Any], expected: dict[str, Any], budget: dict[str, float], share: float = 1.0
) -> None:
    """Check that floats differ by at most their error budget, and that integers and booleans are equal.

    A failure says which array differs and by how much.
    """
    assert list(got) == list(expected), f"{label} gave {list(got)}, expected {list(expected)}"
    for n, want in expected.items():
        have = np.asarray(got[n])
        assert have.shape == want.shape, f"{label} {n}: shape {have.shape}, expected {want.shape}"
        if want.dtype.kind != "f":
            off = int((have != want).sum())
            both = f"got {shown(have)}, expected {shown(want)}"
            assert not off, f"{label} {n}: {off} of {want.size} differ, {both}"
            continue
        strange = ~np.isfinite(want)
        assert (have[strange] == want[strange]).all(), f"{label} {n}: finite where the spec is not"
        assert np.isfinite(have[~strange]).all(), f"{label} {n}: not finite where the spec is"
        error, allowed = apart(have, want), share * budget[n]
        assert error <= allowed, f"{label} {n}: off by {error:.3g}, budget {allowed:.3g}"
