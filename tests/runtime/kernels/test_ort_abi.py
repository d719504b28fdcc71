"""What the library asks of ONNX Runtime's C interface, with a stub in its place."""

from __future__ import annotations

import ctypes as c
import shutil
from pathlib import Path

import pytest
from tfm.runtime.bundle.kernel_storage import KERNELS

API = 17
CREATE_DOMAIN, ADD_OPERATOR, ADD_DOMAIN = (
    26,
    27,
    28,
)  # places in the table of version 17 and of all later ones
DOMAIN = 0x5000  # what the stub calls a domain
Entry = c.CFUNCTYPE(c.c_void_p, c.c_void_p, c.c_void_p)
GetApi = c.CFUNCTYPE(c.c_void_p, c.c_uint32)
GetName = c.CFUNCTYPE(c.c_char_p, c.c_void_p)


class ApiBase(c.Structure):
    """OrtApiBase."""

    _fields_ = (("get_api", GetApi), ("get_version_string", c.c_void_p))


class Op(c.Structure):
    """The beginning of OrtCustomOp."""

    _fields_ = (("version", c.c_uint32), ("create_kernel", c.c_void_p), ("get_name", GetName))


@pytest.fixture
def library(kernels_library: Path, tmp_path: Path) -> c.CDLL:
    """A copy, whose memory isn't that of the library which this process uses."""
    loaded = c.CDLL(str(shutil.copy(kernels_library, tmp_path / "copy.so")))
    loaded.RegisterCustomOps.restype, loaded.tfm_has_api.restype = c.c_void_p, c.c_bool
    return loaded


@pytest.mark.parametrize("entries", [275, 1000])
def test_a_later_version_has_a_longer_table(library: c.CDLL, entries: int) -> None:
    """The operators are registered by the entries of version 17, and nothing else is called."""
    called, operators, asked = [], {}, []

    def entry(index: int) -> object:
        def call(first: int, second: int) -> None:
            called.append(index)
            if index == CREATE_DOMAIN:
                assert c.string_at(first) == b"tfm"
                c.c_void_p.from_address(second).value = DOMAIN
            elif index == ADD_OPERATOR:
                assert first == DOMAIN
                op = Op.from_address(second)
                operators[op.get_name(second).decode()] = op.version
            elif index == ADD_DOMAIN:
                assert second == DOMAIN

        return Entry(call)

    table = (Entry * entries)(*(entry(i) for i in range(entries)))

    def get_api(version: int) -> int:
        asked.append(version)
        return c.addressof(table)

    base = ApiBase(GetApi(get_api))
    assert library.RegisterCustomOps(None, c.byref(base)) is None
    assert library.tfm_has_api()
    assert asked == [API]
    assert called == [CREATE_DOMAIN, *[ADD_OPERATOR] * called.count(ADD_OPERATOR), ADD_DOMAIN]
    assert operators == dict.fromkeys(KERNELS, API)


def test_a_version_without_the_interface_gets_no_operators(library: c.CDLL) -> None:
    base = ApiBase(GetApi(lambda version: None))
    assert library.RegisterCustomOps(None, c.byref(base)) is None
    assert not library.tfm_has_api()
