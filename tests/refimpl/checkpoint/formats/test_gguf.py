"""Our reader of GGUF: gguf's writer and reader are the oracle, hostile files are refused."""

import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest
from helpers.refused import refused
from tfm.refimpl.checkpoint.formats.dtypes import KINDS
from tfm.refimpl.checkpoint.formats.ggml_blocks import BLOCK_TYPES
from tfm.refimpl.checkpoint.formats.gguf import GGUF, TENSORS
from tfm.refimpl.errors import CheckpointError


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    head = text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return head + struct.pack("<IQ", kind, offset)


def file(pairs=(), tensors=(), data=b"", *, magic=b"GGUF", version=3, counts=None, alignment=32) -> bytes:
    """The bytes of a file, whatever it claims."""
    counts = (len(tensors), len(pairs)) if counts is None else counts
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join([*pairs, *tensors])
    return head + b"\0" * (-len(head) % alignment) + data


def align(value: int, kind: int = 4) -> bytes:
    return pair(b"general.alignment", kind, struct.pack("<I", value))


U32 = struct.pack("<I", 7)
ROW = b"\0" * 32  # eight floats
# The names of llama.cpp's tests/test-gguf.cpp where it has the case.
HOSTILE = {
    "empty file": (b"", "magic 4 bytes"),
    "HEADER_BAD_MAGIC": (file(magic=b"FUGG"), "begin GGUF"),
    "HEADER_BAD_VERSION_0": (file(version=0), "version 2 3"),
    "HEADER_BAD_VERSION_1": (file(version=1), "version 2 3"),
    "HEADER_BAD_VERSION_FUTURE": (file(version=4), "version 2 3"),
    "big-endian": (file(version=3 << 24), "little-endian"),
    "HEADER_BAD_N_TENSORS": (file(counts=(2**64 - 1, 0)), "claims"),
    "HEADER_BAD_N_KV": (file(counts=(0, 2**64 - 1)), "claims"),
    "KV_BAD_KEY_SIZE": (file([struct.pack("<Q", 2**64 - 1)]), "key may most 10000000 bytes"),
    "key beyond the end": (file([struct.pack("<Q", 9999)]), "truncated"),
    "KV_EMPTY_KEY": (file([pair(b"", 4, U32)]), "name"),
    "KV_BAD_TYPE": (file([pair(b"k", 13, U32)]), "value types 0 12"),
    "KV_DUPLICATE_KEY": (file([pair(b"k", 4, U32)] * 2), "each key name may occur once"),
    "KV_BAD_ALIGN": (file([align(13)]), "power two"),
    "alignment 0": (file([align(0)]), "power two"),
    "alignment 2^21": (file([align(2**21)]), "power two"),
    "KV_WRONG_TYPE_ALIGN": (file([align(0x3F800000, 6)]), "power two"),
    "key not UTF-8": (file([pair(b"\xff", 4, U32)]), "UTF-8"),
    "a bool of 2": (file([pair(b"k", 7, b"\2")]), "0 1"),
    "the 49-byte bomb": (file([pair(b"k", 9, struct.pack("<IQ", 4, 2**63))])[:49], "may items"),
    "array beyond the end": (file([pair(b"k", 9, struct.pack("<IQ", 4, 10**6))]), "truncated"),
    "strings beyond the end": (file([pair(b"k", 9, struct.pack("<IQ", 8, 10**6))]), "claims 1000000 strings"),
    "nested arrays": (file([pair(b"k", 9, struct.pack("<IQ", 9, 2**62))]), "arrays arrays"),
    "a type without one order": (file((), [tensor(b"a", [128], 36)], ROW), "type 36 I2_S TQ2_0"),
    "Q2_0 in blocks of 128": (
        file((), [tensor(b"a", [128, 32], 42), tensor(b"b", [128, 32], 42, 1088)], b"\0" * 2176),
        "begin byte 1152",
    ),
    "TENSORS_BAD_NAME_SIZE": (file((), [tensor(b"n" * 64, [8])], ROW), "name may most 63 bytes"),
    "TENSORS_BAD_N_DIMS": (file((), [tensor(b"a", [1] * 5)], ROW), "may most 4 dimensions"),
    "10^6 dimensions": (file((), [text(b"a") + struct.pack("<I", 10**6)]), "may most 4 dimensions"),
    "TENSORS_BAD_SHAPE": (file((), [tensor(b"a", [2**64 - 1])], ROW), "more file"),
    "TENSORS_NE_TOO_BIG": (file((), [tensor(b"a", [2**62, 2**62])], ROW), "more file"),
    "product wraps to 4": (file((), [tensor(b"a", [2**33, 2**31 + 1, 2, 2])], ROW), "more file"),
    "0 hides a huge size": (file((), [tensor(b"a", [0, 2**63])], ROW), "more file"),
    "TENSORS_NBYTES_TOO_BIG": (file((), [tensor(b"a", [2**60], 27)], ROW), "more file"),
    "TENSORS_BAD_TYPE": (file((), [tensor(b"a", [8], 4)], ROW), "number 4"),
    "blocks cut": (file((), [tensor(b"a", [8], 2)], ROW), "blocks 32"),
    "TENSORS_BAD_OFFSET": (file((), [tensor(b"a", [8], 0, 1)], ROW), "hole overlap"),
    "overlap": (file((), [tensor(b"a", [8]), tensor(b"b", [8])], ROW * 2), "hole overlap"),
    "hole": (file((), [tensor(b"a", [8]), tensor(b"b", [8], 0, 64)], ROW * 3), "hole overlap"),
    "TENSORS_DUPLICATE_NAME": (file((), [tensor(b"a", [8]), tensor(b"a", [8], 0, 32)], ROW * 2), "twice"),
    "TENSORS_INCONSISTENT_ALIGN": (
        file([align(64)], [tensor(b"a", [8]), tensor(b"b", [8], 0, 32)], ROW * 4, alignment=64),
        "hole overlap",
    ),
    "DATA_NOT_ENOUGH_DATA": (file((), [tensor(b"a", [8])], ROW[1:]), "32 bytes"),
    "no data at all": (file((), [tensor(b"a", [8])])[:60], "32 bytes"),
    "a row of 128 of IQ1_M": (file((), [tensor(b"a", [128], 29)], bytes(56)), "rows IQ1_M blocks 256"),
    "NVFP4 cut": (file((), [tensor(b"a", [64, 2], 40)], bytes(71)), "72 bytes"),
    "MXFP4 claims more rows": (file((), [tensor(b"a", [32, 3], 39)], bytes(34)), "51 bytes"),
    "IQ2_XXS has bytes left": (file((), [tensor(b"a", [256], 16)], bytes(97)), "follow last tensor"),
    "Q8_K, which no file stores": (file((), [tensor(b"a", [256], 15)], bytes(292)), "number 15"),
    "DATA_MEM_SIZE_OVERFLOW": (
        file((), [tensor(n, [0x7FFFFFFFFFFFFFC0], 24, 0) for n in (b"a", b"b")], ROW),
        "more file",
    ),
    "trailing bytes": (file((), [tensor(b"a", [8])], ROW + b"!"), "1 bytes follow"),
}
SOUND = {
    "HEADER_EMPTY": file(),
    "version 2": file([pair(b"k", 4, U32)], version=2),
    "KV_SUCCESS": file([pair(b"k", kind, b"\0" * 8)[: 13 + size] for kind, size in [(10, 8)]]),
    "TENSORS_ZERO_DIM": file((), [tensor(b"a", [0])]),
    "TENSORS_SUCCESS": file((), [tensor(b"a", [8]), tensor(b"b", [8], 0, 32)], ROW * 2),
    "TENSORS_CUSTOM_ALIGN": file(
        [align(1)], [tensor(b"a", [1]), tensor(b"b", [1], 0, 4)], b"12345678", alignment=1
    ),
    "DATA_SUCCESS": file((), [tensor(b"a", [3]), tensor(b"b", [3], 0, 32)], b"\0" * 44),
    "no dimensions": file((), [tensor(b"a", [])], b"\0" * 4),
}


def opened(tmp_path, data: bytes) -> GGUF:
    (tmp_path / "x.gguf").write_bytes(data)
    return GGUF(tmp_path / "x.gguf")


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(tmp_path, case):
    data, words = HOSTILE[case]
    tracemalloc.start()
    start = time.process_time()
    with refused(CheckpointError, *words.split()):
        opened(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < 10
    assert peak < 2**20, f"{len(data)} bytes took {peak} bytes of memory"


def many(kind: int, count: int, item: bytes, arrays: int) -> bytes:
    """A file of arrays with the same items."""
    return file([pair(b"%d" % i, 9, struct.pack("<IQ", kind, count) + item * count) for i in range(arrays)])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (many(0, 2**20, b"a", 4), "'3' 854272 claims 1048576"),
        (many(8, 600_000, text(b""), 2), "'1' 400000 claims 600000"),
        (many(8, 900_000, text(b"ab"), 1), "metadata 48 MB '0'"),
        (file([pair(k, 8, text(b"x" * 9_999_996 + "😀".encode())) for k in (b"a", b"b")]), "59 MB"),
    ],
    ids=["numbers", "strings", "memory of strings", "memory of wide characters"],
)
def test_metadata_are_bounded_in_total(tmp_path, data, words):
    with refused(CheckpointError, *words.split()):
        opened(tmp_path, data)


@pytest.mark.parametrize(("item", "most"), [("ab", 838_857), ("Ġa", 551_879)])
def test_the_bound_is_the_same_in_each_version_of_python(tmp_path, item, most):
    strings = [many(8, count, text(item.encode()), 1) for count in (most, most + 1)]
    opened(tmp_path, strings[0])
    with refused(CheckpointError, "may take"):
        opened(tmp_path, strings[1])


@pytest.mark.parametrize("case", SOUND)
def test_sound(tmp_path, case):
    made = opened(tmp_path, SOUND[case])
    for name in made.names:
        assert made.load(name).shape == made.shape(name)


@pytest.mark.parametrize("alignment", [32, 8, 256])
def test_what_gguf_writes(tmp_path, alignment):
    path, rng = tmp_path / "x.gguf", np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "schön\n")
    writer.add_array("texts", ["a", "", "▁b"])
    writer.add_array("flags", [True, False])
    writer.add_array("floats", [0.5, -1.5])
    plain = {"a": rng.standard_normal((3, 5)).astype("f4"), "b": rng.standard_normal((2, 3, 64)).astype("f2")}
    for name, array in plain.items():
        writer.add_tensor(name, array)
    codes = gguf.quants.quantize(rng.standard_normal((6, 64)).astype("f4"), gguf.GGMLQuantizationType.Q5_1)
    writer.add_tensor("c", codes, raw_dtype=gguf.GGMLQuantizationType.Q5_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    got, oracle = GGUF(path), gguf.GGUFReader(path)
    want = {k: f.contents() for k, f in oracle.fields.items() if not k.startswith("GGUF.")}
    arrays = {k: v.dtype for k, v in got.metadata.items() if isinstance(v, np.ndarray)}
    assert arrays == {"flags": bool, "floats": np.float32}
    found = {k: v.tolist() if k in arrays else v for k, v in got.metadata.items()}
    assert found == want
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in want.items()}
    for name, array in plain.items():
        assert np.array_equal(got.load(name), array.astype("f4")), name
    assert got.shape("c") == (6, 64)
    assert np.array_equal(got.load("c"), gguf.quants.dequantize(codes, gguf.GGMLQuantizationType.Q5_1))
    assert got.kind("c") == "Q5_1"


def test_every_type_that_files_have_is_read(tmp_path):
    """As gguf numbers and names them; each tensor and each of its rows is read from its own place."""
    rng, path = np.random.default_rng(3), tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    raw = {}
    for kind in BLOCK_TYPES.keys() - RECORDED:
        raw[kind] = rng.integers(0, 64, (3, 256 // KINDS[kind].size * KINDS[kind].record.itemsize), np.uint8)
        writer.add_tensor(kind, raw[kind], raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    got = GGUF(path)
    assert got.names == tuple(raw)
    for kind, stored in raw.items():
        want = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind])
        assert (got.kind(kind), got.shape(kind)) == (kind, (3, 256))
        assert np.array_equal(got.load(kind), want), kind
        assert np.array_equal(got.load(kind, 1), want[1]), kind


# Blocks that llama.cpp's library wrote, and their numbers as it reads them, by their scale: 2 is "2".
RECORDED = {
    "Q1_0": (
        "8539c39c802124dbb6564c8c04abc2ccd4a1",
        "++----++--+++--+-------++----+----+--+--++-++-++-++-++-+-++-+-+-"
        "--++--+---++---+--+-----++-+-+-+-+----++--++--++--+-+-+++----+-+",
    ),
    "Q2_0": (
        "9f421556555515565525655655a555559495",
        "000-+00000000000000-+000000000+-00+0+000000000++00000000-00+000+",
    ),
}


def test_types_that_gguf_does_not_decode_are_read_as_llama_cpp_reads_them(tmp_path):
    """The largest code of Q2_0, which llama.cpp's own quantizer never writes, is 2."""
    numbers = {name: number for number, name in TENSORS.items()}
    blocks = {name: bytes.fromhex(block) for name, (block, _) in RECORDED.items()}
    blocks["2"] = blocks["Q2_0"][:2] + b"\xff" * 16
    heads = [
        tensor(name.encode(), [KINDS[kind].size], numbers[kind], 32 * i)
        for i, (name, kind) in enumerate((("Q1_0", "Q1_0"), ("Q2_0", "Q2_0"), ("2", "Q2_0")))
    ]
    data = b"".join(block.ljust(32, b"\0") for block in blocks.values())
    (tmp_path / "x.gguf").write_bytes(file((), heads, data))
    got = GGUF(tmp_path / "x.gguf")
    for name, (block, signs) in RECORDED.items():
        [scale] = np.frombuffer(bytes.fromhex(block)[:2], "<f2").astype(np.float32)
        want = np.array(["-0+".index(sign) - 1 for sign in signs], np.float32)
        np.testing.assert_array_equal(got.load(name), want * scale)
    np.testing.assert_array_equal(got.load("2"), got.load("Q2_0").max() * np.full(64, 2, np.float32))


def test_all_types_of_gguf_are_read_but_those_that_no_file_has():
    known = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert TENSORS.items() - known.items() <= {(42, "Q2_0")}
    assert {known[number] for number in known.keys() - TENSORS.keys()} <= {"Q8_1", "Q8_K"}
