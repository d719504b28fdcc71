"""The types of number in files, bit for bit against gguf's own dequantizer and torch's BF16."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize as gguf_dequantize
from helpers.refused import refused
from tfm.refimpl.checkpoint.formats import dtypes
from tfm.refimpl.checkpoint.formats.dtypes import CHUNK, KINDS, native, widen
from tfm.refimpl.checkpoint.formats.file_bytes import FileBytes, read_file
from tfm.refimpl.checkpoint.formats.ggml_blocks import BLOCK_TYPES
from tfm.refimpl.checkpoint.weights.loader import check_finite
from tfm.refimpl.errors import CheckpointError, NumericError
from tfm.refimpl.ops.quant import dequantize

# Floats of 8 bits are safetensors' alone: `test_quantized`.
READ = sorted(n for n, kind in KINDS.items() if kind.decode is not None and not n.startswith("F8"))
# What gguf doesn't decode: numbers of a block, bits of each, low bits first, and what these say, times the
# scale (dequantize_row_q1_0 and dequantize_row_q2_0 of llama.cpp's ggml-quants.c).
BY_BITS = {"Q1_0": (128, 1, (-1, 1)), "Q2_0": (64, 2, (-1, 0, 1, 2))}
QUANTIZED_BY_GGUF = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")


def records(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """Random bytes: any codes; scales that are one float are finite, of both signs, zeros among them."""
    rng = np.random.default_rng(seed)
    record = KINDS[kind].record
    made = rng.integers(0, 256, count * record.itemsize, dtype=np.uint8).view(record)
    for field in {"d", "m", "x"} & set(record.names):
        values = rng.standard_normal(made[field].shape) * 10.0 ** rng.integers(-6, 4, made[field].shape)
        values[rng.random(values.shape) < 0.05] = 0
        if kind == "BF16":
            made[field] = values.astype("<f4").view("<u4") >> 16
        else:
            made[field] = values
    return made.view(np.uint8)


def theirs(raw: np.ndarray, kind: str) -> np.ndarray:
    """gguf's numbers of records [n, bytes]; infinite scales make it warn."""
    if kind == "F64":  # gguf knows its name alone
        return raw.view("<f8").astype(np.float32)
    if kind in BY_BITS:
        size, each, value = BY_BITS[kind]
        scale = raw[:, :2].copy().view("<f2").astype(np.float32)
        bits = np.unpackbits(raw[:, 2:], axis=1, bitorder="little").reshape(len(raw), size, each)
        with np.errstate(all="ignore"):
            return np.array(value, np.float32)[bits @ (1 << np.arange(each))] * scale
    with np.errstate(all="ignore"):
        return gguf_dequantize(raw, gguf.GGMLQuantizationType[kind])


def assert_same_numbers(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """Bit for bit; of NaN only the place."""
    assert got.dtype == np.float32
    assert np.array_equal(np.isnan(got), np.isnan(want)), what
    sound = ~np.isnan(want)
    assert np.array_equal(got[sound].view(np.uint32), want[sound].view(np.uint32)), what


@pytest.mark.parametrize("kind", READ)
def test_widen_equals_gguf(kind):
    size = KINDS[kind].size
    for count in (2, 3, CHUNK // size + 5):
        raw = records(kind, count, seed=count)
        shape = (count, size)
        want = theirs(raw.reshape(count, -1), kind).reshape(shape)
        got = widen(raw, kind, shape)
        assert_same_numbers(got, want, f"{kind} differs from gguf")
        assert len(np.unique(got)) > 1, "well-formed data hold different numbers"


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_any_bytes_widen_as_in_gguf(kind):
    """Scales that are infinite, NaN, tiny or the largest, and every code that a byte has."""
    count, width = 400, KINDS[kind].record.itemsize
    raw = np.random.default_rng(1).integers(0, 256, count * width, dtype=np.uint8)
    raw[: 256 * width] = np.repeat(np.arange(256, dtype=np.uint8), width)
    want = theirs(raw.reshape(count, -1), kind)
    assert_same_numbers(widen(raw, kind, want.shape), want, kind)


@pytest.mark.parametrize("kind", QUANTIZED_BY_GGUF)
def test_what_gguf_quantizes(kind):
    weight = np.random.default_rng(2).standard_normal((3, 512)).astype(np.float32)
    stored = gguf.quantize(weight, gguf.GGMLQuantizationType[kind])
    got = widen(stored.reshape(-1), kind, weight.shape)
    assert_same_numbers(got, theirs(stored, kind), kind)
    assert np.corrcoef(got.ravel(), weight.ravel())[0, 1] > 0.7


@pytest.mark.parametrize("kind", ["IQ1_S", "IQ2_XS", "IQ4_XS", "TQ1_0"])
def test_a_scale_that_is_nan_is_refused(kind):
    raw = records(kind, 2).view(KINDS[kind].record)
    raw["d"][1] = np.nan
    with refused(NumericError, "x[1", 0, "finite", "checkpoint"):
        check_finite("x", widen(raw.view(np.uint8), kind, (2, 256)))


def test_sizes_equal_those_of_gguf():
    for name in set(READ) - BY_BITS.keys():
        size, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        assert (KINDS[name].size, KINDS[name].record.itemsize) == (size, width), name


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_every_half_equals_torch(kind):
    every = np.arange(2**16, dtype="<u2")
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
    want = torch.from_numpy(every.view(np.int16)).view(dtype).float().numpy()
    got = widen(every.view(np.uint8), kind, (2**16,))
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.array_equal(got[~np.isnan(got)].view(np.uint32), want[~np.isnan(want)].view(np.uint32))


# Bits and length of the blocks that a product reads, and whether they have a minimum.
PRODUCTS = {
    "Q1_0": (4, 64, False), "Q2_0": (4, 64, False),
    "Q4_0": (4, 32, False), "Q4_1": (4, 32, True), "Q5_0": (8, 32, False), "Q5_1": (8, 32, True),
    "Q8_0": (8, 32, False), "Q2_K": (4, 16, True), "Q3_K": (4, 16, False), "Q4_K": (4, 32, True),
    "Q5_K": (8, 32, True), "Q6_K": (8, 16, False), "IQ1_S": (8, 32, False), "IQ1_M": (8, 16, False),
    "IQ2_XXS": (8, 32, False), "IQ2_XS": (8, 16, False), "IQ2_S": (8, 16, False), "IQ3_XXS": (8, 32, False),
    "IQ3_S": (8, 32, False), "IQ4_NL": (8, 32, False), "IQ4_XS": (8, 32, False), "TQ1_0": (4, 64, False),
    "TQ2_0": (4, 64, False), "MXFP4": (8, 32, False), "NVFP4": (8, 16, False),
}  # fmt: skip


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of infinite scales, where these are bytes
def test_native_blocks_are_the_same_numbers(kind, monkeypatch):
    monkeypatch.setattr(dtypes, "CHUNK", 2048)  # several pieces, the last one short
    shape = (5, 768)
    raw = records(kind, 5 * 768 // KINDS[kind].size)
    blocks = native(raw, kind, shape)
    assert blocks is not None
    assert (blocks.bits, blocks.block, blocks.minimum is not None) == PRODUCTS[kind]
    assert (blocks.codes.dtype, blocks.codes.max() < 2**blocks.bits) == (np.uint8, True)
    assert blocks.scale.shape == (5, 768 // blocks.block)
    assert_same_numbers(dequantize(blocks), widen(raw, kind, shape), kind)


@pytest.mark.parametrize(("kind", "shape"), [("F32", (2, 1)), ("Q4_K", (512,)), ("IQ1_S", (2, 1, 256))])
def test_floats_and_other_shapes_have_no_native_blocks(kind, shape):
    assert native(records(kind, 2), kind, shape) is None


def test_float32_is_a_view_unless_it_stands_askew():
    raw = np.arange(17, dtype=np.uint8)
    assert np.shares_memory(widen(raw[:16], "F32", (4,)), raw)
    askew = widen(raw[1:17], "F32", (4,))
    assert askew.flags.aligned
    assert askew.tobytes() == raw[1:17].tobytes()


def test_integers_are_no_weights():
    with refused(CheckpointError, "float", "I64"):
        widen(np.zeros(8, np.uint8), "I64", (1,))


def test_files_must_be_regular_and_small(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "big").write_bytes(b"12345")
    for name, message in {
        "pipe": "regular",
        "absent": "can't be opened",
        "": "regular",
        "a\0b": "null",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            FileBytes(tmp_path / name)
    assert len(FileBytes(tmp_path / "empty")) == 0
    assert read_file(tmp_path / "big", 5) == b"12345"
    with refused(CheckpointError, 4, "bytes", 5):
        read_file(tmp_path / "big", 4)
