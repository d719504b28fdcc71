"""Codes of specification, mirror and graph are equal to the integer, above all at ties between two codes."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.mirror import OverTensors
from helpers.onnx_graph import TRACED, export
from hypothesis import given
from hypothesis import strategies as st
from tfm.export.targets import ort_ops, standard
from tfm.export.targets.packed_weights import Static
from tfm.export.torch_engine import tensors
from tfm.refimpl.ops import quant as spec
from tfm.refimpl.ops.linear import linear
from tfm.runtime.ort.session import options

mirror = OverTensors(spec)
seeds = st.integers(0, 2**32 - 1)
types = st.sampled_from((np.float32, np.float64))


def halves(seed: int, end: float) -> np.ndarray:
    """Multiples of half a step, up to `end` steps, in rows of scales that are no powers of two."""
    rng = np.random.default_rng(seed)
    steps = np.clip(rng.integers(-320, 321, (8, 64)) / 2, -end, end)
    return steps * rng.choice([1.0, 0.37, 3e-4, 1e4, 7 / 3], (8, 1))


def same(got: torch.Tensor, expected: np.ndarray) -> None:
    assert got.numpy().dtype == expected.dtype
    assert (got.numpy() == expected).all()


@given(seeds, types)
def test_activations(seed: int, dtype: type):
    x = halves(seed, 127).astype(dtype)
    for pair in (
        (mirror.quantize_activations(torch.from_numpy(x), block=16), spec.quantize_activations(x, block=16)),
        (mirror.quantize_rows(torch.from_numpy(x)), spec.quantize_rows(x)),
    ):
        for got, expected in zip(*pair, strict=True):
            same(got, expected)


def test_activations_that_are_tiny_huge_or_not_finite():
    x = np.array(
        [[0, 1e-45, 3.7e-37, 3.8e-37, 3.4e38, 1], [np.nan, 1, -np.inf, 1, np.inf, np.nan]], np.float32
    )
    for block in (1, 2, 4):
        got = mirror.quantize_activations(torch.from_numpy(x), block=block)
        codes, scale = spec.quantize_activations(x, block=block)
        same(got[0], codes)
        np.testing.assert_array_equal(got[1].numpy(), scale)
    x = np.concatenate([x, np.full((1, 6), np.inf, np.float32)])
    got, (codes, scale) = mirror.quantize_rows(torch.from_numpy(x)), spec.quantize_rows(x)
    same(got[0], codes)
    np.testing.assert_array_equal(got[1].numpy(), scale)
    assert np.isnan(scale[1:]).all()


@pytest.mark.parametrize("target", [ort_ops, standard])
@pytest.mark.parametrize("width", [1, 33, 64])
def test_a_graph_gives_the_codes_of_rows(target: ModuleType, width: int):
    """Rows of zeros, any number of rows, and widths that no vector register divides."""

    def codes(x: torch.Tensor) -> list[torch.Tensor]:
        scale = ort_ops.row_scale(x)
        row_codes = target.row_codes(x, scale)
        return [row_codes[0] if isinstance(row_codes, tuple) else row_codes, scale]

    given_ = {"x": (np.zeros((TRACED["B"], TRACED["T"], width), np.float32), ("B", "T", "D"))}
    graph = export(codes, given_, 23)

    @given(seeds, st.integers(1, 3))
    def check(seed: int, b: int) -> None:
        x = halves(seed, 127).astype(np.float32)[:, :width]
        x[seed % 8] *= seed % 2
        x = np.broadcast_to(x, (b, *x.shape)).copy()
        got, scale = graph(x)
        expected, step = spec.quantize_rows(x.reshape(-1, width))
        assert (got.reshape(-1, width).astype(int) - 128 == expected).all()
        assert (scale.reshape(-1, 1) == step).all()

    check()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_graph_of_static_scales_gives_the_specifications_bits(bits: int):
    """Of inputs at ties and beyond both ends; with 16 bits outputs are rounded too. All scales are powers of
    two and all sums short, so floats are exact and nothing but the rounding decides."""
    d, f, codes = 5, 7, np.dtype(f"uint{bits}")
    names = ["codes", "scale", "input_scale", "input_zero", "output_scale", "output_zero"]
    names = names if bits == 16 else names[:4]

    def product(x: torch.Tensor, bias: torch.Tensor, *fields: torch.Tensor) -> list[torch.Tensor]:
        return [standard.linear(x, Static(*fields, *[None] * (6 - len(fields))), bias)]

    def drawn(seed: int, b: int, t: int) -> tuple[np.ndarray, np.ndarray, spec.Blocks]:
        rng = np.random.default_rng(seed)
        weight = spec.quantize_columns(rng.integers(-3, 4, (d, f)).astype(np.float32))
        power = lambda low, high, shape=(): np.asarray(np.exp2(rng.integers(low, high, shape)), np.float32)  # noqa: E731
        zero = lambda: np.array(rng.choice([0, 7, 2 ** (bits - 1), 2**bits - 9]), codes)  # noqa: E731
        fields = {"scale": power(-3, 2, (1, f)), "input_scale": power(-2, 3), "input_zero": zero()}
        if bits == 16:
            fields |= {"output_scale": power(-3, 6), "output_zero": zero()}
        x = rng.integers(-60, 61, (b, t, d)) * fields["input_scale"] / 2
        return x.astype(np.float32), rng.integers(-4, 5, f).astype(np.float32), replace(weight, **fields)

    def fields_of(weight: spec.Blocks) -> list[np.ndarray]:
        stored = {"codes": (weight.codes ^ 128).view(np.int8), "scale": weight.scale[0]}
        return [stored.get(name, getattr(weight, name)) for name in names]

    x, bias, weight = drawn(0, TRACED["B"], TRACED["T"])
    arrays = dict(zip(names, fields_of(weight), strict=True))
    inputs = {"x": (x, ("B", "T", "D")), "bias": (bias, ("F",))}
    graph = export(product, inputs | {name: (a, ("fixed",) * a.ndim) for name, a in arrays.items()}, 21)
    # Of codes that are inputs ONNX Runtime's product of bytes saturates where a processor has no VNNI.
    alone = options(1)
    alone.add_session_config_entry("session.disable_quant_qdq", "1")
    graph.session = onnxruntime.InferenceSession(
        graph.model.SerializeToString(), alone, providers=["CPUExecutionProvider"]
    )

    @given(seeds, st.integers(1, 3), st.integers(1, 4))
    def check(seed: int, b: int, t: int) -> None:
        x, bias, weight = drawn(seed, b, t)
        (got,) = graph(x, bias, *fields_of(weight))
        np.testing.assert_array_equal(got, linear(x, weight, bias))

    check()


def test_sums_of_16_bit_codes_are_exact():
    """65535 · 127 + 65534 · 126 + … is an odd number above 2^24, which float32 doesn't have."""
    weight = spec.quantize_columns(np.array([[127.0], [126], [125], [123]]))
    codes = np.array([65535, 65534, 65532, 65530])
    one, zero = np.array(1.0), np.array(0, np.uint16)
    weight = replace(weight, scale=np.ones((1, 1)), input_scale=one, input_zero=zero)
    expected = int(codes @ [127, 126, 125, 123])
    assert expected > 2**24
    assert expected % 2
    x = codes.astype(np.float64)[None, None]
    assert spec.linear_blocks(x, weight).item() == expected
    assert mirror.linear_blocks(torch.from_numpy(x), tensors(weight)).item() == expected
