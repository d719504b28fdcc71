"""Libraries in the place of CUDA's, so that ONNX Runtime's CUDA provider starts where there is no GPU.

Memory of the device is memory of the process, and copies are copies; a kernel that is launched does
nothing. So sessions open, nodes are placed, and inputs and outputs are bound and read as on a GPU, but
nothing is computed.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from ctypes import CDLL, c_long
from pathlib import Path

from elftools.elf.elffile import ELFFile
from tfm.runtime.kernels.compilers import Compiler
from tfm.runtime.ort.session import CUDA_LIBRARIES

from helpers.cuda_placement import PROVIDER

COUNTS = ("launched", "captured", "replayed", "released", "waited")  # kernels, graphs, and a stream of runs
HEADERS = f"""
#include <stdlib.h>
#include <string.h>
typedef void* P; typedef size_t N;
long {", ".join(COUNTS)};
"""
ALLOCATES = "(P* p, N n) { *p = calloc(1, n ? n : 1); return *p ? 0 : 2; }"
FREES = "(P p) { free(p); return 0; }"
MAKES = "(P* p) { *p = (P)1; return 0; }"
COPIES = "(P to, const void* from, N n) { memmove(to, from, n); return 0; }"
FILLS = "(P to, int value, N n) { memset(to, value, n); return 0; }"
VERSION = "(int* n) { *n = 13000; return 0; }"
TEXT = '() { return (long)"of a stub"; }'
SUCCEEDS = "() { return 0; }"
# The functions of which ONNX Runtime reads more than that they succeeded, of one kind each name.
KINDS = {
    ALLOCATES: "Malloc MallocHost HostAlloc MallocFromPoolAsync",
    FREES: "Free FreeHost FreeAsync",
    MAKES: "StreamCreate StreamCreateWithFlags EventCreate EventCreateWithFlags MemPoolCreate",
    COPIES: "Memcpy MemcpyAsync",
    FILLS: "Memset MemsetAsync",
    VERSION: "DriverGetVersion RuntimeGetVersion",
    TEXT: "GetErrorString GetErrorName",
    "(int* n) { *n = 0; return 0; }": "GetDevice",
    "(int* n) { *n = 1; return 0; }": "GetDeviceCount",
    "(N* free, N* all) { *free = *all = (N)80 << 30; return 0; }": "MemGetInfo",
    # Compute capability 9.0 and 132 processors, in cudaDeviceProp after warpSize and maxThreadsPerBlock.
    "(int* n, int which) { *n = which == 75 ? 9 : which == 16 ? 132 : 0; return 0; }": "DeviceGetAttribute",
    "(int* p) { memset(p, 0, 700); p[77] = 32; p[80] = 1024; p[90] = 9; p[96] = p[97] = 132; return 0; }": (
        "GetDeviceProperties"
    ),
    "(P, int* is) { *is = 0; return 0; }": "StreamIsCapturing",
    "(P, P* graph) { *graph = (P)1; return 0; }": "StreamEndCapture",
    "(P* p) { *p = (P)1; return captured++, 0; }": "GraphInstantiate",
    "() { return replayed++, 0; }": "GraphLaunch",
    "() { return released++, 0; }": "GraphExecDestroy",
    "(P stream) { return stream && waited++, 0; }": "StreamSynchronize",
}
FUNCTIONS = {f"cuda{name}": body for body, names in KINDS.items() for name in names.split()}
FUNCTIONS["__cudaLaunchKernel"] = "() { return launched++, 0; }"
# The provider opens it by name, and looks these up.
CUDNN = {"libcudnn.so.9": ["cudnnCreate", "cudnnDestroy", "cudnnSetStream"]}
DRIVER_FUNCTIONS = {"libcuda.so.1": ["cuTensorMapEncodeTiled"]}  # without a version, so not told by the table


def undefined(file: Path) -> dict[str, list[str]]:
    """The functions that a library takes of each other one whose versions it names."""
    functions: dict[str, list[str]] = defaultdict(list)
    with open(file, "rb") as opened:
        elf = ELFFile(opened)
        from_library = {
            version["vna_other"]: needed.name
            for needed, versions in elf.get_section_by_name(".gnu.version_r").iter_versions()
            for version in versions
        }
        versions = elf.get_section_by_name(".gnu.version")
        for i, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
            if symbol["st_shndx"] == "SHN_UNDEF" and (
                name := from_library.get(versions.get_symbol(i)["ndx"])
            ):
                functions[name].append(symbol.name)
    return functions


def build(folder: Path, compiler: Compiler) -> Path:
    """A folder of stubs for LD_LIBRARY_PATH."""
    taken = undefined(PROVIDER)
    libraries = {name: taken.get(name, []) for name in CUDA_LIBRARIES} | CUDNN | DRIVER_FUNCTIONS
    for name, functions in libraries.items():
        bodies = [f"long {one}{FUNCTIONS.get(one, SUCCEEDS)}" for one in functions]
        source, versions = folder / f"{name}.cpp", folder / f"{name}.map"
        source.write_text(f'{HEADERS}extern "C" {{\n' + "\n".join(bodies) + "\n}\n")
        versions.write_text(f"{name} {{ global: *; }};\n")
        flags = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}"]
        subprocess.run([*compiler.command, *flags, "-o", str(folder / name), str(source)], check=True)
    return folder


def counts() -> dict[str, int]:
    """What this process, over stubs, has done so far."""
    return {name: c_long.in_dll(CDLL("libcudart.so.13"), name).value for name in COUNTS}
