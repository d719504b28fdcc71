"""pytorch_model.bin: every tensor as torch reads it, and nothing run, imported or believed."""

from __future__ import annotations

import io
import json
import pickletools
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import torch_writer
from helpers.refused import refused
from helpers.torch_writer import (
    ORDERED_DICT,
    REBUILD,
    archive,
    older,
    row,
    state_dict,
    storage,
    tensor,
    text,
    whole,
)
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.formats.pickle_values import REFUSED
from tfm.refimpl.checkpoint.formats.torch_file import TorchFile
from tfm.refimpl.errors import CheckpointError

DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool, "U8": torch.uint8,
    "I64": torch.int64, "F64": torch.float64,
}  # fmt: skip
UNREADABLE = {"I8": torch.int8, "I16": torch.int16, "I32": torch.int32}


@st.composite
def state_dicts(draw) -> dict[str, torch.Tensor]:
    """Tensors of all types: whole, views, transposed, expanded, parameters, several in one storage."""
    tensors = {}
    for i in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        base = (
            torch.arange(int(np.prod(shape))).reshape(shape).to(draw(st.sampled_from(list(DTYPES.values()))))
        )
        for j in range(draw(st.integers(1, 3))):
            view = base
            for kind in draw(
                st.lists(st.sampled_from(["transpose", "slice", "row", "expand", "wrap"]), max_size=3)
            ):
                if kind == "transpose":
                    view = view.permute(tuple(reversed(range(view.dim()))))
                elif kind == "slice" and view.dim():
                    view = view[draw(st.integers(0, 2)) :: draw(st.integers(1, 3))]
                elif kind == "row" and view.dim() and len(view):
                    view = view[draw(st.integers(0, len(view) - 1))]
                elif kind == "expand":
                    view = view.expand(draw(st.integers(1, 2)), *view.shape)
                elif kind == "wrap" and view.is_floating_point():
                    view = torch.nn.Parameter(view, requires_grad=draw(st.booleans()))
            tensors[f"layer.{i}.{j}"] = view
    return tensors


def _loaded(value: torch.Tensor) -> np.ndarray:
    """A tensor as `load` gives it: int64 as it is, every other type as float32."""
    return (value if value.dtype == torch.int64 else value.detach().float()).numpy()


@given(tensors=state_dicts(), zipped=st.booleans(), data=st.data())
def test_tensors_are_those_that_torch_reads(tmp_path_factory, tensors, zipped, data):
    path = tmp_path_factory.getbasetemp() / "x.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    file, want = TorchFile(path), torch.load(path, weights_only=True)
    assert file.names == tuple(want)
    for name, value in want.items():
        assert DTYPES[file.kind(name)] == value.dtype
        assert file.shape(name) == tuple(value.shape)
        numbers = _loaded(value)
        np.testing.assert_array_equal(file.load(name), numbers, strict=True)
        assert file.native(name) is None
        if not value.dtype.is_floating_point and value.dtype != torch.bool:
            np.testing.assert_array_equal(file.raw(name), value.numpy(), strict=True)
        if len(value.shape) and len(value):
            part = data.draw(st.integers(0, len(value) - 1))
            np.testing.assert_array_equal(file.load(name, part), numbers[part], strict=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_module_and_types_that_arent_read(tmp_path, zipped):
    """A state_dict's versions of modules are attributes of it; other integers are refused when they are asked
    for, as in safetensors."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    saved = module.state_dict()
    saved |= {name: torch.zeros(2, dtype=dtype) for name, dtype in UNREADABLE.items()}
    torch.save(saved, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    file = TorchFile(tmp_path / "x.bin")
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(file.load(name), _loaded(value), strict=True)
    for name in UNREADABLE:
        assert file.kind(name) == name
        with refused(CheckpointError, f"'{name}'", "F64", "F32", name):
            file.load(name)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_the_tests_write_is_what_torch_reads(tmp_path, zipped):
    arrays = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.ones(2, "<f4")}
    (tmp_path / "x.bin").write_bytes(torch_writer.torch_file(arrays, zipped=zipped))
    for name, value in torch.load(tmp_path / "x.bin", weights_only=True).items():
        np.testing.assert_array_equal(value.numpy(), arrays[name], strict=True)


def test_instructions_have_pythons_names():
    assert REFUSED.items() <= {op.code: op.name for op in pickletools.opcodes}.items()


FOUR = bytes(16)
GOOD = tensor(storage("0", 4), 0, (2, 2), (2, 1))


def of(value: bytes) -> bytes:
    """A state_dict of one value, of another form than GOOD."""
    return state_dict({"w": value})


def rebuilt(*arguments: bytes) -> bytes:
    return of(REBUILD + b"(" + b"".join(arguments) + b"tR")


def identified(*parts: bytes) -> bytes:
    """A tensor in a storage whose persistent id has these parts."""
    return of(tensor(b"(" + b"".join(parts) + b"tQ", 0, (2,), (1,)))


PAYLOAD = text("touch /tmp/never")
S, CLASS, COUNT = text("storage"), b"ctorch\nFloatStorage\n", whole(4)
# Sixty lists, each ten times in the next one.
LISTS = b"]q\x00" + b"".join(b"](" + bytes([104, i]) * 10 + b"e" + bytes([113, i + 1]) for i in range(60))
# A pickle, and what the refusal names. Those with os, eval and the like do harm where Python reads them.
PICKLES: dict[str, tuple[bytes, str]] = {
    "os.system": (b"\x80\x02cos\nsystem\n(" + PAYLOAD + b"tR.", "names 'os.system'"),
    "posix": (b"\x80\x02cposix\nsystem\n(" + PAYLOAD + b"tR.", "names 'posix.system'"),
    "eval": (b"\x80\x02c__builtin__\neval\n(" + text("1/0") + b"tR.", "names '__builtin__.eval'"),
    "exec": (of(b"cbuiltins\nexec\n(" + text("1/0") + b"tR"), "names 'builtins.exec'"),
    "getattr": (of(b"cbuiltins\ngetattr\n(" + CLASS + text("__init__") + b"tR"), "names 'builtins.getattr'"),
    "a name inside of a module": (of(b"ctorch\nos.system\n(" + PAYLOAD + b"tR"), "names 'torch.os.system'"),
    "import": (of(b"cimportlib\nimport_module\n(" + text("antigravity") + b"tR"), "importlib.import_module"),
    "subprocess": (of(b"csubprocess\nPopen\n(" + PAYLOAD + b"tR"), "names 'subprocess.Popen'"),
    "pickle in a pickle": (of(b"cpickle\nloads\n(C\x01.tR"), "names 'pickle.loads'"),
    "torch.load": (of(b"ctorch\nload\n(" + PAYLOAD + b"tR"), "names 'torch.load'"),
    "storage from bytes": (of(b"ctorch.storage\n_load_from_bytes\n(C\x01.tR"), "_load_from_bytes"),
    "hub": (of(b"ctorch.hub\nload\n(" + PAYLOAD * 2 + b"tR"), "names 'torch.hub.load'"),
    "numpy": (of(b"cnumpy.core.multiarray\n_reconstruct\n)R"), "names 'numpy.core.multiarray._reconstruct'"),
    "newer tensors": (
        of(b"ctorch._utils\n_rebuild_tensor_v3\n)R"),
        "names 'torch._utils._rebuild_tensor_v3'",
    ),
    "a tensor's subclass": (of(b"ctorch._tensor\n_rebuild_from_type_v2\n)R"), "_rebuild_from_type_v2"),
    "instance": (b"\x80\x02(" + PAYLOAD + b"ios\nsystem\n.", "instruction INST"),
    "object": (b"\x80\x02(" + CLASS + PAYLOAD + b"o.", "instruction OBJ"),
    "new object": (of(CLASS + b")\x81"), "instruction NEWOBJ"),
    "new object with keywords": (of(CLASS + b")}\x92"), "instruction NEWOBJ_EX"),
    "a name from the stack": (of(text("os") + text("system") + b"\x93"), "instruction STACK_GLOBAL"),
    "extension": (of(b"\x82\x01"), "instruction EXT1"),
    "persistent id as text": (b"\x80\x02P0\n.", "instruction PERSID"),
    "out-of-band buffer": (of(b"\x97"), "instruction NEXT_BUFFER"),
    "unknown instruction": (of(b"\xff"), "instruction 0xff"),
    "protocol 4": (b"\x80\x04N.", "must have protocol 2, but it has 4"),
    "a class is called": (of(CLASS + b"(" + whole(10**12) + b"tR"), "calls torch.FloatStorage"),
    "a text is called": (of(PAYLOAD + b")R"), "must have a Name at byte .*, but it has a str"),
    "a tensor is called": (of(GOOD + b")R"), "must have a Name at byte .*, but it has a _Tensor"),
    "arguments that are a list": (of(REBUILD + b"]R"), "must have a tuple at byte .*, but it has a list"),
    "state of a tensor": (of(GOOD + b"}b"), "must have a dict at byte .*, but it has a _Tensor"),
    "state of a class": (of(CLASS + b"}b"), "must have a dict at byte .*, but it has a Name"),
    "state that calls": (b"\x80\x02" + ORDERED_DICT + b"cos\nsystem\nb.", "names 'os.system'"),
    "items of a class": (
        of(CLASS + text("a") + PAYLOAD + b"s"),
        "must have a dict at byte .*, but it has a Name",
    ),
    "append to a tensor": (of(GOOD + b"Na"), "must have a list at byte .*, but it has a _Tensor"),
    "an id that is a text": (of(text("os.system") + b"Q"), "each storage"),
    "an id that is a module": (of(b"(" + text("module") + CLASS + PAYLOAD * 2 + b"tQ"), "each storage"),
    "an id of a class that is none": (identified(S, REBUILD, text("0"), text("cpu"), COUNT), "each storage"),
    "an id with a view": (identified(S, CLASS, text("0"), text("cpu"), COUNT, row(1, 2)), "each storage"),
    "an id with a list as key": (identified(S, CLASS, b"]", text("cpu"), COUNT), "each storage"),
    "a negative count": (identified(S, CLASS, text("0"), text("cpu"), whole(-1)), "each storage"),
    "a count of 2^2000": (identified(S, CLASS, text("0"), text("cpu"), whole(2**2000)), "each storage"),
    "a storage that isn't there": (
        of(tensor(storage("../0", 4), 0, (2,), (1,))),
        "'../0' of 4 F32|must list",
    ),
    "a storage of another size": (
        of(tensor(storage("0", 5), 0, (2,), (1,))),
        "20 bytes, but the file has 16 bytes",
    ),
    "a storage of two sizes": (
        state_dict({"a": GOOD, "b": tensor(storage("0", 2, "Long"), 0, (2,), (1,))}),
        "the same class and count in all places that name the storage '0'",
    ),
    "a tensor beyond its storage": (
        of(tensor(storage("0", 4), 1, (2, 2), (2, 1))),
        "inside of their storages",
    ),
    "strides beyond the storage": (
        of(tensor(storage("0", 4), 0, (2, 2), (3, 1))),
        "inside of their storages",
    ),
    "a negative offset": (of(tensor(storage("0", 4), -1, (2,), (1,))), "none negative"),
    "a negative stride": (of(tensor(storage("0", 4), 3, (2,), (-1,))), "none negative"),
    "a size of 2^63": (of(tensor(storage("0", 4), 0, (2**63,), (0,))), "none negative"),
    "sizes without strides": (of(tensor(storage("0", 4), 0, (2, 2), (1,))), "as many strides"),
    "nine axes": (of(tensor(storage("0", 4), 0, (1,) * 9, (1,) * 9)), "at most 8 sizes"),
    "a tensor as large as memory": (
        of(tensor(storage("0", 4), 0, (2**40,), (0,))),
        "8 times the file's size",
    ),
    "many views of one storage": (
        state_dict({str(i): tensor(storage("0", 4), 0, (4, 500), (1, 0)) for i in range(99)}),
        "8 times the file's size",
    ),
    "hooks": (
        rebuilt(storage("0", 4), whole(0), row(2), row(1), b"\x89", b"}" + text("a") + b"Ns"),
        "without hooks",
    ),
    "a tensor of other parts": (rebuilt(b"NNNNN", ORDERED_DICT), "storage, offset, size and stride"),
    "too few parts": (rebuilt(storage("0", 4)), "without hooks"),
    "a parameter of a text": (
        of(b"ctorch._utils\n_rebuild_parameter\n(" + PAYLOAD + b"\x88" + ORDERED_DICT + b"tR"),
        "only parameters that are tensors",
    ),
    "a size of a text": (of(b"ctorch\nSize\n(" + PAYLOAD + b"tR"), "a tuple for each torch.Size"),
    "a dict of pairs": (of(b"ccollections\nOrderedDict\n(]tR"), "OrderedDicts that begin empty"),
    "another name twice": (b"\x80\x02}" + text("a") + b"Ns" + text("a") + b"Ns.", "'a' occurs twice"),
    "a tuple as key": (b"\x80\x02})Ns.", "as keys, but it has a tuple"),
    "a key without value": (b"\x80\x02}(Nu.", "must give each key a value"),
    "a number as value": (of(whole(2**2000)), "'w' is a int: save only the model's state_dict"),
    "an optimizer beside it": (state_dict({"w": GOOD, "optimizer": b"}"}), "'optimizer' is a dict"),
    "a number as name": (b"\x80\x02}" + whole(1) + GOOD + b"s.", "1 is a _Tensor"),
    "a list": (b"\x80\x02].", "must contain tensors by name, but it is a list"),
    "a memo bomb": (of(b"(" + LISTS + b"t"), "'w' is a tuple"),
    "a list in itself": (of(b"]q\x00h\x00a"), "'w' is a list"),
    "nested 100,000 deep": (of(b")" + b"\x85" * 100_000), "'w' is a tuple"),
    "nested 100,000 deep as key": (b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.", "as keys, but it has a tuple"),
    "half a million lists": (of(b"]" * 500_000), "of memory, but a value takes more"),
    "a text of 4 GB": (
        of(b"X\xff\xff\xff\xff"),
        "may have texts of at most 65536 bytes, but it claims 4294967295",
    ),
    "a text without end": (b"\x80\x02X\xff\x00\x00\x00a", "255 bytes .* are left|zip"),
    "a text that is no UTF-8": (of(b"X\x01\x00\x00\x00\xff"), "texts in UTF-8"),
    "a long name": (b"\x80\x02c" + b"a" * 10_000 + b"\nb\n.", "names of at most 200 letters"),
    "a name that steers a terminal": (of(b"c\x1b[2J\n\x1b]0;x\x07\n"), r"names '\\x1b\[2J"),
    "nothing on the stack": (b"\x80\x02R.", "uses a value that doesn't exist"),
    "a mark instead of a value": (b"\x80\x02(q\x00.", "uses a value that doesn't exist"),
    "a group without begin": (b"\x80\x02Nt.", "ends a group of values without a beginning"),
    "a value that isn't kept": (b"\x80\x02j\xff\xff\xff\xff.", "uses the value 4294967295 before storing"),
    "two values": (b"\x80\x02NN.", "must contain one value, but it contains 1 more"),
}
AUDIT = """
import json, pickle, sys
from pathlib import Path
from tfm.refimpl.errors import CheckpointError
from tfm.refimpl.checkpoint.formats.torch_file import TorchFile

TorchFile(Path(sys.argv[2]))  # what is imported once
events, messages = [], {}
sys.addaudithook(lambda event, arguments: events.append((event, str(arguments[0]) if arguments else "")))
for name in json.loads(sys.argv[1]):
    try:
        TorchFile(Path(name))
    except CheckpointError as error:
        messages[name] = str(error)
seen = sorted(set(events))
pickle.loads(b"cos\\ngetpid\\n)R.")
print(json.dumps([seen, messages, [event for event, _ in events[len(seen):]]]))
"""


def test_hostile_pickles_run_nothing(tmp_path):
    """Python's own audit events, of imports, calls of the system and opened files: none but of the file."""
    files = {}
    for i, (name, (pickle, words)) in enumerate(PICKLES.items()):
        for form, data in (("zip", archive(pickle, {"0": FOUR})), ("older", older(pickle, {"0": FOUR}))):
            path = tmp_path / f"{i}.{form}"
            path.write_bytes(data)
            files[str(path)] = (f"{name}, {form}", words)
    (tmp_path / "sound").write_bytes(SOUND)
    command = [sys.executable, "-c", AUDIT, json.dumps(list(files)), str(tmp_path / "sound")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events, messages, control = json.loads(done.stdout)
    opened = [name for event, name in events if event == "open" and not name.isdigit()]  # or a descriptor
    assert {event for event, _ in events} == {"open"}
    assert opened == sorted(files)
    assert "pickle.find_class" in control, "what Python's own reader does is seen"
    wrong = {
        name: messages.get(path, "it is read")
        for path, (name, words) in files.items()
        if not re.search(words, messages.get(path, "")) or "\n" in messages[path]
    }
    assert not wrong


WEIGHTS = {"w": np.arange(4, dtype="<f4")}


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        TorchFile(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return buffer.getvalue()


def change(data: bytes, mark: bytes, at: int, form: str, number: int, *, last: bool = False) -> bytes:
    """A number of a zip's record replaced, of the first one or the last."""
    changed = bytearray(data)
    struct.pack_into(form, changed, (data.rfind(mark) if last else data.find(mark)) + at, number)
    return bytes(changed)


DIRECTORY, LOCAL, END = b"PK\1\2", b"PK\3\4", b"PK\5\6"
SOUND = torch_writer.torch_file(WEIGHTS)
ZIPS: dict[str, tuple[bytes, str]] = {
    "compressed": (
        archive(of(GOOD), {"0": FOUR}, zipfile.ZIP_DEFLATED),
        "must be stored without compression and encryption",
    ),
    "a bomb": (
        zipped({"m/data.pkl": bytes(10**7)}, zipfile.ZIP_BZIP2),
        "must be stored without compression and encryption",
    ),
    "encrypted": (change(SOUND, DIRECTORY, 8, "<H", 1), "must be stored without compression and encryption"),
    "no pickle": (zipped({"m/data/0": FOUR}), "must have one data.pkl, but it has 0"),
    "two pickles": (
        zipped({"a/data.pkl": of(GOOD), "b/data.pkl": of(GOOD)}),
        "must have one data.pkl, but it has 2",
    ),
    "a program": (zipped({"m/data.pkl": of(GOOD), "m/constants.pkl": b"", "m/data/0": FOUR}), "TorchScript"),
    "big-endian": (zipped({"m/data.pkl": of(GOOD), "m/byteorder": b"big"}), "little-endian"),
    "an entry that stands twice": (
        zipped({"m/data.pkl": of(GOOD), "m/data/0": FOUR, "m/data/1": FOUR}).replace(b"data/1", b"data/0"),
        "'m/data/0' occurs twice",
    ),
    "a size that lies": (change(SOUND, DIRECTORY, 24, "<I", 2**31), "must state its position"),
    "both sizes that lie": (
        change(change(SOUND, DIRECTORY, 20, "<I", 2**31), DIRECTORY, 24, "<I", 2**31),
        "claims 2147483648 bytes",
    ),
    "a size of 64 bits that isn't there": (
        change(SOUND, DIRECTORY, 24, "<I", 2**32 - 1),
        "must state its position",
    ),
    "an entry elsewhere": (change(SOUND, DIRECTORY, 42, "<I", 7), "must begin at byte 7"),
    "an entry after the directory": (
        change(SOUND, DIRECTORY, 42, "<I", 2**31),
        "must begin at byte 2147483648",
    ),
    "a directory that isn't one": (change(SOUND, DIRECTORY, 0, "<I", 7), "must have an entry before byte"),
    "a directory elsewhere": (change(SOUND, END, 16, "<I", 7), "must end at byte"),
    "a directory of 65,535 entries": (
        change(change(SOUND, END, 8, "<H", 2**16 - 1), END, 10, "<H", 2**16 - 1),
        "directory of 65535 entries must end at",
    ),
    "fewer entries than there are": (
        change(change(SOUND, END, 8, "<H", 1), END, 10, "<H", 1),
        "must end at byte",
    ),
    "several disks": (change(SOUND, END, 8, "<H", 1), "must be one file"),
    "something after the end": (SOUND + b"x", "must be one file"),
    "cut short": (SOUND[:-30], "but it has none"),
    "neither": (b"\x93NUMPY", "must be a zip or a pickle"),
    "nothing": (b"", "must be a zip or a pickle"),
    "another pickle": (b"\x80\x02K\x01.\x80\x02K\x01.\x80\x02}.", "a pickle of another kind"),
    "older, big-endian": (older(of(GOOD), {"0": FOUR}).replace(b"\x88s.", b"\x89s."), "little-endian"),
    "older, of another version": (
        older(of(GOOD), {"0": FOUR}).replace(b"M\xe9\x03", b"M\xe8\x03"),
        "another kind",
    ),
    "older, without keys": (older(of(GOOD), {}), "must list the storages"),
    "older, with more keys": (older(of(GOOD), {"0": FOUR, "1": FOUR}), "must list the storages"),
    "older, of another count": (
        older(of(GOOD), {"0": bytes(12)}),
        "needs 16 bytes, but the file has 12 bytes",
    ),
    "older, cut short": (older(of(GOOD), {"0": FOUR})[:-1], "needs 16 bytes, but the file has 15 bytes"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_hostile_containers(tmp_path, name):
    data, words = ZIPS[name]
    assert re.search(words, refusal(tmp_path / "x.bin", data)), refusal(tmp_path / "x.bin", data)


def test_a_zip_with_numbers_of_64_bits(tmp_path):
    """As torch writes files beyond 4 GB: sizes and places in an extra field, and an end of its own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in {"m/data.pkl": of(GOOD), "m/data/0": FOUR}.items():
            with file.open(name, "w", force_zip64=True) as entry:
                entry.write(data)
    data = bytearray(buffer.getvalue())
    begin, end = data.find(DIRECTORY), data.find(END)
    large, at = b"", begin
    while at < end:
        name_size = struct.unpack_from("<H", data, at + 28)[0]
        packed, size = struct.unpack_from("<2I", data, at + 20)
        place = struct.unpack_from("<I", data, at + 42)[0]
        head = bytearray(data[at : at + 46])
        struct.pack_into("<2I", head, 20, 2**32 - 1, 2**32 - 1)
        struct.pack_into("<H", head, 30, 28)
        struct.pack_into("<I", head, 42, 2**32 - 1)
        extra = struct.pack("<2H3Q", 1, 24, size, packed, place)
        large += bytes(head) + bytes(data[at + 46 : at + 46 + name_size]) + extra
        at += 46 + name_size + struct.unpack_from("<H", data, at + 30)[0]
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(large), begin)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, begin + len(large), 1)
    last = struct.pack("<4s4H2IH", END, 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(data[:begin]) + large + end64 + locator + last)
    with zipfile.ZipFile(path) as file:
        assert file.read("m/data/0") == FOUR, "Python reads it"
    np.testing.assert_array_equal(TorchFile(path).load("w"), np.zeros((2, 2), np.float32), strict=True)
    sound = path.read_bytes()
    for mark, at, words in (
        (b"PK\6\7", 8, "must be before byte"),
        (b"PK\6\6", 32, "must be one file"),
        (b"PK\6\6", 48, "must end at"),
    ):
        assert words in refusal(path, change(sound, mark, at, "<Q", 2**62))


def test_many_entries_are_bounded(tmp_path):
    """A directory of many entries with long names and without content."""
    one = struct.pack("<4s4x2H8x2I3H8xI", DIRECTORY, 0, 0, 0, 0, 0, 0, 0, 0)
    local = struct.pack("<4s22x2H", LOCAL, 0, 0)
    count = 12_000
    names = b"".join(one[:28] + struct.pack("<H", 1000) + one[30:] + b"%01000d" % i for i in range(count))
    end = struct.pack("<4s4H2IH", END, 0, 0, count, count, len(names), len(local), 0)
    assert "of memory" in refusal(tmp_path / "x.bin", local + names + end)
