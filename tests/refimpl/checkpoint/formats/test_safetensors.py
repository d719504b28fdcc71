"""Our reader and writer of safetensors: the library is the oracle, hostile files are refused."""

import json

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.formats.safetensors import HEADER_LIMIT, SafeTensors, save
from tfm.refimpl.errors import CheckpointError


def file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a file, whatever the header claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: object = None, dtype: object = "F32") -> dict:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


A, B = entry(0, 8), entry(8, 16)
HOSTILE = {
    "empty file": (b"", "least 8 bytes"),
    "no header": (b"1234567", "least 8 bytes"),
    "header beyond the file": (file({}, length=1000), "header claims 1000 bytes"),
    "huge header": (file({}, length=2**63), "header claims"),
    "not an object": (file([]), "start"),
    "a space first": (file(b" {}"), "start"),
    "broken JSON": (file(b'{"a"'), "JSON"),
    "deep nesting": (file(b'{"a":' + b"[" * 50_000), "nested"),
    "duplicate key": (file(b'{"a":1,"a":2}'), "'a' occurs twice"),
    "no entry": (file({"a": 1}), "dtype shape data_offsets"),
    "one field too many": (file({"a": {**A, "x": 1}}, b"0" * 8), "dtype shape data_offsets"),
    "unknown dtype": (file({"a": entry(0, 8, dtype="F4")}, b"0" * 8), "dtype"),
    "a list as dtype": (file({"a": entry(0, 8, dtype=[])}, b"0" * 8), "dtype"),
    "negative size": (file({"a": entry(0, 8, shape=[-2])}, b"0" * 8), "shape"),
    "true as a size": (file({"a": entry(0, 4, shape=[True])}, b"0" * 4), "shape"),
    "shape overflow": (file({"a": entry(0, 8, shape=[2**32, 2**32, 2**32])}, b"0" * 8), "bytes"),
    "size beyond 2^48": (file({"a": entry(0, 8, shape=[2**62])}, b"0" * 8), "shape"),
    "too many sizes": (file({"a": entry(0, 4, shape=[1] * 9)}, b"0" * 4), "shape"),
    "shape lies": (file({"a": entry(0, 8, shape=[3])}, b"0" * 8), "12 bytes"),
    "negative offset": (file({"a": entry(-8, 0)}, b"0" * 8), "data_offsets"),
    "three offsets": (file({"a": {**A, "data_offsets": [0, 4, 8]}}, b"0" * 8), "data_offsets"),
    "reversed offsets": (file({"a": {**A, "data_offsets": [8, 0]}}, b"0" * 8), "within 8 bytes"),
    "truncated data": (file({"a": A}, b"0" * 7), "within 7 bytes"),
    "overlap": (file({"a": A, "b": entry(4, 12)}, b"0" * 12), "hole overlap"),
    "hole": (file({"a": A, "b": entry(12, 16)}, b"0" * 16), "begin byte 8 begins 12"),
    "hole at the start": (file({"b": B}, b"0" * 16), "begin byte 0"),
    "trailing bytes": (file({"a": A}, b"0" * 9), "8 bytes file 9"),
    "metadata of numbers": (file({"__metadata__": {"a": 1}}), "map strings strings"),
    "metadata a list": (file({"__metadata__": []}), "map strings strings"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(tmp_path, case):
    data, words = HOSTILE[case]
    (tmp_path / "x.safetensors").write_bytes(data)
    with refused(CheckpointError, *words.split()):
        SafeTensors(tmp_path / "x.safetensors")


def test_header_limit(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(file({}, length=HEADER_LIMIT + 1))
    with open(path, "r+b") as handle:
        handle.truncate(HEADER_LIMIT + 100)  # sparse: the bytes are there, and cost nothing
    with refused(CheckpointError, "header", "claims"):
        SafeTensors(path)


@given(
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda name: name != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["<f4", "<f2"])),
        max_size=4,
    )
)
def test_written_files_are_read_by_the_library_and_by_us(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape).astype(dtype) for name, (shape, dtype) in arrays.items()}
    save(path, tensors)
    first = path.read_bytes()
    theirs, ours = safetensors.numpy.load_file(path), SafeTensors(path)
    assert set(theirs) == set(tensors) == set(ours.names)
    for name, tensor in tensors.items():
        assert np.array_equal(theirs[name], tensor)
        assert np.array_equal(ours.load(name), tensor.astype(np.float32))
        assert ours.shape(name) == tensor.shape
    save(path, dict(reversed(tensors.items())))
    assert path.read_bytes() == first, "the order of the dict may not show"


def test_what_the_library_writes(tmp_path):
    path = tmp_path / "x.safetensors"
    made = {"half": torch.randn(3, 5).half(), "brain": torch.randn(7).bfloat16(), "single": torch.randn(2, 1)}
    made |= {"double": torch.randn(3, dtype=torch.float64)}
    types = {"types": torch.zeros(2, dtype=torch.int32)}
    types |= {
        "ids": torch.arange(3),
        "bytes": torch.arange(3).byte(),
        "mask": torch.tensor([[True], [False]]),
    }
    safetensors.torch.save_file({**made, **types}, path, metadata={"format": "pt"})
    ours = SafeTensors(path)
    for name, tensor in made.items():
        assert np.array_equal(ours.load(name), tensor.float().numpy()), name
    assert (ours.kind("brain"), ours.native("half")) == ("BF16", None)
    assert ours.load("ids").tolist() == ours.load("bytes").tolist() == [0, 1, 2]
    assert ours.load("mask").tolist() == [[1], [0]]
    with refused(CheckpointError, "'types'", "F64", "F32", "F16", "BF16", "F8_E4M3", "I32"):
        ours.load("types")


def test_save_refuses_other_types(tmp_path):
    with refused(CheckpointError, "float32", "float16", "int64"):
        save(tmp_path / "x", {"a": np.arange(3)})
