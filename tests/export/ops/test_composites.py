"""Ops that are written once: they touch only what NumPy and PyTorch share, or an op with a body in both."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.mirror import Source, is_composite, over_tensors, reached, runs_over_tensors, sources
from tfm import export
from tfm.export.dispatch import on_torch
from tfm.export.torch_bodies import TORCH
from tfm.refimpl.components import mixers
from tfm.refimpl.engine import numpy_engine
from tfm.refimpl.ops import arrays
from tfm.refimpl.ops.dispatch import OPS, body

# What composites may ask of an array by name; both libraries have it, and mean the same.
SHARED = {"T", "clip", "dtype", "itemsize", "mean", "ndim", "shape", "squeeze", "sum", "swapaxes"}
# Names of settings, mappings and caches that arrays have too.
OTHERS = {"clamp", "cos", "cross", "minimum", "norm", "sin", "size", "stride", "topk", "values"}
ARRAYS = {name for kind in (np.ndarray, torch.Tensor) for name in dir(kind) if not name.startswith("_")}
COMPOSITES = [name for name in sorted(OPS.keys() - TORCH.keys()) if is_composite(name)]
EXPORT = Path(export.__file__).parent


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_composite_touches_only_what_arrays_share(name: str):
    for source in sources(body(OPS[name])):
        nodes = list(ast.walk(source.tree))
        assert not any(isinstance(node, ast.Name) and node.id == "torch" for node in nodes)
        touched = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & ARRAYS
        assert touched <= SHARED | OTHERS


@functools.cache
def run_over_tensors() -> set[str]:
    """What engines, graphs, targets, the ring of processes and the methods of mixers run."""
    roots = Source(ast.parse(inspect.getsource(numpy_engine.ArrayEngine)), vars(numpy_engine)).ops()
    classes = [Source(ast.parse(inspect.getsource(kind)), vars(inspect.getmodule(kind))) for kind in mixers()]
    called = [source for kind in classes for function in kind.functions() for source in sources(function)]
    roots |= {name for source in (*classes, *called) for name in source.ops()}
    for path in (*EXPORT.glob("graph/*.py"), *EXPORT.glob("targets/*.py"), EXPORT / "distributed_ring.py"):
        name = ".".join(path.relative_to(EXPORT).with_suffix("").parts)
        module = importlib.import_module(f"{export.__name__}.{name}")
        roots |= Source(ast.parse(path.read_text()), vars(module)).ops()
    return reached(roots)


def test_what_runs_over_tensors_has_a_body_for_them():
    assert [name for name in sorted(run_over_tensors()) if name not in TORCH and not is_composite(name)] == []


def test_a_body_in_pytorch_is_run_by_more_than_tests():
    """What nothing runs over tensors is specified in NumPy and has laws: nobody needs a second body."""
    assert sorted(TORCH.keys() - run_over_tensors()) == []


def test_an_op_that_computes_is_no_composite():
    assert not is_composite("softmax")
    assert not runs_over_tensors("flash_backward")
    assert runs_over_tensors("moe")


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
    "exp": (X,),
    "softplus": (X - 12,),
    "each_repeated": (X, 2, 1),
    "padded": (X, 1, 2),
    "vector": ((1.5, 2.0), X),
    "concatenate": ([X, X[:, :1]], 1),
    "filled": (3, 4, X),
    "repeated": (X[:, :1], 5, 1),
    "zeros_like": (X,),
    "all_true": (X,),
    "sqrt": (X,),
    "largest": (-X, 1),
    "smallest": (-X, 1),
    "each_row": (X, X[0].T),
    "row_sum": (X,),
    "token_sum": (X[:, :, None],),
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
    spec, got = OPS[name](*CALLS[name]), over_tensors(OPS[name])(*given).numpy()
    assert got.dtype == spec.dtype
    if name in ("exp", "softplus"):  # each library rounds by itself
        np.testing.assert_array_max_ulp(got, spec, 2)
    else:
        np.testing.assert_array_equal(got, spec)
    if name in EXPECTED:
        np.testing.assert_allclose(spec, EXPECTED[name], rtol=1e-15, atol=0)


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
