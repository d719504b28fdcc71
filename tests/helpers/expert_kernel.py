"""Products of the rows of a mixture by ctypes, and random ones with what the specification says of them."""

from __future__ import annotations

import ctypes as c
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray as Array
from tfm.runtime.kernels.probe_program import BlockMatrix

from .kernel_cases import VALUES, Case, table
from .kernels import FORMS, GUARD, LOOKED_UP, Kernels, Packed, Runner, guarded, in_order, pool_of, swiglu


class ExpertCall(c.Structure):
    """kernels.h: `ExpertCall`."""

    _fields_ = (
        *((name, c.c_void_p) for name in ("experts", "biases", "starts", "order", "x", "shares", "y")),
        ("tokens", c.c_size_t),
        ("count", c.c_int32),
        ("choices", c.c_int32),
        ("apart", c.c_bool),
    )


@dataclass(frozen=True, eq=False)
class ExpertCase:
    """Experts [N, K], the rows [M, K] or [M, I, K] that go to them, and which of them each goes to [M, I]."""

    experts: list[Case]  # each with rows of its own, which aren't read
    x: Array
    index: Array
    shares: Array | None
    gates: bool = False

    @property
    def by_expert(self) -> tuple[Array, Array]:
        """Where each expert's choices start, and the choices."""
        flat = self.index.reshape(-1)
        starts = np.concatenate([[0], np.cumsum(np.bincount(flat, minlength=len(self.experts)))])
        return starts, np.argsort(flat, kind="stable")

    def packed(self) -> list[Packed]:
        return [replace(one.packed(), swiglu=self.gates) for one in self.experts]

    def expected(self, kernels: Kernels | None = None) -> Array:
        """By the specification's products, and the kernel of gates, where there are any."""
        M, choices = self.index.shape
        K, N = self.experts[0].w.shape[1], self.experts[0].w.shape[0] // (1 + self.gates)
        rows = np.broadcast_to(self.x[:, None] if self.x.ndim == 2 else self.x, (M, choices, K))
        z = np.zeros((M, choices, N), np.float32)
        for e, expert in enumerate(self.experts):
            here = self.index == e
            y = replace(expert, x=np.ascontiguousarray(rows[here])).expected()
            if self.gates:
                assert kernels is not None
                y = swiglu(kernels, np.ascontiguousarray(y))
            z[here] = y
        if self.shares is None:
            return z
        y = np.zeros((M, N), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for e in range(len(self.experts)):
                token, choice = np.nonzero(self.index == e)
                np.add.at(y, token, self.shares[token, choice, None] * z[token, choice])
        return y


def random_expert_case(seed: int) -> ExpertCase:
    """Of a few experts of any size, some of which aren't chosen, some twice by one token."""
    rng = np.random.default_rng(seed)
    block, bits = int(rng.choice([16, 32, 64, 128])), int(rng.choice(FORMS))
    count, choices, M, N, K = (int(n) for n in rng.integers((1, 1, 0, 1, 1), (7, 4, 24, 50, 3 * block)))
    kind, gates = seed % 3, seed % 4 == 3
    if gates:
        N = -(-N // 32) * 32
    if coded := rng.random() < 0.3:
        K = -(-K // 256) * 256
    zero, minimum, biased = rng.random() < 0.5, seed % 5 in (1, 2), rng.random() < 0.5
    experts = []
    for _ in range(count):
        bias = rng.standard_normal(N).astype(np.float32) if biased else None
        w = table(rng, N, K, bits=bits, block=block, zero=zero, minimum=minimum)
        one = Case(w, np.zeros((0, K), np.float32), bias)
        one = one.of_type("codes" if coded else str(rng.choice(["float32", "float16"])), rng)
        experts.append(one.looked_up(rng) if bits == LOOKED_UP else one)
    apart = seed % 2 == 1
    x = VALUES[kind](rng, M * (choices if apart else 1), K).astype(np.float32)
    shares = rng.standard_normal((M, choices)).astype(np.float32) if rng.random() < 0.6 else None
    rows = x.reshape(M, choices, K) if apart else x
    return ExpertCase(experts, rows, rng.integers(0, count, (M, choices)), shares, gates)


def experts(kernels: Kernels, case: ExpertCase, runner: Runner = in_order) -> Array:
    """Products [M, I, N], or their sums [M, N]; nothing is written beside them and the scratch memory."""
    packed = case.packed()
    matrices = (BlockMatrix * len(packed))()
    starts, order = case.by_expert
    biases = (c.c_void_p * len(packed))()
    for e, one in enumerate(packed):
        bias = case.experts[e].bias
        if starts[e] < starts[e + 1]:
            matrices[e], biases[e] = one.matrix, None if bias is None else bias.ctypes.data
    M, choices = case.index.shape
    width = case.experts[0].w.shape[0] // (1 + case.gates)
    shape = (M, choices, width) if case.shares is None else (M, width)
    size = int(np.prod(shape)) * 4
    y = guarded(size)
    x, shares = np.ascontiguousarray(case.x), case.shares
    call = ExpertCall(
        c.addressof(matrices), c.addressof(biases), starts.ctypes.data, order.ctypes.data, x.ctypes.data,
        None if shares is None else shares.ctypes.data, y.ctypes.data, M, len(packed), choices, x.ndim == 3,
    )  # fmt: skip
    needed = kernels.experts_scratch(c.addressof(call))
    scratch = guarded(needed)
    kernels.experts(c.addressof(call), scratch.ctypes.data, pool_of(runner))
    assert (scratch[needed:] == GUARD).all(), "written behind the scratch memory"
    assert (y[size:] == GUARD).all(), "written behind the output"
    return y[:size].view(np.float32).reshape(shape)
