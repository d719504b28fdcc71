"""Ops that are written once: they touch only what NumPy and PyTorch share, or an op with a body in both."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from helpers.mirror import over_tensors
from tfm.export.dispatch import on_torch
from tfm.export.torch_bodies import TORCH
from tfm.refimpl import ops
from tfm.refimpl.ops import arrays
from tfm.refimpl.ops.dispatch import OPS, body, op

# What composites may ask of an array by name; both libraries have it, and mean the same.
SHARED = {"T", "clip", "dtype", "itemsize", "mean", "ndim", "shape", "squeeze", "sum", "swapaxes"}
# Names of settings, mappings and caches that arrays have too.
OTHERS = {"clamp", "cos", "cross", "minimum", "norm", "sin", "size", "topk", "values"}
ARRAYS = {name for kind in (np.ndarray, torch.Tensor) for name in dir(kind) if not name.startswith("_")}
COMPOSITES = sorted(OPS.keys() - TORCH.keys())


def parts(function: Callable[..., Any], seen: set[Callable[..., Any]]) -> Iterator[ast.AST]:
    """The syntax trees of a function and of the plain functions that it calls in refimpl/ops."""
    if function in seen:
        return
    seen.add(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    yield tree
    for name in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}:
        other = function.__globals__.get(name)
        plain = isinstance(other, FunctionType) and other is not op and not hasattr(other, "__wrapped__")
        if plain and other.__module__.startswith(ops.__name__):
            yield from parts(other, seen)


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_composite_touches_only_what_arrays_share(name: str):
    for tree in parts(body(OPS[name]), set()):
        nodes = list(ast.walk(tree))
        assert not {"np", "numpy", "torch"} & {node.id for node in nodes if isinstance(node, ast.Name)}
        touched = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & ARRAYS
        assert touched <= SHARED | OTHERS


def test_a_primitive_is_none():
    [tree] = parts(body(OPS["softmax"]), set())
    assert "np" in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


X = np.arange(24.0).reshape(2, 3, 4)
AT = np.array([[2, 0], [1, 1]])
CALLS: dict[str, tuple[Any, ...]] = {
    "indices": (5, X),
    "between": (-2, 3, X),
    "rows_at": (X[0], AT),
    "tokens_at": (X, AT),
    "shifted_right": (AT, 7),
    "split_last": (X, 2),
    "join_last": (X,),
    "join_rows": (X,),
    "split_rows": (X.reshape(6, 4), X),
    "whole": (AT.astype(np.uint8),),
    "where": (X > 5, X, 0.0),
    "concatenate": ([X, X[:, :1]], 1),
    "filled": (3, 4, X),
    "repeated": (X[:, :1], 5, 1),
    "zeros_like": (X,),
    "all_true": (X,),
    "sqrt": (X,),
    "largest": (-X, 1),
    "smallest": (-X, 1),
    "each_row": (X, X[0].T),
}
EXPECTED = {
    "tokens_at": X[np.arange(2)[:, None], AT],
    "shifted_right": np.array([[7, 2], [7, 1]]),
    "concatenate": np.stack([np.vstack([row, row[:1]]) for row in X]),
}


@pytest.mark.parametrize("name", CALLS)
def test_array_ops_are_the_same_in_both(name: str):
    convert = lambda a: torch.from_numpy(a) if isinstance(a, np.ndarray) else a  # noqa: E731
    given = [[convert(b) for b in a] if isinstance(a, list) else convert(a) for a in CALLS[name]]
    spec, got = OPS[name](*CALLS[name]), over_tensors(OPS[name])(*given)
    assert got.numpy().dtype == spec.dtype
    np.testing.assert_array_equal(got.numpy(), spec)
    if name in EXPECTED:
        np.testing.assert_array_equal(spec, EXPECTED[name])


@pytest.mark.parametrize("sizes", [(1, 3), (2, 2)])
def test_parts_are_the_same_in_both(sizes: tuple[int, int]):
    spec, got = OPS["split"](X, sizes), over_tensors(OPS["split"])(torch.from_numpy(X), sizes)
    for part, other, expected in zip(spec, got, (X[..., : sizes[0]], X[..., sizes[0] :]), strict=True):
        np.testing.assert_array_equal(part, expected)
        np.testing.assert_array_equal(other.numpy(), expected)


def test_a_type_is_the_librarys_own():
    with on_torch():
        assert OPS["as_type"](torch.ones(2), torch.float16).dtype == torch.float16
    assert OPS["as_type"](np.ones(2), np.dtype(np.float16)).dtype == np.float16


def test_tokens_of_streams_are_found():
    """x [B, T, X, D], as layers with several streams have it."""
    x = np.arange(48.0).reshape(2, 3, 2, 4)
    got = over_tensors(OPS["tokens_at"])(torch.from_numpy(x), torch.from_numpy(AT))
    np.testing.assert_array_equal(got.numpy(), x[np.arange(2)[:, None], AT])
    np.testing.assert_array_equal(OPS["tokens_at"](x, AT), got.numpy())


def test_each_array_op_has_a_call():
    assert {name for name, f in OPS.items() if f.__module__ == arrays.__name__} == {
        *CALLS,
        "as_type",
        "split",
    }
