"""Replaceable functions: replaced inside `exporting`, themselves everywhere else."""

from __future__ import annotations

import threading

import pytest
import torch
from tfm.export import dispatch
from tfm.export.dispatch import body, exporting, extra_inputs
from tfm.export.ops import attention, block, embedding, linear, mlp, model, norm
from tfm.runtime.bundle.targets import find

X, W = torch.ones(1, 1, 2), torch.ones(2, 3)


def twice(x: torch.Tensor, weight: torch.Tensor, bias: object = None) -> torch.Tensor:
    return 2 * body(linear.linear)(x, weight)


def test_a_function_is_replaced_inside_only():
    assert (linear.linear(X, W) == 2).all()
    with exporting({"linear": twice}):
        assert (linear.linear(X, W) == 4).all()
        assert (embedding.unembedding(X, W.T) == 4).all()
        with exporting({}):
            assert (linear.linear(X, W) == 2).all()
        assert (linear.linear(X, W) == 4).all()
    assert (linear.linear(X, W) == 2).all()


def test_a_replacement_may_take_extra_inputs():
    """Inside another with, and only for functions that are replaced."""
    with exporting({"linear": lambda x, weight, by=1: by * twice(x, weight)}):
        with extra_inputs("linear", by=5):
            assert (linear.linear(X, W) == 20).all()
        assert (linear.linear(X, W) == 4).all()
        with pytest.raises(KeyError, match="embedding"), extra_inputs("embedding", by=5):
            pass


def test_an_error_inside_leaves_nothing_replaced():
    with pytest.raises(ZeroDivisionError), exporting({"linear": twice}):
        raise ZeroDivisionError
    assert (linear.linear(X, W) == 2).all()


def test_an_unknown_name_is_an_error():
    """A replacement that nothing calls would be ignored silently."""
    with pytest.raises(KeyError, match=r"\['rotate'\] can't be replaced"), exporting({"rotate": twice}):
        pass


def test_another_thread_sees_no_replacement():
    results = []
    with exporting({"linear": twice}):
        thread = threading.Thread(target=lambda: results.append(linear.linear(X, W).max().item()))
        thread.start()
        thread.join()
    assert results == [2.0]


def test_functions_that_targets_replace_are_replaceable():
    """The functions that the contract of targets names, and all that today's targets replace."""
    assert dispatch._names >= {
        "linear", "embedding", "unembedding", "rms_norm", "layer_norm", "activation",
        "gated_mlp", "plain_mlp", "attention", "cached_attention", "softmax",
    }  # fmt: skip
    for module in (attention, block, embedding, linear, mlp, model, norm):
        for name in dispatch._names & set(module.__all__):
            function = getattr(module, name)
            assert body(function) is not function, f"{name} is replaced by name, but not replaceable"
    assert find("ort-cpu").name == "ort-cpu"
