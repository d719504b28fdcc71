"""Any engine beside the specification: whatever is done to a cache, logits and lengths stay the same.

A step's budget is that of refimpl/error_budget.py, and as a cache carries errors on, its terms only grow
within a run. Where activations or a cache are quantized, a code at the edge of two integers may fall to
either side; a few such codes move a result less than all roundings together, which is what the spec itself
moves by when they stay in floating point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
import numpy as np
import pytest
from helpers import tiny_models
from helpers.exported import export_once
from helpers.refused import refused
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.checkpoint.open import materialize
from tfm.refimpl.config import Config, Decoder
from tfm.refimpl.engine import cache_kinds
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import TRIES, error_terms, largest_difference
from tfm.refimpl.errors import LimitError, TfmError
from tfm.refimpl.laws.kit.budget import cast, map_floats
from tfm.refimpl.ops import cache_kind
from tfm.refimpl.ops.quant import Blocks
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.bundle.bundle import Bundle
from tfm.runtime.ort import engine as runtime

CONFIGS = {
    "full": tiny_models.llama(context=40),
    "window": tiny_models.llama(context=40, window=5, heads=4, kv_heads=4, tied=False, bias=True),
    "mixed": tiny_models.mixed_windows(context=60),
    "added": tiny_models.added_positions(context=40),
    "recurrent": tiny_models.four_in_one(context=40),
    "convolutions": tiny_models.convolutions(context=40),
    "gated deltas": tiny_models.gated_deltas(context=40),
    "latents": tiny_models.latents(context=40),
    "state spaces": tiny_models.state_spaces(context=40),
    "pair": replace(tiny_models.encoder_decoder(), context=40),
    "reader": tiny_models.rotary_encoder_decoder(context=40),
    "codes": tiny_models.mixed_windows(context=60).with_kv("int8"),
    "heads by layer": tiny_models.heads_by_layer(context=40),
    "selective scans": tiny_models.selective_scans(context=40),
    "shared": tiny_models.shared_kv(context=60),
    "indexed": tiny_models.indexed(context=40),
    "indexed blocks": tiny_models.indexed_blocks(context=40),
    "channels that decay": tiny_models.kimi(context=40),
}
LONGEST = 9  # of an encoder's text


@dataclass(frozen=True)
class World:
    """The engine under test, and the specification: in float64, in the engine's type, moved by its ulp."""

    config: Config
    engine: Any
    exact: NumpyEngine
    typed: NumpyEngine
    moved: tuple[NumpyEngine, ...]
    unrounded: NumpyEngine | None
    ulp: float


def world(config: Config, engine: Any, params: Any, dtype: str = "float32") -> World:
    rng = np.random.default_rng(0)

    def moved(a: np.ndarray) -> np.ndarray:
        towards = np.where(rng.random(a.shape) < 0.5, np.inf, -np.inf).astype(dtype)
        return np.nextafter(a.astype(dtype), towards).astype(np.float64)

    def plain(leaf: Any) -> Any:
        return replace(leaf, activations="none") if isinstance(leaf, Blocks) else leaf

    leaves = dict(flatten(params))

    def spec(change: Callable[[Any], Any], config: Config = config) -> NumpyEngine:
        return NumpyEngine(
            config, unflatten({name: change(leaves[name]) for name in parameter_shapes(config)})
        )

    blocks = [leaf for leaf in leaves.values() if isinstance(leaf, Blocks)]
    rounds = config.rounds_cache or any(leaf.activations != "none" for leaf in blocks)
    floats = config.with_kv("float")
    return World(
        config,
        engine,
        exact=spec(lambda leaf: cast(leaf, np.float64)),
        typed=spec(lambda leaf: cast(leaf, dtype)),
        moved=tuple(spec(lambda leaf: map_floats(leaf, moved)) for _ in range(TRIES)),
        unrounded=spec(lambda leaf: plain(cast(leaf, np.float64)), floats) if rounds else None,
        ulp=float(np.finfo(dtype).eps),
    )


class Machine(RuleBasedStateMachine):
    """All engines of a world do the same; after each step their logits are compared."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.engines = [world.engine, world.exact, world.typed, *world.moved]
        self.engines += [world.unrounded] if world.unrounded is not None else []
        self.lengths = self.written = np.zeros(0, np.int64)
        self.budget = self.rounding = 0.0
        self.kept: tuple[np.ndarray, np.ndarray] | None = None

    @initialize(batch=st.integers(1, 3), seed=st.integers(0, 2**16))
    def begin(self, batch: int, seed: int) -> None:
        rng, config = np.random.default_rng(seed), self.world.config
        read: tuple[np.ndarray, ...] = ()
        if not isinstance(config, Decoder):
            text = rng.integers(0, config.embedding.vocabulary, (batch, rng.integers(1, LONGEST + 1)))
            read = text, rng.integers(0, text.shape[1] + 1, batch)
        self.caches = [engine.start(batch, *read) for engine in self.engines]
        self.lengths = self.written = np.zeros(batch, np.int64)

    @precondition(lambda self: len(self.lengths) and self.lengths.min() < self.world.config.context)
    @rule(
        data=st.data(),
        t=st.integers(1, 12),
        seed=st.integers(0, 2**16),
        ragged=st.booleans(),
        last=st.booleans(),
    )
    def step(self, data: st.DataObject, t: int, seed: int, ragged: bool, last: bool) -> None:
        rng = np.random.default_rng(seed)
        free = np.minimum(t, self.world.config.context - self.lengths)
        lengths = rng.integers(0, free + 1) if ragged else free
        tokens = rng.integers(0, self.world.config.embedding.vocabulary, (len(lengths), t))
        wanted = 1 if last else data.draw(st.integers(1, 4), label="wanted")
        at = None if last else rng.integers(0, np.maximum(lengths, 1)[:, None], (len(lengths), wanted))
        self.read(tokens, lengths, at)

    @precondition(lambda self: len(self.lengths) and self.lengths.max() + 2 <= self.world.config.context)
    @rule(seed=st.integers(0, 2**16))
    def decode(self, seed: int) -> None:
        """One token a row and then another: engines have a way of their own to do so."""
        rng, rows = np.random.default_rng(seed), len(self.lengths)
        for tokens in rng.integers(0, self.world.config.embedding.vocabulary, (2, rows, 1)):
            self.read(tokens, np.ones(rows, np.int64), None)

    def read(self, tokens: np.ndarray, lengths: np.ndarray, at: np.ndarray | None) -> None:
        dead, given = self.caches[0], None if (lengths == tokens.shape[1]).all() else lengths
        results = [e.step(tokens, c, given, at) for e, c in zip(self.engines, self.caches, strict=True)]
        self.caches = [made for _, made in results]
        self.lengths = self.lengths + lengths
        self.written = np.maximum(self.written, self.lengths)
        self.compare([logits[lengths > 0] for logits, _ in results])
        if self.kept is not None:
            assert np.array_equal(*self.kept), "a step changed the logits that an earlier one gave"
        self.kept = results[0][0], results[0][0].copy()
        with refused(TfmError, "cache", "used"):
            dead.truncate(dead.lengths)

    def compare(self, logits: list[np.ndarray]) -> None:
        got, exact, typed, *others = logits
        moved, unrounded = others[:TRIES], others[TRIES:]
        self.budget = max(self.budget, error_terms(exact, typed, moved, eps=self.world.ulp).budget)
        self.rounding = max([self.rounding, *(largest_difference(other, exact) for other in unrounded)])
        assert got.shape == exact.shape, f"logits have shape {got.shape}, expected {exact.shape}"
        error = largest_difference(got, exact)
        budget = self.budget + self.rounding
        assert error <= budget, (
            f"at lengths {self.lengths} logits are off by {error:.3g}, budget {budget:.3g}"
        )

    @precondition(lambda self: len(self.lengths))
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        lengths = np.array([data.draw(st.integers(0, int(n)), label="length") for n in self.lengths])
        tested, *others = self.caches
        lost = (lengths > 0) & (lengths < tested.floor)
        if lost.any():
            row = int(np.flatnonzero(lost)[0])
            words = (
                f"row {row} can be cut to {tested.floor[row]} tokens or more, or to none, got {lengths[row]}:"
            )
            with refused(LimitError, *words.split()):
                tested.truncate(lengths)
            lengths = np.where(lost, tested.floor, lengths)
        self.lengths, self.written = lengths, np.where(lengths > 0, self.written, 0)
        self.caches = [made.truncate(lengths) for made in (tested, *others)]

    @precondition(lambda self: len(self.lengths))
    @rule(data=st.data())
    def select(self, data: st.DataObject) -> None:
        number = st.integers(0, len(self.lengths) - 1)
        self.take(np.array(data.draw(st.lists(number, min_size=1, max_size=4), label="rows")))

    @precondition(lambda self: len(self.lengths) > 1)
    @rule(data=st.data())
    def rearrange(self, data: st.DataObject) -> None:
        """As many rows as before, which is another way through the engine."""
        self.take(np.array(data.draw(st.permutations(range(len(self.lengths))), label="rows")))

    def take(self, rows: np.ndarray) -> None:
        self.caches = [made.select(rows) for made in self.caches]
        self.lengths, self.written = self.lengths[rows], self.written[rows]

    @precondition(lambda self: len(self.lengths))
    @rule(data=st.data())
    def put(self, data: st.DataObject) -> None:
        """A row becomes the beginning of a copy of one, twice: the copy stays what it is."""
        number = st.integers(0, len(self.lengths) - 1)
        source = data.draw(number, label="source")
        copies = [made.copy(source) for made in self.caches]
        held, written = int(self.lengths[source]), self.written[source]
        for _ in range(2):
            row = data.draw(number, label="row")
            length, least = data.draw(st.integers(0, held), label="length"), copies[0].floor[0]
            if 0 < length < least:
                with refused(LimitError, "cut"):
                    self.caches[0].put(row, copies[0], length)
                length = int(least)
            pairs = zip(self.caches, copies, strict=True)
            self.caches = [made.put(row, copied, length) for made, copied in pairs]
            self.lengths, self.written = self.lengths.copy(), self.written.copy()
            self.lengths[row], self.written[row] = length, written if length else 0
        assert [copied.lengths.tolist() for copied in copies] == [[held]] * len(copies)

    @precondition(lambda self: len(self.lengths))
    @rule()
    def overflow(self) -> None:
        """What doesn't fit is refused before anything is touched."""
        t = self.world.config.context - int(self.lengths.max()) + 1
        with refused(LimitError, "context"):
            self.world.engine.step(np.zeros((len(self.lengths), t), np.int64), self.caches[0])

    @invariant()
    def same_lengths(self) -> None:
        for made in self.caches if len(self.lengths) else ():
            assert np.array_equal(made.lengths, self.lengths), f"{made.lengths}, expected {self.lengths}"
            assert made.capacity >= self.lengths.max()

    @invariant()
    def cuts_as_specified(self) -> None:
        """Tokens that the slack has room for can be cut off again; of a state none."""
        kinds = cache_kinds.cache_kinds(self.world.config, windowed=True)
        if cache_kinds.recurrent(kinds):
            assert not len(self.lengths) or np.array_equal(self.caches[0].floor, self.lengths)
        elif len(self.lengths):
            kept = [cache_kind.retained(size) for size in cache_kinds.windows(kinds)]
            full = self.written > min(kept, default=np.inf)
            assert (self.caches[0].floor <= np.where(full, self.written - cache_kind.SLACK, 0)).all()


def drive(made: World, examples: int) -> None:
    settings = hypothesis.settings(max_examples=examples, stateful_step_count=20)
    run_state_machine_as_test(lambda: Machine(made), settings=settings)


@pytest.mark.parametrize(
    "name",  # mixed windows and codes are kept like "window" there
    [
        pytest.param(name, marks=() if name in ("window", "recurrent", "reader") else pytest.mark.long)
        for name in sorted(CONFIGS.keys() - {"mixed", "codes"})
    ],
)
def test_torch_engine(name: str) -> None:
    params = tiny_models.weights(CONFIGS[name], seed=1)
    drive(world(CONFIGS[name], TorchEngine(CONFIGS[name], params), params), 6)


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches that are outgrown at once, buffers of windows that are full soon."""
    monkeypatch.setattr(runtime, "FIRST_CAPACITY", 3)
    monkeypatch.setattr(cache_kind, "SLACK", 2)
    monkeypatch.setattr(cache_kind, "CHUNK", 4)
    monkeypatch.setattr(runtime, "CHUNK", 4)  # the engine has its own name for it


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Bundle]:
    return export_once(tmp_path_factory.mktemp("machine"), CONFIGS, seed=1)


# Quantization of weights doesn't touch the cache: each kind of cache is driven with one or two.
CELLS = [
    ("full", "ort-cpu", "int8"),
    ("mixed", "ort-cpu", "fp32"),
    ("recurrent", "ort-cpu", "int8"),
]
# Cells that run in CI alone.
RARE = [
    ("full", "standard", "fp32"),
    ("window", "ort-cpu", "fp32"),
    ("codes", "ort-cpu", "fp32"),
    ("added", "ort-cpu", "fp32"),
    ("full", "standard", "fp16"),
    ("window", "standard", "fp32"),
    ("pair", "ort-cpu", "fp32"),
    ("reader", "standard", "int8"),
    ("recurrent", "standard", "fp32"),
    ("gated deltas", "ort-cpu", "int8"),
    ("gated deltas", "standard", "fp32"),
    # How each target keeps a cache is driven by those above; of the other mixers each is driven on one.
    *((name, "ort-cpu", "fp32") for name in ("convolutions", "heads by layer", "indexed", "indexed blocks")),
    *((name, "standard", "int8") for name in ("latents", "state spaces", "shared")),
]
CUDA = [
    ("ort-cuda", "fp16"),
    ("ort-cuda", "int8"),
    ("ort-cuda", "int4"),
    ("standard", "fp32"),
    ("standard", "fp16"),
]


def run(bundle: Any, device: str, examples: int = 12) -> None:
    # Linear attention reads more tokens than a chunk in several runs, each from the cache of the one before.
    recurrent = cache_kinds.recurrent(cache_kinds.cache_kinds(bundle.config))
    engine = runtime.OrtEngine(bundle, device, threads=1, chunk=4 if recurrent else None)
    # The specification of a recurrence takes a step a token, so there are fewer runs.
    made = world(bundle.config, engine, materialize(bundle.params()), bundle.dtype)
    drive(made, examples // 2 if recurrent else examples)


@pytest.mark.parametrize(
    ("name", "target", "quant", "examples"),
    [*((*cell, 12) for cell in CELLS), *(pytest.param(*cell, 6, marks=pytest.mark.long) for cell in RARE)],
)
def test_ort_engine(
    small_caches: None, bundles: Any, name: str, target: str, quant: str, examples: int
) -> None:
    run(bundles(name, target, quant), "cpu", examples)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name",
    sorted(
        CONFIGS.keys()
        - {
            "codes",
            "recurrent",
            "gated deltas",
            "state spaces",
            "selective scans",
            "indexed",
            "indexed blocks",
        }
    ),
)
@pytest.mark.parametrize(("target", "quant"), CUDA)
def test_ort_engine_on_cuda(small_caches: None, bundles: Any, name: str, target: str, quant: str) -> None:
    run(bundles(name, target, quant), "cuda")


@pytest.mark.long
@pytest.mark.parametrize(("name", "quant"), [("mixed", "fp16"), ("full", "int4"), ("convolutions", "fp16")])
def test_a_graph_for_cuda_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, small_caches: None, bundles: Any, name: str, quant: str
) -> None:
    """Its operators have slower kernels there, which compute the same: how it is fed needs no GPU."""
    monkeypatch.setattr(runtime, "choose", lambda *_: "cpu")
    run(bundles(name, "ort-cuda", quant), "cpu", 6)
