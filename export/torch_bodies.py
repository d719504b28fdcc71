"""A table of the ops' implementations in PyTorch. The files of `export/ops` fill the table."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from ..refimpl import ops

F = TypeVar("F", bound=Callable[..., Any])

TORCH: dict[str, Callable[..., Any]] = {}  # name of an op -> its body


def torch_body(function: F) -> F:
    """Register a function as the PyTorch implementation of an op, and return the op.

    The op has the function's name, and is in the file of `refimpl/ops` that has the same name as the
    function's file. The function must take the op's parameters, with the same names and defaults. Only the
    op's own annotations state shapes.
    """
    name, file = function.__name__, function.__module__.rpartition(".")[2]
    op = getattr(importlib.import_module(f"{ops.__name__}.{file}"), name)
    wanted, taken = _parameters(op), _parameters(function)
    assert taken == wanted, f"{file}.{name} takes {wanted}, and its body in PyTorch {taken}"
    assert name not in TORCH, f"{name} has another body in PyTorch"
    TORCH[name] = function
    return op


def _parameters(function: Callable[..., Any]) -> str:
    """Return a function's parameters as a text, without annotations."""
    signature, empty = inspect.signature(function), inspect.Signature.empty
    bare = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(bare))
