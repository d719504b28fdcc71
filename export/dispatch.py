"""Run the specification over tensors: with the ops' bodies in PyTorch, or with a target's replacements.

Inside `on_torch()`, a call of an op runs the op's body in PyTorch. Inside `exporting(table)`, the call runs
the function with the op's name in the table, if there is one. So no op's signature depends on targets, and
nothing is patched.
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
    """During a `with` block, let calls of ops run the table's functions, or otherwise the bodies in PyTorch.
    Raises KeyError if a name in the table isn't the name of an op.
    """
    return use({**TORCH, **table})


def on_torch() -> AbstractContextManager[None]:
    """During a `with` block, let calls of ops run their bodies in PyTorch."""
    return exporting({})


def body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the body that an op runs over tensors if no target replaces it, for a replacement to call."""
    return TORCH.get(function.__name__) or dispatch.body(function)


def extra_inputs(name: str, **arguments: Any) -> AbstractContextManager[None]:
    """During a `with` block, also pass these arguments to the replacement of this name. They are graph inputs
    that only one target has.
    """
    table = in_use()
    return use({**table, name: partial(table[name], **arguments)})
