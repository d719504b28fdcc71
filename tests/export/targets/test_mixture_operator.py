"""ONNX Runtime's QMoE against the specification's mixture: it is right, and graphs don't use it.

On the CPU it takes gated experts with the rows of gate and up in turns alone: weights would need a layout of
their own, which kernels couldn't read. Beside products of each expert as graphs have them (MatMulNBits, 16
experts of 512 over a width of 1,024, 4 of them for a token, two threads of a Xeon with AMX, medians) it took
0.45 of 0.55 ms for a token and 15.1 of 16.4 for 128 in 4 bits, 0.41 of 0.68 and 15.8 of 15.2 in 8. Kernels of
our own, which compute these products where they run, were not measured beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import onnx_nodes
from helpers.tolerances import equal
from onnx import helper
from tfm.refimpl.ops.moe import mixture

BLOCK = 16
INPUTS = ("x", "choice", "c1", "s1", "", "c2", "s2", "", "", "", "", "z1", "z2", "", "shares")


def blocks(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Random codes of 4 bits by expert, row and column, two in a byte, scales, zeros, and numbers."""
    codes, scales = rng.integers(0, 16, shape), rng.random((*shape[:2], shape[2] // BLOCK)) / 20
    zeros = rng.integers(0, 16, scales.shape)
    wide = [np.repeat(a, BLOCK, axis=2) for a in (zeros, scales)]
    packed = [(a[..., ::2] + 16 * a[..., 1::2]).astype(np.uint8) for a in (codes, zeros)]
    scales = scales.astype(np.float32)
    return packed[0], scales, packed[1], (codes - wide[0]) * np.repeat(scales.astype(float), BLOCK, axis=2)


@pytest.mark.parametrize(
    ("experts", "top", "tokens", "width", "inner"), [(4, 2, 5, 32, 64), (3, 1, 1, 64, 32), (6, 4, 9, 32, 32)]
)
def test_qmoe_of_onnx_runtime_is_the_mixture(experts: int, top: int, tokens: int, width: int, inner: int):
    """With shares of the chosen experts as they are given."""
    rng = np.random.default_rng(tokens)
    c1, s1, z1, up = blocks(rng, experts, 2 * inner, width)
    c2, s2, z2, down = blocks(rng, experts, width, inner)
    attributes: dict[str, Any] = {"activation_type": "swiglu", "swiglu_fusion": 1, "expert_weight_bits": 4}
    attributes |= {"k": top, "block_size": BLOCK, "activation_alpha": 1.0, "activation_beta": 0.0}
    node = helper.make_node("QMoE", INPUTS, ["y"], domain="com.microsoft", **attributes)
    stored = {"c1": c1, "s1": s1, "z1": z1, "c2": c2, "s2": s2, "z2": z2}
    x = rng.standard_normal((tokens, width)).astype(np.float32)
    choice, shares = rng.random((2, tokens, experts)).astype(np.float32)
    (got,) = onnx_nodes.graph([node], {"x": x, "choice": choice, "shares": shares}, stored, ["y"])
    index = np.argsort(-choice, axis=1)[:, :top]
    each: Any = [{"gate": up[e, ::2].T, "up": up[e, 1::2].T, "down": down[e].T} for e in range(experts)]
    expected = mixture(x.astype(float), index, np.take_along_axis(shares, index, 1), each, kind="silu")
    equal(got, expected, 2e-6)
