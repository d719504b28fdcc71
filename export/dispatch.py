"""Runs the specification over tensors: with PyTorch's bodies, or with what a target puts in their place.

Inside `on_torch()`, a call of an op runs its body in PyTorch. Inside `exporting(table)`, it runs the function
of that name in the table, if there is one. So no signature depends on targets, and nothing is patched.
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

__all__ = ["body", "exporting", "extra_inputs", "on_torch"]


def exporting(table: Table) -> AbstractContextManager[None]:
    """Let calls of ops run the table's functions, else PyTorch's bodies. KeyError for a name of no op."""
    return use({**TORCH, **table})


def on_torch() -> AbstractContextManager[None]:
    """Let calls of ops run PyTorch's bodies."""
    return exporting({})


def body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the body that an op runs over tensors if no target replaces it, for a replacement to call."""
    return TORCH.get(function.__name__) or dispatch.body(function)


def extra_inputs(name: str, **arguments: Any) -> AbstractContextManager[None]:
    """Also pass these arguments to the replacement of that name: graph inputs that only a target has."""
    table = in_use()
    return use({**table, name: partial(table[name], **arguments)})
