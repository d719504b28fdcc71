"""Small values by hand, where a law doesn't decide between two conventions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tfm.refimpl.config import Attention, ExpertGroups
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.attention import cached_attention, softmax
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.mask import causal_mask
from tfm.refimpl.ops.moe import route
from tfm.refimpl.ops.position import Rotary, rotate
from tfm.refimpl.ops.quant import quantize, quantize_activations
from tfm.refimpl.ops.quantized_cache import HeadQuantized, append_by_head, hadamard, round_by_channel


def test_a_row_that_sees_nothing_gives_zeros():
    assert not softmax(np.ones((1, 1, 3)), np.zeros((1, 1, 3), bool)).any()
    assert softmax(np.ones((1, 2, 0))).shape == (1, 2, 0)


def test_the_causal_mask_by_hand():
    queries, keys = np.array([[2, 3]]), np.arange(5)
    assert causal_mask(queries, keys)[0].astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    windowed = causal_mask(queries, keys, window=2)[0].astype(int)
    assert windowed.tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]
    assert causal_mask(queries, keys, window=1)[0].sum() == 2


def test_rotation_by_hand():
    x = np.array([1.0, 2, 3, 4, 5]).reshape(1, 1, 1, 5)
    cos, sin = np.array([0.0, 1.0]).reshape(1, 1, 2), np.array([1.0, 0.0]).reshape(1, 1, 2)
    assert rotate(x, cos, sin).ravel().tolist() == [-3, 2, 1, 4, 5]
    assert rotate(x, cos, sin, interleaved=True).ravel().tolist() == [-2, 1, 3, 4, 5]


def test_rounding_by_channel_by_hand():
    """Halves go to the even code, the lowest is −128, a scale of 0 gives 0 and a negative one codes of
    the other sign."""
    x = np.array([[0.5, 1.5, 100.0, -100.0], [0.6, -0.6, 7.0, 63.9]]).reshape(1, 1, 2, 4)
    scale = np.array([[1.0, 1.0, 0.5, 0.5], [-0.5, 0.5, 0.0, -0.5]])
    got = round_by_channel(x, scale, bits=8)
    assert got.ravel().tolist() == [0.0, 2.0, 63.5, -64.0, 0.5, -0.5, 0.0, 64.0]
    assert round_by_channel(x, scale, bits=4)[0, 0, 0].tolist() == [0.0, 2.0, 3.5, -4.0]


def test_a_rotation_by_hand():
    """Of six numbers each two neighbours are rotated, of four all, and twice is not at all."""
    x = np.array([4.0, 0.0, 0.0, 2.0, 1.0, -1.0]).reshape(1, 1, 1, 6)
    r = 2**-0.5
    np.testing.assert_allclose(hadamard(x).ravel(), [4 * r, 4 * r, 2 * r, -2 * r, 0, 2 * r])
    assert hadamard(x[..., :4]).ravel().tolist() == [3.0, 1.0, 1.0, 3.0]
    assert hadamard(hadamard(x[..., :4])).ravel().tolist() == [4.0, 0.0, 0.0, 2.0]


def test_a_cache_of_8_bits_by_hand():
    """Keys are rounded after their rotation, and a token sees its own rounded key and value."""
    q, k, v = (np.array(a).reshape(1, 1, 1, 2) for a in ([1.0, 0.0], [0.0, 0.7], [0.6, 300.0]))
    empty, here = np.zeros((1, 1, 1, 2)), np.zeros(1, np.int64)
    cos, sin = np.array([[0.0]]), np.array([[1.0]])
    scales = np.array([[0.5, 1.0]]), np.array([[0.5, 2.0]])
    cache, settings = KVCache(empty, empty, *scales), Attention(1, 1, 2, kv="int8")
    y, (keys, values, *_) = cached_attention(q, k, v, cache, here, Rotary(cos, sin), settings=settings)
    assert keys.ravel().tolist() == [-0.5, 0.0]  # turned to (−0.7, 0): code −1 of 0.5
    assert values.ravel().tolist() == y.ravel().tolist() == [0.5, 254.0]


def test_known_codes():
    """By hand: extreme −4 gives scale 0.5 at 4 bits; halves go to the even code; a zero block."""
    q = quantize(np.array([[-4.0], [3.5], [0.25], [0.75], [0.0], [0.0]]), bits=4, block=4)
    assert q.codes[:, 0].tolist() == [0, 15, 8, 10, 8, 8]
    assert q.scale[:, 0].tolist() == [0.5, 0.0]
    q = quantize(np.array([[-5.0], [10.0], [0.5], [1.5]]), bits=4, block=4, symmetric=False)
    assert (q.scale[0, 0], q.zero.tolist()) == (1.0, [[5]])
    assert q.codes[:, 0].tolist() == [0, 15, 5, 7]
    q = quantize(np.array([[2.0, 3.0]]), bits=8, block=1, symmetric=False)
    assert (q.zero == 0).all()
    assert (q.codes == 255).all()
    tie = quantize(np.array([[3.0], [-3.0]]), bits=8, block=2)
    assert (tie.scale[0, 0], tie.codes[:, 0].tolist()) == (-3 / 128, [0, 255])


def test_zeros_give_zero_codes():
    zeros = np.zeros((2, 5), np.float32)
    for codes, scale in (quantize_activations(zeros, block=2), quant.dynamic_quantize(zeros)[:2]):
        assert not codes.any()
        assert not scale.any()
    assert not quant.quantize_rows(zeros)[0].any()
    weight = quantize(np.ones((5, 3), np.float32), bits=8, block=2)
    assert not quant.linear_blocks(zeros[None], weight).any()


def test_blocks_without_a_finite_factor_have_codes_0():
    """127 / 3.7e-37 overflows and 127 / 3.8e-37 doesn't; what isn't finite stays visible in the product."""
    x = np.array([[3.7e-37, 1e-45, 3.8e-37, 0, 3.4e38, 1], [np.nan, 1, -np.inf, 1, 2, 1]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        codes, scale = quantize_activations(x, block=2)
    assert codes.tolist() == [[0, 0, 127, 0, 127, 0], [0, 0, 0, 0, 127, 64]]
    assert (scale[0] == np.array([3.7e-37, 3.8e-37, 3.4e38], np.float32) / np.float32(127)).all()
    assert np.isnan(scale[1]).tolist() == [True, True, False]
    weight = quantize(np.ones((6, 3), np.float32), bits=8, block=2)
    y = quant.linear_blocks(x[None], weight)[0]
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


@pytest.mark.parametrize("block", [4, 16, 40])
def test_minima_are_added_in_the_order_that_is_stated(block: int):
    """Number by number; the last block is short, and x so that another order gives other bits."""
    rng = np.random.default_rng(block)
    D, F, M = 2 * block + 3, 5, 7
    weight = quantize(rng.standard_normal((D, F)).astype(np.float32), bits=4, block=block)
    minimum = rng.standard_normal(weight.scale.shape).astype(np.float32)
    weight = replace(weight, minimum=minimum)
    x = (rng.standard_normal((M, D)) * 10.0 ** rng.integers(-2, 3, (M, D))).astype(np.float32)
    codes, scale = quantize_activations(x, block=block)
    expected = np.zeros((M, F), np.float32)
    for m, f, c in np.ndindex(M, F, 3):
        part = slice(c * block, min((c + 1) * block, D))
        lanes = [np.float32(0)] * 16
        for i, number in enumerate(x[m, part]):
            lanes[i % 16] += number
        for count in (8, 4, 2, 1):
            for j in range(count):
                lanes[j] += lanes[j + count]
        dot = np.float32(codes[m, part] @ (weight.codes[part, f].astype(np.int32) - 8))
        term = scale[m, c] * weight.scale[c, f] * dot
        expected[m, f] += term + lanes[0] * minimum[c, f]
    assert np.array_equal(quant.linear_blocks(x[None], weight)[0], expected)


def test_a_head_of_zeros_has_scale_0_and_codes_0():
    """Nothing is divided 0 by 0."""
    new = np.array([[[[0.0, 0.0]], [[-2.0, 1.0]]]])
    with np.errstate(all="raise"):
        cache = HeadQuantized(np.ones((1, 1, 2, 2), np.int8), np.ones((1, 1, 2, 1)))
        codes, scale = append_by_head(cache, new, np.array([0]), bits=4)
    np.testing.assert_array_equal(codes[0, 0], [[0, 0], [-7, 4]])
    np.testing.assert_array_equal(scale[0, 0, :, 0], [0, 2 / 7])


def test_of_equal_groups_the_first_is_chosen():
    logits = np.array([[0.0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    groups = ExpertGroups(4, 1, "max")
    index, _ = route(logits, top=1, score="softmax", renormalize=False, groups=groups)
    assert index[:, 0].tolist() == [2, 0, 1, 0]
