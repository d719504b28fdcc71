"""Register laws by name, and check a function against its laws."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from .budget import FINE, budget, cast, expected
from .declare import Function, read, specified
from .results import compare, flat
from .subject import Subject, UnsupportedError, subject

Value = TypeVar("Value")


class Draw(Protocol):
    """A function that draws a random value from a hypothesis strategy."""

    def __call__(self, strategy: st.SearchStrategy[Value], label: Any = None) -> Value: ...


Law = Callable[[Subject, Draw], None]
_LAWS: dict[str, dict[str, Law]] = {}
EQUALS = "equals the specification"


class LawBroken(AssertionError):  # noqa: N818  (what a test shows: the law is broken)
    """Raised if a function breaks a law. The message says which law, by how much, and for which inputs."""


def law(*names: str) -> Callable[[Law], Law]:
    """Register the decorated function as a law of the specified functions with these names. The law's name
    is the decorated function's name, written in words.
    """

    def register(body: Law) -> Law:
        words = body.__name__.replace("_", " ")
        for name in names:
            laws = _LAWS.setdefault(name, {})
            assert words not in laws, f"two laws of {name} are called {words!r}"
            laws[words] = body
        return body

    return register


def equals_the_specification(kernel: Subject, draw: Draw) -> None:
    """The result has the specification's types and integers, and its floats differ from the
    specification's by at most the computed error budget."""
    call = draw(kernel.calls())
    got = {n: np.asarray(a) for n, a in flat(kernel(call))}
    run = lambda change: call.run(kernel.f.body, change)  # noqa: E731
    typed = dict(flat(run(lambda a: cast(a, kernel.dtype))))
    for n, a in got.items():
        assert n in typed, f"{kernel.f.name} gave {list(got)}, expected {list(typed)}"
        assert a.dtype == typed[n].dtype, (
            f"{kernel.f.name} {n} is {a.dtype}, the specification's {typed[n].dtype}"
        )
    share = FINE if kernel.dtype == np.float64 else 1.0
    compare(kernel.f.name, got, expected(run, kernel.dtype), budget(kernel.f, call), share)


@functools.cache
def _registered() -> dict[str, dict[str, Law]]:
    """Return the laws of each function by name, from all law files."""
    package = importlib.import_module(__name__.rsplit(".", 2)[0])
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    by_function = {name.split(".")[1]: {EQUALS: equals_the_specification} for name in specified()}
    for name, laws in _LAWS.items():
        assert name in by_function, f"laws of {name!r}, which is no function of refimpl/ops"
        by_function[name] |= laws
    return by_function


def names() -> dict[str, tuple[str, ...]]:
    """Return a dict from each specified function's name to the names of its laws."""
    return {name: tuple(laws) for name, laws in _registered().items()}


def declaration(name: str) -> Function:
    """Return the declaration of the specified function with this name."""
    functions = {n.split(".")[1]: function for n, function in specified().items()}
    if name not in functions:
        near = difflib.get_close_matches(name, functions, 3)
        raise LookupError(
            f"there is no function {name!r} in the specification; names() lists them; similar names: {near}"
        )
    return read(functions[name])


def check(
    name: str,
    kernel: Callable[..., Any],
    *,
    dtype: Any = np.float32,
    arrays: Callable[[Any], Any] = lambda a: a,
    quantized: bool = False,
    only: str | None = None,
    examples: int | None = None,
    **fixed: Any,
) -> tuple[str, ...]:
    """Check a kernel against the specified function of this name and its laws, and return the laws that
    apply.

    The kernel takes arrays by position and settings by name, as the function does. Parameters that its
    signature lacks stay at their defaults. `arrays` converts each NumPy array to what the kernel takes
    (torch.from_numpy). With `quantized`, weights may be `Blocks`. `only` is the name of the only law to
    check. `examples` is the number of random examples per law, by default hypothesis's own.

    Any other keyword fixes a setting to a value, an axis letter to a size, or an array to be present (True)
    or absent (None). Fields of structures and of `settings` are fixed by their own names: `check("attention",
    kernel, softcap=None, q_norm=None)`. Raises `LawBroken` with a shrunk counterexample.
    """
    f, laws = declaration(name), _registered()[name]
    if only is not None and only not in laws:
        raise LookupError(f"{name} has no law {only!r}, but it has {list(laws)}")
    tested = subject(f, kernel, dtype, arrays, quantized, fixed)
    chosen = {n: body for n, body in laws.items() if only in (None, n)}
    return tuple(n for n, body in chosen.items() if _holds(n, body, tested, examples))


def _holds(name: str, body: Law, tested: Subject, examples: int | None) -> bool:
    """Check one law. Returns False if the law needs an argument that the kernel doesn't take."""
    applies = True

    def trial(data: st.DataObject) -> None:
        nonlocal applies
        tested.history.clear()
        try:
            body(tested, data.draw)
        except UnsupportedError:
            applies = False
        except HypothesisException:
            raise
        except Exception as error:
            raise LawBroken(_message(name, body, tested, error)) from error

    trial.__name__ = f"{tested.f.name}_{name}".replace(" ", "_")  # hypothesis keeps counterexamples by name
    default = settings.default
    assert default is not None
    few = default.max_examples if examples is None else examples
    phases = (Phase.reuse, Phase.generate, Phase.shrink)
    chosen = settings(max_examples=few, deadline=None, report_multiple_bugs=False, phases=phases)
    chosen(given(st.data())(trial))()
    return applies


def _message(name: str, body: Law, tested: Subject, error: Exception) -> str:
    why = str(error) if isinstance(error, AssertionError) and str(error) else repr(error)
    lines = [f'{tested.f.name} breaks the law "{name}": {why}', f"{body.__doc__}".strip()]
    lines += [repr(call).replace("\n", "\n    ") for call in tested.history]
    return "\n  ".join(lines)
