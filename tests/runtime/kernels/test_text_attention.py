"""The attention kernel over whole texts: what `refimpl` specifies, with the same bits in every batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import onnx_nodes
from helpers.attention_kernel import Call, TextCall, run, run_text
from helpers.kernels import Kernels, bits_of, in_threads
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray as Array
from onnx import helper
from tfm.refimpl.error_budget import TRIES, ULP, error_terms, largest_difference, moved
from tfm.refimpl.ops.attention import attend
from tfm.refimpl.ops.mask import padding_mask
from tfm.runtime.kernels.specification import attention as own_specification


@st.composite
def calls(draw: st.DrawFn, same_heads: bool = False) -> TextCall:
    """Texts of unequal length, some of none; what stands behind their ends is NaN, as what is added to their
    scores is. Some keys are hidden by what is added."""
    batch, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = groups * (1 if same_heads else draw(st.sampled_from([1, 2, 5])))
    tokens, size = draw(st.sampled_from([1, 2, 5, 17, 70, 130, 530])), 8 * draw(st.sampled_from([1, 3, 4, 8]))
    joined = same_heads or draw(st.booleans())
    keys = tokens if joined else draw(st.sampled_from([tokens, 1, 33, 64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    lengths = np.array([draw(st.integers(0, keys)) for _ in range(batch)])
    q, k, v = normal(batch, tokens, heads, size), *normal(2, batch, keys, groups, size)
    for b, length in enumerate(lengths):
        k[b, length:] = v[b, length:] = np.nan
    q *= np.float32(draw(st.sampled_from([1, 8])))
    bias = None
    if not same_heads and draw(st.booleans()):
        bias = normal(draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])), tokens, keys)
        bias = np.where(_far(tokens, keys, draw(st.sampled_from([600, 3]))), np.float32(-1e30), bias)
        bias[..., lengths.max() :] = np.nan
    if not joined and draw(st.booleans()):
        k, v = k.astype(np.float16), v.astype(np.float16)
    options = {"joined": joined, "by_head": not joined and draw(st.booleans())}
    options["causal"] = not same_heads and draw(st.booleans())
    return TextCall(q, k, v, lengths, bias, scale=draw(st.sampled_from([size**-0.5, 0.25])), **options)


def _far(tokens: int, keys: int, reach: int) -> Array:
    """Which keys are too far from a token [T, S]."""
    return np.abs(np.arange(tokens)[:, None] - np.arange(keys)) > reach


def specified(call: TextCall, change: Any = lambda a: a, attend: Any = attend) -> Array:
    q, k, v = (change(np.nan_to_num(a).astype(np.float32)) for a in (call.q, call.k, call.v))
    at, bias = np.arange(k.shape[1]), call.bias
    mask = padding_mask(at, call.lengths).reshape(len(q), 1, -1)
    mask = np.broadcast_to(mask, (len(q), q.shape[1], k.shape[1]))
    if call.causal:
        mask = mask & (at <= np.arange(q.shape[1])[:, None])
    if bias is not None:
        mask = mask & ~(bias == -1e30).any((0, 1))
        bias = np.broadcast_to(np.where(bias == -1e30, 0, bias), (len(q), q.shape[2], *mask.shape[1:]))
        bias = change(np.nan_to_num(bias))
    return attend(q, k, v, mask, bias, scale=call.scale)


@given(call=calls())
def test_attention_is_what_refimpl_specifies(instruction_sets: list[Kernels], call: TextCall):
    exact, rounded = specified(call, lambda a: a.astype(np.float64)), specified(call)
    rng = np.random.default_rng(0)
    wiggled = (specified(call, lambda a: moved(a.astype(np.float64), ULP, rng)) for _ in range(TRIES))
    budget = error_terms(exact, rounded, wiggled).budget
    results = [run_text(kernels, call) for kernels in instruction_sets]
    assert largest_difference(results[0], exact) <= budget
    own = specified(call, attend=own_specification.attend)
    assert all(np.array_equal(bits_of(y + 0), bits_of(own + 0)) for y in results)  # without signs of zeros
    assert not results[0][call.lengths == 0].any()


@given(call=calls())
def test_a_text_has_the_same_bits_in_every_batch_and_order_of_work(
    instruction_sets: list[Kernels], call: TextCall
):
    kernels = instruction_sets[0]
    whole = run_text(kernels, call)
    assert np.array_equal(run_text(kernels, call, in_threads), whole)
    for b, length in enumerate(call.lengths):
        row = {name: getattr(call, name)[b : b + 1] for name in ("q", "k", "v", "lengths")}
        if call.bias is not None:
            row["bias"] = call.bias[b % len(call.bias)][None]
        assert np.array_equal(run_text(kernels, replace(call, **row)), whole[b : b + 1])
        if call.joined and length:  # without its padding
            row |= {name: row[name][:, :length] for name in ("q", "k", "v")}
            if call.bias is not None:
                row["bias"] = row["bias"][..., :length, :length]
            assert np.array_equal(run_text(kernels, replace(call, **row)), whole[b : b + 1, :length])


@given(call=calls(same_heads=True))
def test_the_last_token_has_the_bits_that_it_has_over_a_cache(
    instruction_sets: list[Kernels], call: TextCall
):
    kernels = instruction_sets[0]
    y = run_text(kernels, call)
    for b, length in enumerate(call.lengths):
        if length:
            q, k, v = (a[b : b + 1, :length] for a in (call.q, call.k, call.v))
            cache = np.zeros((1, k.shape[2], length, k.shape[3]), np.float32)
            cached = run(kernels, Call(q, k, v, cache, cache, np.array([0]), scale=call.scale))[0]
            assert np.array_equal(cached[0, -1], y[b, length - 1])


INPUTS = ("q", "lengths", "k", "v", "bias")


def operator(library: Path, call: TextCall, changed: dict[str, Array], **attributes: Any) -> Array:
    """The operator of ONNX Runtime, with some inputs and attributes changed."""
    flat = {name: getattr(call, name).reshape(*getattr(call, name).shape[:2], -1) for name in ("q", "k", "v")}
    arrays = {"q": np.concatenate(list(flat.values()), axis=-1)} if call.joined else flat
    if call.by_head:
        arrays |= {name: getattr(call, name).swapaxes(1, 2) for name in ("k", "v")}
    arrays |= {} if call.bias is None else {"bias": call.bias}
    arrays = arrays | {"lengths": call.lengths.astype(np.int32)} | changed
    names = [name if name in arrays else "" for name in INPUTS]
    attributes = {
        "num_heads": call.q.shape[2],
        "scale": call.scale,
        "unidirectional": int(call.causal),
    } | attributes
    node = helper.make_node("TextAttention", names, ["y"], domain="tfm", **attributes)
    return onnx_nodes.graph([node], arrays, {}, ["y"], library)[0]


def example(joined: bool) -> TextCall:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 65, 3, 24)).astype(np.float32)
    return TextCall(q, k, v, np.array([65, 7]), scale=0.2, joined=joined)


@pytest.mark.parametrize(("joined", "dtype"), [(False, np.float32), (False, np.float16), (True, np.float32)])
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), None])
def test_the_operator_has_the_same_bits(
    kernels_library: Path,
    instruction_sets: list[Kernels],
    joined: bool,
    dtype: type,
    shape: tuple[int, int] | None,
):
    call = example(joined)
    call = replace(call, k=call.k.astype(dtype), v=call.v.astype(dtype))
    if shape is not None:
        bias = np.random.default_rng(1).standard_normal((*shape, 65, 65)).astype(np.float32)
        call = replace(call, bias=bias, causal=shape[0] == 1, by_head=not joined)
    if call.by_head:  # another text
        assert call.bias is not None
        call = replace(call, q=call.q[:, :9], bias=call.bias[:, :, :9])
    y = operator(kernels_library, call, {})
    assert np.array_equal(y.reshape(call.q.shape), run_text(instruction_sets[0], call))


F = np.float32
WRONG: dict[str, tuple[dict[str, Array], dict[str, Any], str]] = {
    "rank": ({"q": np.ones((2, 65), F)}, {}, "q 3 axes"),
    "width": ({"q": np.ones((2, 65, 71), F)}, {}, "q must be"),
    "few keys": ({"k": np.ones((2, 64, 72), F)}, {}, "k v S"),
    "few values": ({"v": np.ones((2, 65, 71), F)}, {}, "k v S"),
    "heads of keys": ({"k": np.ones((2, 2, 65, 24), F)}, {}, "k v num_heads"),
    "a bias of keys": ({"bias": np.ones((1, 1, 65, 64), F)}, {}, "bias T S"),
    "a bias of heads": ({"bias": np.ones((1, 2, 65, 65), F)}, {}, "bias num_heads"),
    "lengths": ({"lengths": np.ones(3, np.int32)}, {}, "lengths [B]"),
    "a long text": ({"lengths": np.array([1, 66], np.int32)}, {}, "lengths 0 S"),
    "a negative length": ({"lengths": np.array([1, -1], np.int32)}, {}, "lengths 0 S"),
    "odd heads": ({}, {"num_heads": 6}, "D 8"),
    "no heads": ({}, {"num_heads": 0}, "num_heads 1 2^20"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_operator_refuses_other_shapes(kernels_library: Path, name: str):
    changed, attributes, message = WRONG[name]
    with refused(Exception, *message.split()):
        operator(kernels_library, example(joined=False), changed, **attributes)
