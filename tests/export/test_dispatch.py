"""Ops run their own bodies, PyTorch's, or a table's, by the innermost `use` alone."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.refused import refused
from tfm.export.dispatch import body, exporting, extra_inputs, on_torch
from tfm.export.targets.emits import emits
from tfm.export.torch_bodies import TORCH, torch_body
from tfm.refimpl.ops.dispatch import NOTHING, OPS, in_use, op, use
from tfm.refimpl.ops.embedding import unembedding
from tfm.refimpl.ops.linear import linear
from tfm.runtime.bundle.targets import find

X, W = torch.ones(1, 1, 2), torch.ones(2, 3)


def twice(x: torch.Tensor, weight: torch.Tensor, bias: object = None) -> torch.Tensor:
    return 2 * body(linear)(x, weight)


def test_a_function_is_replaced_inside_only():
    with on_torch():
        assert (linear(X, W) == 2).all()
        with exporting({"linear": twice}):
            assert (linear(X, W) == 4).all()
            assert (unembedding(X, W.T) == 4).all()
            with on_torch():
                assert (linear(X, W) == 2).all()
            assert (linear(X, W) == 4).all()
        assert (linear(X, W) == 2).all()
    assert type(linear(X.numpy(), W.numpy())) is np.ndarray


def test_arrays_can_be_computed_inside():
    """Who is called back by a computation over tensors clears the table."""
    with on_torch(), use({}):
        assert type(linear(X.numpy(), W.numpy())) is np.ndarray


def test_a_replacement_may_take_extra_inputs():
    """Inside another with, and only for functions that are replaced."""

    def times(x: torch.Tensor, weight: torch.Tensor, by: int = 1) -> torch.Tensor:
        return by * twice(x, weight)

    with exporting({"linear": times}):
        with extra_inputs("linear", by=5):
            assert (linear(X, W) == 20).all()
        assert (linear(X, W) == 4).all()
    with refused(KeyError, "'linear'"), extra_inputs("linear", by=5):
        pass


def test_an_error_inside_leaves_nothing_replaced():
    with pytest.raises(ZeroDivisionError), exporting({"linear": twice}):
        raise ZeroDivisionError
    assert in_use() is NOTHING


def test_an_unknown_name_is_an_error():
    """A replacement that nothing calls would be ignored silently."""
    with refused(KeyError, "turn", "replace"), exporting({"turn": twice}):
        pass


def test_another_thread_sees_no_replacement():
    tables = []
    with exporting({"linear": twice}):
        thread = threading.Thread(target=lambda: tables.append(in_use()))
        thread.start()
        thread.join()
    assert tables == [NOTHING]


def test_two_ops_have_two_names():
    def linear() -> None: ...

    with refused(AssertionError, "op", "linear"):
        op(linear)


def test_a_body_has_its_ops_signature():
    def relu(x: Any, again: bool = False) -> Any: ...

    relu.__module__ = "tfm.export.ops.activation"
    with refused(AssertionError, "relu", "takes"):
        torch_body(relu)


def test_an_op_has_one_body_in_pytorch():
    with refused(AssertionError, "relu", "body"):
        torch_body(TORCH["relu"])


@pytest.mark.parametrize("target", ["ort-cpu", "standard"])
def test_targets_replace_ops(target: str):
    assert set(emits(find(target), tiny_models.llama())) <= set(OPS)
