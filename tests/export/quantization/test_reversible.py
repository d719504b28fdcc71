"""Which types' codes come back from a bundle byte for byte, and how many bits they take there and in kernels.

Codes go through what a bundle stores, and are put into the file's fields again, by functions that the readers
don't have. Scales come back as the numbers that the file's are, since several codes and factors have one
product. The table of docs/QUANTIZATION.md is these functions' figures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers.quantized_writer import Format, awq, gptq, pack, write
from safetensors.numpy import load_file
from tfm.refimpl.checkpoint.formats import ggml_grids as grids
from tfm.refimpl.checkpoint.formats.dtypes import KINDS, native, widen
from tfm.refimpl.checkpoint.formats.ggml_blocks import BLOCK_TYPES
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.ops.quant import Blocks, dequantize, transpose
from tfm.runtime.bundle import kernel_storage, rounding, weight_storage
from tfm.runtime.bundle.weight_formats import WeightFormat
from tfm.runtime.bundle.weight_storage import Group

ROWS, WIDTH = 32, 512
Array = np.ndarray
Fields = dict[str, Array]
IQ4 = [
    -127,
    -104,
    -83,
    -65,
    -49,
    -35,
    -22,
    -10,
    1,
    13,
    25,
    38,
    53,
    69,
    89,
    113,
]  # ggml-common.h: kvalues_iq4nl
FP4 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]  # kvalues_mxfp4


def packed(codes: Array, width: int, bits: int) -> Array:
    """Codes [n, size] as bytes: `width` of them in the lowest bits, the next `width` above, and so on."""
    parts = codes.astype(np.uint8).reshape(len(codes), -1, 8 // bits, width)
    return np.bitwise_or.reduce(parts << np.arange(0, 8, bits, dtype=np.uint8)[:, None], axis=2).reshape(
        len(codes), -1
    )


def places(values: Array, table: list[int]) -> Array:
    """Where values are in a list, the first of two places."""
    return (values[..., None] == np.array(table)).argmax(-1)


def trits(values: Array) -> Array:
    """Digits [n, k, d] of base 3 as bytes, each a fraction of 3^5 parts, rounded up."""
    powers = 3 ** np.arange(4, -1, -1)[: values.shape[-1]]
    return ((values * powers).sum(-1) * 256 + 242) // 243


def vectors(values: Array, grid: grids.Grid) -> Array:
    """Which vector of a grid each few neighbours are, [n, size / width]."""
    wanted = values.reshape(-1, grid.width)
    order = {tuple(point): i for i, point in enumerate(grid.points.tolist())}
    return np.array([order[tuple(one)] for one in wanted.tolist()]).reshape(len(values), -1)


def seven_signs(values: Array) -> Array:
    """Of each eight neighbours seven signs, low bits first."""
    return np.packbits(values < 0, axis=1, bitorder="little").astype(np.uint32) & 127


def ternary(values: Array) -> Fields:
    digits = values + 1

    def turned(part: Array, width: int, count: int) -> Array:
        return trits(part.reshape(len(part), count, width).transpose(0, 2, 1))

    whole, rest = turned(digits[:, :160], 32, 5), turned(digits[:, 160:240], 16, 5)
    return {"q": np.concatenate([whole, rest], axis=1), "high": turned(digits[:, 240:], 4, 4)}


def of_grid_2xxs(values: Array) -> Fields:
    words = (seven_signs(values).reshape(-1, 8, 4) << np.arange(0, 28, 7, dtype=np.uint32)).sum(-1)
    return {"q.index": vectors(np.abs(values), grids.IQ2_XXS).reshape(-1, 8, 4), "q.word": words}


def of_grid_2s(values: Array) -> Fields:
    index = vectors(np.abs(values), grids.IQ2_S)
    signs = np.packbits(values < 0, axis=1, bitorder="little")
    return {"q": index & 255, "signs": signs, "high": packed(index >> 8, 1, 2)}


def of_grid_3xxs(values: Array) -> Fields:
    words = (seven_signs(values).reshape(-1, 8, 4) << np.arange(0, 28, 7, dtype=np.uint32)).sum(-1)
    return {"q": vectors(np.abs(values), grids.IQ3_XXS), "words": words}


def of_grid_3s(values: Array) -> Fields:
    index = vectors(np.abs(values), grids.IQ3_S)
    signs = np.packbits(values < 0, axis=1, bitorder="little")
    return {"q": index & 255, "high": packed(index >> 8, 1, 1), "signs": signs}


def of_eighths(values: Array) -> tuple[Array, Array]:
    """Vectors of IQ1, and which were moved down."""
    down = (values % 8 == 7)[:, ::8]
    return vectors((values - np.where(np.repeat(down, 8, axis=1), -1, 1)) // 8, grids.IQ1), down


def iq1_s(values: Array) -> Fields:
    index, down = of_eighths(values)
    words = ((index >> 8).reshape(-1, 8, 4) << np.arange(0, 12, 3)).sum(-1) | down[:, ::4].astype(int) << 15
    return {"q": index & 255, "high": words}


def iq1_m(values: Array) -> Fields:
    index, down = of_eighths(values)
    return {"q": index & 255, "high": packed(index >> 8 | down.astype(int) << 3, 1, 4)}


# A type's codes, signed or counted from the lowest -> its fields.
BACK: dict[str, Callable[[Array], Fields]] = {
    "Q1_0": lambda v: {"q": packed((v + 1) // 2, 1, 1)},
    "Q2_0": lambda v: {"q": packed(v + 1, 1, 2)},
    "Q4_0": lambda v: {"q": packed(v + 8, 16, 4)},
    "Q4_1": lambda v: {"q": packed(v, 16, 4)},
    "Q5_0": lambda v: {"q": packed(v + 16 & 15, 16, 4), "high": packed(v + 16 >> 4, 1, 1)},
    "Q5_1": lambda v: {"q": packed(v & 15, 16, 4), "high": packed(v >> 4, 1, 1)},
    "Q8_0": lambda v: {"q": v},
    "Q2_K": lambda v: {"q": packed(v, 32, 2)},
    "Q3_K": lambda v: {"q": packed(v + 4 & 3, 32, 2), "high": packed(v + 4 >> 2, 32, 1)},
    "Q4_K": lambda v: {"q": packed(v, 32, 4)},
    "Q5_K": lambda v: {"q": packed(v & 15, 32, 4), "high": packed(v >> 4, 32, 1)},
    "Q6_K": lambda v: {"q": packed(v + 32 & 15, 64, 4), "high": packed(v + 32 >> 4, 32, 2)},
    "TQ1_0": ternary,
    "TQ2_0": lambda v: {"q": packed(v + 1, 32, 2)},
    "IQ4_NL": lambda v: {"q": packed(places(v, IQ4), 16, 4)},
    "IQ4_XS": lambda v: {"q": packed(places(v, IQ4), 16, 4)},
    "MXFP4": lambda v: {"q": packed(places(v, FP4), 16, 4)},
    "NVFP4": lambda v: {"q": packed(places(v, FP4), 8, 4)},
    "IQ2_XXS": of_grid_2xxs,
    "IQ2_XS": lambda v: {"q": vectors(np.abs(v), grids.IQ2_XS) | seven_signs(v) << 9},
    "IQ2_S": of_grid_2s,
    "IQ3_XXS": of_grid_3xxs,
    "IQ3_S": of_grid_3s,
    "IQ1_S": iq1_s,
    "IQ1_M": iq1_m,
}
# Bits of these fields that are codes; the others are scales.
CODES = {("IQ2_XXS", "q.word"): 2**28 - 1, ("IQ3_XXS", "words"): 2**28 - 1, ("IQ1_S", "high"): 0x8FFF}
BUT_ZEROS = frozenset({"MXFP4", "NVFP4"})  # whose -0 is 0


def random_records(kind: str) -> Array:
    """Any codes under scales that are numbers."""
    rng, record = np.random.default_rng(len(kind)), KINDS[kind].record
    count = ROWS * WIDTH // KINDS[kind].size
    if kind.startswith("TQ"):  # not all bytes are digits
        digits = rng.integers(-1, 2, (ROWS, WIDTH)).astype(np.float32)
        return gguf.quants.quantize(digits, gguf.GGMLQuantizationType[kind]).reshape(-1).view(record)
    records = rng.integers(0, 256, count * record.itemsize, np.uint8).view(record)
    if kind == "Q2_0":  # llama.cpp never writes its largest code
        records["q"] = packed(rng.integers(0, 3, (count, 64)), 1, 2)
    for name in {"d", "m"} & set(record.names or ()):
        records[name] = rng.uniform(0.5, 1, count)
    if kind == "IQ1_M":  # float16 0.5 to 1, in four parts
        half = records["words"] & 0xFFF
        records["words"] = half | np.array([0x0, 0x0, 0x8000, 0x3000], np.uint16)
    if kind == "MXFP4":
        records["e"] = rng.integers(118, 128, count)
    if kind == "NVFP4":
        records["e"] = rng.integers(1, 127, records["e"].shape)
    if kind in ("Q4_K", "Q5_K"):  # as llama.cpp writes them: one of eight is the largest
        records["s"][:, [0, 4]] |= 63
    if kind == "Q6_K":
        records["s"][:, 0] = -128
    if kind == "Q2_K":
        records["s"][:, 0] = 255
    return records


def put_away(blocks: Blocks) -> tuple[Blocks, float, float]:
    """What a bundle gives back of blocks [F, D], and bits a weight there and in kernels."""
    weight_format = WeightFormat(
        blocks.bits, blocks.block, "block", blocks.zero is None, blocks.minimum is not None, native=True
    )
    F, D = blocks.shape
    group = Group("x", ("x",), ((D, F),), "nbits", weight_format)
    tensors = weight_storage.store(group, {"x": transpose(blocks)})
    back = weight_storage.restore(group, tensors)["x"]
    assert isinstance(back, Blocks)
    forms = {"x": kernel_storage.form(group, tensors)}
    in_kernels = kernel_storage.store(group, tensors, forms)
    table = in_kernels.pop("x.table", np.zeros(0, np.uint8))
    assert table.size in (0, 16)

    def bits(arrays: Fields) -> float:
        return sum(array.nbytes for array in arrays.values()) * 8 / (F * D)

    return transpose(back), bits(tensors), bits(in_kernels)


def through_a_bundle(kind: str) -> tuple[Array, Array, float, float]:
    """Records of a type, its codes as a bundle has them, and bits of a weight there and in kernels."""
    records = random_records(kind)
    raw = records.view(np.uint8)
    blocks = native(raw, kind, (ROWS, WIDTH))
    assert blocks is not None
    back, bits, in_kernels = put_away(rounding.centered(blocks))
    lowest = 2 ** (back.bits - 1) - (0 if back.minimum is None else 2 ** (BLOCK_TYPES[kind].bits - 1))
    np.testing.assert_array_equal(back.scale, blocks.scale)
    if back.minimum is None:
        np.testing.assert_array_equal(dequantize(back), widen(raw, kind, (ROWS, WIDTH)))
    return records, (back.codes.astype(np.int16) - lowest).reshape(len(records), -1), bits, in_kernels


def field(records: Array, name: str) -> Array:
    for part in name.split("."):
        records = records[part]
    return records


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_the_codes_of_a_file_come_back(kind: str):
    records, codes, _, _ = through_a_bundle(kind)
    for name, found in BACK[kind](codes).items():
        wanted = field(records, name) & np.uint64(CODES.get((kind, name), 2**64 - 1)).astype(
            field(records, name).dtype
        )
        if kind in BUT_ZEROS:
            for zero, shift in ((0x08, 0x0F), (0x80, 0xF0)):
                wanted = np.where((wanted & shift) == zero, wanted & ~np.uint8(shift), wanted)
        np.testing.assert_array_equal(found, wanted, err_msg=name)


ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # AWQ's, of eight outputs


def auto_round(bits: int) -> Format:
    form = gptq(bits, 32)
    config = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "sym": False}
    return Format(config | {"bits": bits, "group_size": 32}, form.store)


INTEGERS = {f"GPTQ, {bits} bits": (bits, gptq(bits, 32)) for bits in (2, 3, 4, 8)}
INTEGERS |= {
    f"GPTQ, {b} bits, all zero points equal (`sym`)": (b, gptq(b, 32, symmetric=True)) for b in (2, 3, 4, 8)
}
INTEGERS |= {f"AutoRound, {bits} bits": (bits, auto_round(bits)) for bits in (2, 3, 4, 8)}
INTEGERS["AWQ, 4 bits"] = (4, awq(32))


def integers_through_a_bundle(name: str, folder: Path) -> tuple[dict[str, Array], Array, float, float]:
    """What a file has of a matrix [F, D], its codes as a bundle has them, and bits there and in kernels."""
    bits, form = INTEGERS[name]
    path = write(folder, form) / "stored"
    blocks = open_checkpoint(path).native("decoder.layers.0.attn.wq")
    assert blocks is not None
    back, in_bundle, in_kernels = put_away(transpose(blocks))
    tensors = load_file(path / "model.safetensors")
    moved = 0 if back.zero is not None else 2 ** (back.bits - 1) - 2 ** (bits - 1)
    return tensors, back.codes - np.uint8(moved), in_bundle, in_kernels


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_other_files_come_back(name: str, tmp_path: Path):
    bits, _ = INTEGERS[name]
    tensors, codes, _, _ = integers_through_a_bundle(name, tmp_path)
    wanted = tensors["model.layers.0.self_attn.q_proj.qweight"]
    if name.startswith("AWQ"):
        found = pack(codes.T.reshape(len(codes.T), -1, 8)[..., ORDER].reshape(codes.T.shape), bits)
    else:
        found = pack(codes, bits).T
    np.testing.assert_array_equal(found, wanted)


def line(kind: str, tmp_path: Path) -> str:
    """A row of the table."""
    if kind in BLOCK_TYPES:
        of_file, (*_, bits, in_kernels) = BLOCK_TYPES[kind].bits_per_weight, through_a_bundle(kind)
    else:
        (width, _), folder = INTEGERS[kind], tmp_path / kind
        folder.mkdir()
        *_, bits, in_kernels = integers_through_a_bundle(kind, folder)
        of_file = width + (16 + width) / 32
    back = "all but −0, which becomes 0" if kind in BUT_ZEROS else "yes"
    return f"| {kind} | {of_file:.4g} | {bits:.4g} | {in_kernels:.4g} | {back} |"


def test_the_page_has_these_bits(tmp_path: Path):
    page = (Path(__file__).parents[3] / "docs/QUANTIZATION.md").read_text(encoding="utf-8").splitlines()
    lines = [line(kind, tmp_path) for kind in (*BLOCK_TYPES, *INTEGERS)]
    assert [one for one in lines if one not in page] == []
