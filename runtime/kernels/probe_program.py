"""Try a library in the child process of `probe`: load it, compute two small products, and print the result.

The program runs as a script and imports nothing from tfm. Its arguments are the library's path and,
optionally, the name of the instruction set that the library must use. The C structures are the same as in
`source/kernels.h`.
"""

from __future__ import annotations

import ctypes as c
import json
import sys

OUTPUTS = INPUTS = 16
Task = c.CFUNCTYPE(None, c.c_void_p, c.c_size_t)
Run = c.CFUNCTYPE(None, c.c_void_p, Task, c.c_size_t, c.c_void_p)


class BlockMatrix(c.Structure):
    """The C structure of a matrix of codes in blocks."""

    _fields_ = [
        *((name, c.c_void_p) for name in ("codes", "scales", "zeros", "minima", "factors", "table")),
        *((name, c.c_int32) for name in ("outputs", "inputs", "columns", "block", "bits", "scale_type")),
        ("swiglu", c.c_bool),
    ]


class Pool(c.Structure):
    """The C structure of a pool of threads that runs the parts of a product."""

    _fields_ = [("owner", c.c_void_p), ("run", Run)]


class Kernels(c.Structure):
    """The beginning of the C structure that contains a library's functions for one instruction set."""

    _fields_ = [
        ("name", c.c_char_p),
        (
            "linear",
            c.CFUNCTYPE(
                None, c.POINTER(BlockMatrix), c.c_void_p, c.c_void_p, c.c_size_t, c.c_void_p, c.c_void_p, Pool
            ),
        ),
        ("linear_scratch", c.CFUNCTYPE(c.c_size_t, c.POINTER(BlockMatrix), c.c_size_t)),
    ]


def product(kernels: Kernels, rows: int) -> list[float]:
    """Compute a small product y = x @ W with the library, and return the numbers of y.

    Row m of x contains m + 1 at input m modulo 15, and 127, the largest value, at input 15. Its other
    inputs are 0. The weight of an output and an input is 0.5 · (output − input).
    """
    codes = [128 + n - k for g in range(0, INPUTS, 4) for n in range(OUTPUTS) for k in range(g, g + 4)]
    scales = (c.c_float * OUTPUTS)(*[0.5] * OUTPUTS)
    data = (c.c_uint8 * len(codes))(*codes)
    sizes = (OUTPUTS, INPUTS, INPUTS, INPUTS, 8)
    matrix = BlockMatrix(c.addressof(data), c.addressof(scales), *[None] * 4, *sizes)
    x = (c.c_float * (rows * INPUTS))()
    for m in range(rows):
        x[m * INPUTS + m % (INPUTS - 1)], x[m * INPUTS + INPUTS - 1] = m + 1, 127
    y = (c.c_float * (rows * OUTPUTS))()
    scratch = (c.c_char * (kernels.linear_scratch(matrix, rows) + 64))()
    aligned = c.addressof(scratch) + -c.addressof(scratch) % 64

    def run(_: int, task: object, count: int, data: int) -> None:
        for index in range(count):
            task(data, index)  # pyright: ignore[reportCallIssue]

    kernels.linear(matrix, None, c.addressof(x), rows, c.addressof(y), aligned, Pool(None, Run(run)))
    return list(y)


def expected(rows: int) -> list[float]:
    """Compute the product that `product` computes, by its definition.

    The inputs are integers, so their codes are equal to them and every sum is exact.
    """
    last = INPUTS - 1
    return [0.5 * ((m + 1) * (n - m % last) + 127 * (n - last)) for m in range(rows) for n in range(OUTPUTS)]


def main(path: str, wanted: str = "") -> dict[str, str]:
    """Try the library at a path. Returns the instruction set that the library uses on this machine and
    whether its product is right, or the reason of a failure.

    If `wanted` is given, the library must use this instruction set.
    """
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash here is an answer, and leaves no file
    except (ImportError, ValueError, OSError):
        pass
    try:
        library = c.CDLL(path)
        name, kernels_of = library.tfm_instruction_set, library.tfm_kernels
    except (OSError, AttributeError) as error:
        return {"failure": " ".join(str(error).split())[:300]}
    name.restype, kernels_of.restype = c.c_char_p, c.POINTER(Kernels)
    if (instruction_set := wanted.encode() or name()) is None or not kernels_of(c.c_char_p(instruction_set)):
        return {"instruction_set": ""}
    kernels = kernels_of(c.c_char_p(instruction_set)).contents
    # Of few rows and of many: AMX has only the latter.
    right = all(product(kernels, rows) == expected(rows) for rows in (1, 17))
    return {"instruction_set": instruction_set.decode("ascii"), "product": "right" if right else "wrong"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
