"""Run the specification's ops over PyTorch tensors.

Inside `on_torch()`, a call of an op runs the op's implementation in PyTorch. Inside `exporting(table)`, a
call of an op whose name is in the table runs the table's function; every other op runs its implementation in
PyTorch. So no op's signature depends on targets, and nothing is patched.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ..refimpl.ops import dispatch
from ..refimpl.ops.dispatch import Table, in_use, use
from . import ops  # noqa: F401  (which registers the bodies)
from .torch_bodies import TORCH


def exporting(table: Table) -> AbstractContextManager[None]:
    """During a `with` block, run the table's function for each op whose name is in the table. All other ops
    run their implementations in PyTorch.

    Raises KeyError if a name in the table isn't the name of an op.
    """
    return use({**TORCH, **table})


def on_torch() -> AbstractContextManager[None]:
    """During a `with` block, run all ops by their implementations in PyTorch."""
    return exporting({})


def body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that computes an op over PyTorch tensors if no target replaces the op.

    A target's function can call this function instead of the op, because the op would call the target's
    function again.
    """
    return TORCH.get(function.__name__) or dispatch.body(function)


def extra_inputs(name: str, **arguments: Any) -> AbstractContextManager[None]:
    """During a `with` block, pass these extra arguments to the function that replaces the op `name`.

    The arguments are inputs that only one target's graphs have.
    """
    table = in_use()
    return use({**table, name: partial(table[name], **arguments)})
