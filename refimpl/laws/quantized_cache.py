"""Laws of the quantized cache: how much the values that are read may differ from the values that were
written.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.quantized_cache import ChannelQuantized
from ..ops.quantized_cache import append_by_channel as written
from ..ops.quantized_cache import pack_nibbles as pack
from ..ops.quantized_cache import read_by_channel as by_channel
from ..ops.quantized_cache import read_by_head as by_head
from ..ops.quantized_cache import unpack_nibbles as unpack
from . import Draw, Subject, law

# x / scale is rounded once before it is rounded to a code of up to 127.
HALF = 0.5 + 127 * 2.0**-22


@law("append_by_head")
def what_is_read_is_within_half_a_scale(append_by_head: Subject, draw: Draw) -> None:
    """A cache with scales per head returns each number with an error of at most half a scale. The largest
    number of a head gets an outermost code.
    """
    call = draw(append_by_head.calls())
    cache = append_by_head(call)
    codes, scale = cache
    tokens, most = call["new"].shape[1], 2 ** (call["bits"] - 1) - 1
    for row, first in enumerate(call["start"]):
        part = np.s_[row, :, first : first + tokens]
        off = np.abs(by_head(cache)[part] - call["new"][row].swapaxes(0, 1))
        assert (off <= HALF * scale[part]).all(), f"off by {off.max()}, scales {scale[part].ravel()}"
        largest = np.abs(codes[part]).max(-1, keepdims=True)
        assert (largest == np.where(scale[part] == 0, 0, most)).all(), f"largest codes {largest.ravel()}"


@law("append_by_head")
def doubled_numbers_have_doubled_scales(append_by_head: Subject, draw: Draw) -> None:
    """If all numbers are doubled, their codes stay the same and their scales double."""
    call = draw(append_by_head.calls())
    cache = append_by_head(call)
    doubled = append_by_head(call.but(new=2 * call["new"], scale=2 * call["scale"]))
    append_by_head.near(doubled, cache._replace(scale=2 * cache.scale), call)


@law("append_by_channel")
def errors_are_half_a_scale_or_clipping(append_by_channel: Subject, draw: Draw) -> None:
    """A cache with scales per channel returns each number with an error of at most half a scale. For a
    number beyond the range, it returns the end of the range.
    """
    call = draw(append_by_channel.calls())
    call = call.but(scale=np.abs(call["scale"]))
    cache = append_by_channel(call)
    tokens, top = call["new"].shape[1], 2 ** (call["bits"] - 1)
    scale = call["scale"][:, None, :]
    for row, first in enumerate(call["start"]):
        new = call["new"][row].swapaxes(0, 1)
        read = by_channel(cache)[row, :, first : first + tokens]
        expected = np.clip(new, -top * scale, (top - 1) * scale)
        off = np.abs(read - expected)
        assert (off <= HALF * scale).all(), f"off by {off.max()}, scales {scale.ravel()}"


@law("round_by_channel")
def what_was_rounded_is_what_is_read(round_by_channel: Subject, draw: Draw) -> None:
    """`round_by_channel` equals writing to the cache and reading back. Rounding twice equals rounding
    once.
    """
    call = draw(round_by_channel.calls())
    x, rounded = call["x"], round_by_channel(call)
    empty = np.zeros((x.shape[0], x.shape[2], x.shape[1], x.shape[3]), np.int8)
    cache = ChannelQuantized(empty, call["scale"])
    cache = written(cache, x, np.zeros(len(x), np.int64), bits=call["bits"])
    round_by_channel.near(rounded, by_channel(cache).swapaxes(1, 2), call)
    round_by_channel.near(round_by_channel(call.but(x=rounded)), rounded, call)


@law("round_by_channel")
def rounding_errors_are_half_a_scale_within_the_range(round_by_channel: Subject, draw: Draw) -> None:
    """`round_by_channel` changes values within the range by at most half a scale. Values beyond the range
    become its end.
    """
    call = draw(round_by_channel.calls())
    scale, top = np.abs(call["scale"]), 2 ** (call["bits"] - 1)
    expected = np.clip(call["x"], -top * scale, (top - 1) * scale)
    off = np.abs(round_by_channel(call.but(scale=scale)) - expected)
    assert (off <= HALF * scale).all(), f"off by {off.max()}, scales {scale.ravel()}"


@law("hadamard")
def rotating_twice_is_not_rotating(hadamard: Subject, draw: Draw) -> None:
    """`hadamard` keeps lengths and angles, and a second call undoes the first."""
    call = draw(hadamard.calls())
    once = hadamard(call)
    hadamard.near(hadamard(call.but(x=once)), call["x"], call)
    flat = [a.reshape(-1, a.shape[-1]) for a in (once.astype(np.float64), call["x"].astype(np.float64))]
    hadamard.near(
        (flat[0] @ flat[0].T), (flat[1] @ flat[1].T), call, times=1 + np.abs(flat[1]).max(initial=0)
    )


@law("hadamard")
def one_large_number_becomes_equal_ones(hadamard: Subject, draw: Draw) -> None:
    """If a head has only one number that isn't zero, `hadamard` replaces all numbers of its block by that
    number / √(block size), up to signs.
    """
    call = draw(hadamard.calls())
    shape = call["x"].shape
    block, at = shape[-1] & -shape[-1], draw(st.integers(0, shape[-1] - 1))
    x = np.zeros(shape, call["x"].dtype)
    x[..., at] = 3
    first = at // block * block
    expected = np.zeros(shape)
    expected[..., first : first + block] = 3 / block**0.5
    hadamard.near(np.abs(hadamard(call.but(x=x))), expected, call)


@law("pack_nibbles")
def unpacking_undoes_packing(pack_nibbles: Subject, draw: Draw) -> None:
    """If codes from −8 to 7 are packed two per byte, unpacking returns the same codes."""
    call = draw(pack_nibbles.calls())
    codes = call["codes"] % 16 - 8
    pack_nibbles.near(unpack(pack_nibbles(codes)), codes)


@law("unpack_nibbles")
def packing_undoes_unpacking(unpack_nibbles: Subject, draw: Draw) -> None:
    """Every byte unpacks to two codes from −8 to 7, and packing them returns the same byte."""
    call = draw(unpack_nibbles.calls())
    codes = unpack_nibbles(call)
    assert ((codes >= -8) & (codes <= 7)).all(), f"codes from {codes.min()} to {codes.max()}"
    unpack_nibbles.near(pack(codes), call["packed"])


@law("read_by_head", "read_by_channel")
def reading_is_codes_times_scale(read: Subject, draw: Draw) -> None:
    """Reading a cache with doubled codes, or with doubled scales, gives doubled numbers. Codes of 0 give
    0.
    """
    call = draw(read.calls())
    read.near(read(call.but(codes=2 * call["codes"])), 2 * read(call))
    read.near(read(call.but(scale=2 * call["scale"])), 2 * read(call))
    read.near(read(call.but(codes=0 * call["codes"])), 0 * read(call))
