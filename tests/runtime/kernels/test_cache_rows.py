"""Rows of a cache as kernels write and read them: on an emulated aarch64, and under sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import gcc
from tfm.refimpl.ops.quantized_cache import (
    ChannelQuantized,
    append_by_channel,
    pack_nibbles,
    read_by_channel,
)

SOURCES = Path(__file__).parents[3] / "runtime/kernels/source"
TYPES = (np.float32, np.float16, np.int8, np.uint8)  # kernels.h: `CacheType`


def case(number: int, rng: np.random.Generator) -> tuple[bytes, bytes]:
    """What the program reads, and what it must answer."""
    of, size = number % 4, 8 * int(rng.integers(1, 18))
    x = rng.standard_normal(size).astype(np.float32) * 3
    scale = rng.choice([0, 0.02, 0.3, 0.5], size).astype(np.float32)
    content = np.array([of, size], np.int32).tobytes() + x.tobytes() + scale.tobytes()
    if of < 2:
        kept = x.astype(TYPES[of])
        return content, kept.tobytes() + kept.astype(np.float32).tobytes()
    cache = ChannelQuantized(np.zeros((1, 1, 1, size), np.int8), scale[None])
    start = np.zeros(1, np.int64)
    cache = append_by_channel(cache, x[None, None, None], start, bits=8 if of == 2 else 4)
    kept = cache.codes if of == 2 else pack_nibbles(cache.codes)
    return content, kept.tobytes() + read_by_channel(cache).tobytes()


@pytest.mark.gcc
@pytest.mark.long
@pytest.mark.parametrize("emulated", [True, False], ids=["neon", "sanitizers"])
def test_rows_have_the_bits_of_the_specification(emulated: bool, tmp_path: Path):
    tools, rng = gcc.required(), np.random.default_rng(0)
    flags, run = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"], []
    if emulated:
        flags, run = ["-O2", "-static"], [tools.emulator]
    program, cases = tmp_path / "rows", [case(number, rng) for number in range(200)]
    compiler = tools.arm_compiler if emulated else tools.compiler
    source = Path(__file__).with_name("cache_rows.cpp")
    subprocess.run([compiler, "-std=c++17", *flags, f"-I{SOURCES}", "-o", program, source], check=True)
    (tmp_path / "cases").write_bytes(b"".join(content for content, _ in cases))
    done = subprocess.run([*run, program, tmp_path / "cases"], check=True, capture_output=True)
    assert done.stdout == b"".join(expected for _, expected in cases)
