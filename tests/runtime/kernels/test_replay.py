"""A program of kernels alone: for another architecture, and under sanitizers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import gcc, kernels
from helpers.expert_kernel import ExpertCase, random_expert_case
from helpers.kernel_cases import Case, random_case
from helpers.kernels import LOOKED_UP, SCALE_TYPES, Packed, bits_of
from helpers.row_kernel import RowCase, gelu, random_row_case, tiled
from tfm.refimpl.ops import quant
from tfm.refimpl.ops.activation import activation
from tfm.runtime.kernels import library
from tfm.runtime.kernels.platforms import Platform

SOURCES = Path(__file__).parents[3] / "runtime/kernels/source"
CASES = 60  # of each kind
FLAGS = ("-std=c++17", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti")


def compiled(compiler: str, out: Path, *flags: str, without: Sequence[str] = ()) -> Path:
    """The program replay.cpp with the kernels, `without` some sources and the operators of ONNX Runtime."""
    files = [file for file in SOURCES.glob("*.cpp") if file.stem not in ("ort_ops", *without)]
    left_out = [f"-DTFM_WITHOUT_{name.upper()}" for name in without]
    program = Path(__file__).with_name("replay.cpp")
    command = [compiler, *FLAGS, *flags, *left_out, f"-I{SOURCES}", "-o", out, program, *files]
    subprocess.run(command, check=True)
    return out


def looked_up(case: Case) -> np.ndarray:
    """Ids of rows: the last one, and every third."""
    N = case.w.shape[0]
    return np.array([N - 1, *range(0, N, 3)], np.int64)


Replayed = Case | RowCase | ExpertCase


def content(case: Replayed) -> bytes:
    """A case as replay.cpp reads it."""
    if isinstance(case, ExpertCase):
        return expert_content(case)
    if isinstance(case, RowCase):
        factor, (M, K), N = case.w.input_factor, case.x.shape, case.w.shape[1]
        header = (N, K, 0, 8, factor is not None, case.bias is not None, M, 0, False, False, 0)
        arrays = [np.array(header, np.int32), *tiled(case.w), factor, case.bias, case.x]
        return b"".join(a.tobytes() for a in arrays if a is not None)
    w, ids, (M, K) = case.packed(), looked_up(case), case.x.shape
    has = (w.zeros is not None, case.bias is not None)
    scale_type = SCALE_TYPES.index(case.scales)
    bits = bits_of_header(w)
    header = (w.outputs, K, w.block, bits, *has, M, len(ids), scale_type, w.minima is not None, 0)
    arrays = [np.array(header, np.int32), w.codes, w.scales, w.zeros, w.minima, w.factors, w.table]
    arrays += [case.bias, case.x, ids]
    return b"".join(a.tobytes() for a in arrays if a is not None)


def bits_of_header(w: Packed) -> int:
    """Bits of a code, or that a table follows."""
    return w.bits if w.table is None else LOOKED_UP


def expert_content(case: ExpertCase) -> bytes:
    packed, (M, choices), bias = case.packed(), case.index.shape, case.experts[0].bias is not None
    one, shares = packed[0], case.shares is not None
    has = (one.zeros is not None, bias, M, 0, False, one.minima is not None, len(packed))
    header = (
        one.outputs,
        one.columns,
        one.block,
        bits_of_header(one),
        *has,
        choices,
        case.x.ndim == 3,
        shares,
    )
    arrays: list[np.ndarray | None] = [np.array(header, np.int32)]
    for w, expert in zip(packed, case.experts, strict=True):
        arrays += [
            np.int32([SCALE_TYPES.index(expert.scales)]),
            w.codes,
            w.scales,
            w.zeros,
            w.minima,
            w.factors,
            w.table,
        ]
        arrays.append(expert.bias)
    arrays += [*case.by_expert, np.ascontiguousarray(case.x), case.shares]
    return b"".join(a.tobytes() for a in arrays if a is not None)


def expert_case(seed: int) -> ExpertCase:
    """Products alone: gates are checked with matrices of no mixture."""
    return replace(random_expert_case(seed), gates=False)


@cache
def drawn(count: int) -> tuple[bytes, list[tuple[Replayed, np.ndarray]]]:
    """Cases as replay.cpp reads them, and each with its product, which all instruction sets share."""
    cases = [make(seed) for seed in range(count) for make in (random_case, random_row_case, expert_case)]
    return b"".join(map(content, cases)), [(case, case.expected()) for case in cases]


def check(command: list[str], count: int) -> bool:
    """Every result has the specification's bits, but for GELU, which is within its bound.

    False where the processor has no such instruction set.
    """
    # Memory for this check of g++ isn't aligned to 64, as registers of AVX512 need (GCC's bug 110027).
    options = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    given, cases = drawn(count)
    done = subprocess.run(command, input=given, capture_output=True, env=options)
    if done.returncode == 3:
        return False
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    got, start = np.frombuffer(done.stdout, np.float32), 0

    def part(size: int) -> np.ndarray:
        nonlocal start
        start += size
        return got[start - size : start]

    for i, (case, expected) in enumerate(cases):
        product = bits_of(expected).reshape(-1)
        assert np.array_equal(bits_of(part(product.size)), product), f"{command}: case {i}"
        if isinstance(case, ExpertCase):
            continue
        if isinstance(case, RowCase):
            z, y = product.view(np.float32), part(product.size)
            assert np.array_equal(np.isfinite(y), np.isfinite(z))
            z, y = z[np.isfinite(z)], y[np.isfinite(z)]
            assert (np.abs(y - gelu(z)) <= 3 * 2.0**-24 * np.abs(z) + 2.0**-149).all()
        else:
            rows = bits_of(quant.rows(case.w, looked_up(case)[None])[0]).reshape(-1)
            assert np.array_equal(bits_of(part(rows.size)), rows), f"{command}: case {i}"
            if case.w.shape[0] % 32 == 0:
                check_gates(expected, part(product.size // 2))
    assert start == got.size
    return True


def check_gates(product: np.ndarray, got: np.ndarray) -> None:
    """silu(gate) * up of a product's halves: within 3 ulp of silu and one rounding of the product."""
    gate, up = np.split(product.astype(np.float64), 2, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = activation(gate, kind="silu") * up
        allowed = 7 * 2.0**-24 * np.abs(expected) + np.abs(gate * up) * np.exp(-87.3) + 2.0**-149
    got, sound = got.reshape(gate.shape), np.abs(expected) + allowed <= np.finfo(np.float32).max
    assert (np.abs(got[sound] - expected[sound]) <= allowed[sound]).all()


@pytest.fixture
def tools() -> gcc.Tools:
    return gcc.required()


@pytest.mark.gcc
@pytest.mark.long
def test_neon_is_the_specification_bit_for_bit(tools: gcc.Tools, tmp_path: Path):
    """Emulated: a processor with the dot product, and one without."""
    program = compiled(tools.arm_compiler, tmp_path / "replay", "-O2", "-static")
    for processor, both in (("max", True), ("cortex-a57", False)):
        run = [tools.emulator, "-cpu", processor, str(program)]
        assert check([*run, "neon"], CASES)
        assert check([*run, "neon-dotprod"], CASES) == both


@pytest.mark.gcc
@pytest.mark.long
def test_kernels_touch_no_memory_but_their_own(tools: gcc.Tools, tmp_path: Path):
    """Under AddressSanitizer and UndefinedBehaviorSanitizer, where this processor can run them."""
    sanitize = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    without = library.useless(Platform.here())
    program = compiled(tools.compiler, tmp_path / "replay", *sanitize, without=without)
    found = [name for name in kernels.INSTRUCTION_SETS if check([str(program), name], CASES)]
    assert found
