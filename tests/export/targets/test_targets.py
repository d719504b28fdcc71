"""The replacements of each target, against the specification over the same weights.

Symbolic operators give zeros in torch, so complete graphs are compared, each through the real export. The
expected logits come from the leaves of the bundle itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import tiny_models
from helpers.kept_blocks import natives
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config
from tfm.refimpl.engine.cache_kinds import cache_kinds, windows
from tfm.refimpl.laws.kit.budget import budgets, cast
from tfm.refimpl.laws.kit.results import largest
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.model import model
from tfm.refimpl.ops.position import Rotary
from tfm.refimpl.ops.position_tables import position_tables
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.ort.session import open_session, options

# Of one layer where two would be alike: a trace takes as long as it has layers.
BASE = tiny_models.llama(layers=1)
RICH = tiny_models.llama(layers=1, window=3, bias=True, qk_norm=True, tied=False)
(LAYER,) = RICH.layers
TURNED = replace(LAYER.attention.position, interleaved=True)
CAPPED = replace(LAYER.attention, position=TURNED, scale=0.3, softcap=2.0)
RICH = replace(RICH, stack=replace(RICH.stack, layers=(LAYER, replace(LAYER, attention=CAPPED))))
# A head size that the fused attention refuses, and sizes that are no multiple of a block.
SMALL = tiny_models.llama(layers=1, head_size=8, bias=True, window=3, width=40, mlp=72)
ADDED = tiny_models.added_positions()
MIXTURE = tiny_models.mixture()
SINKS = tiny_models.sinks()
RARE, RARER = tiny_models.rare(), tiny_models.rare(head_size=12)
PLAIN = tiny_models.llama(layers=1, plain=True, bias=True, kind="gelu", width=40)

pytestmark = pytest.mark.usefixtures("traced_once")


MERGED = natives(dict.fromkeys(("table", "wq", "wk", "wv", "wo", "gate", "up", "down"), (True, 4)))
MIXED = natives({"table": (False, 8), "wq": (True, 4), "wk": (False, 4), "gate": (True, 4), "up": (False, 8)})

# Where products round activations to codes, one code flipped by an ulp moves a logit by about 1/127 of
# one term of some fifty; where all is float16, by its ulps. As a share of the largest logit.
FLIPS, HALF = 1e-2, 1e-2

# Other weights, where those of seed 0 bring a code to within an ulp of a tie: one of a routed token's few
# terms flips there, and the whole row after it moves by more than `FLIPS` allows.
SEEDS = {"ort-cpu int4, mixture": 1}

CASES: dict[str, tuple[str, str, Config, Any, float | None]] = {
    "ort-cpu float": ("ort-cpu", "fp32", BASE, None, None),
    "ort-cpu float, all options": ("ort-cpu", "fp32", RICH, None, None),
    "ort-cpu float, attention in parts": ("ort-cpu", "fp32", SMALL, None, None),
    "ort-cpu float, positions that are added": ("ort-cpu", "fp32", ADDED, None, None),
    "ort-cpu int8, mixture": ("ort-cpu", "int8", MIXTURE, None, FLIPS),
    "ort-cpu int4, mixture": ("ort-cpu", "int4", MIXTURE, None, FLIPS),
    "ort-cpu int8-dynamic, mixture": ("ort-cpu", "int8-dynamic", MIXTURE, None, FLIPS),
    "ort-cpu float, sinks": ("ort-cpu", "fp32", SINKS, None, None),
    "ort-cpu float, sinks in parts": ("ort-cpu", "fp32", tiny_models.sinks(head_size=12), None, None),
    "ort-cpu int8": ("ort-cpu", "int8", BASE, None, FLIPS),
    "ort-cpu int4, short blocks": ("ort-cpu", "int4", SMALL, None, FLIPS),
    "ort-cpu int8-dynamic": ("ort-cpu", "int8-dynamic", PLAIN, None, FLIPS),
    "ort-cpu keep": ("ort-cpu", "keep", BASE, MERGED, FLIPS),
    "ort-cpu keep, mixed": ("ort-cpu", "keep", BASE, MIXED, FLIPS),
    "ort-cpu keep, mixture": ("ort-cpu", "keep", MIXTURE, MERGED, FLIPS),
    "ort-cpu float, rare words": ("ort-cpu", "fp32", RARE, None, None),
    "ort-cpu int8, rare words in parts": ("ort-cpu", "int8", RARER, None, FLIPS),
    "standard fp16, rare words": ("standard", "fp16", RARE, None, HALF),
    "standard fp16": ("standard", "fp16", RICH, None, HALF),
    "standard int8, positions that are added": ("standard", "int8", ADDED, None, None),
    "standard fp16, mixture": ("standard", "fp16", MIXTURE, None, HALF),
    "standard int8, mixture": ("standard", "int8", MIXTURE, None, None),
    "standard int8-dynamic, mixture": ("standard", "int8-dynamic", MIXTURE, None, FLIPS),
    "standard fp16, sinks": ("standard", "fp16", SINKS, None, HALF),
    "standard int8": ("standard", "int8", PLAIN, None, None),
    "standard int4, short blocks": ("standard", "int4", SMALL, None, None),
    "standard int8-dynamic": ("standard", "int8-dynamic", BASE, None, FLIPS),
    "standard keep, mixed": ("standard", "keep", BASE, MIXED, None),
    "standard keep, mixture": ("standard", "keep", MIXTURE, MERGED, None),
    "standard int8-dynamic, own blocks": ("standard", "int8-dynamic", BASE, MIXED, FLIPS),
    "ort-web int8-dynamic": ("ort-web", "int8-dynamic", BASE, None, FLIPS),
    "ort-web int8-dynamic, a table of its own": ("ort-web", "int8-dynamic", PLAIN, None, FLIPS),
}


def inputs(config: Config, seed: int, past: list[int], time: int) -> dict[str, Any]:
    """Arguments of `model` but the tree; the capacity is more than what is needed."""
    rng, rows = np.random.default_rng(seed), max(past) + time + 2
    tables = position_tables(np.arange(rows), config=config)
    b = len(past)
    shapes = [(b, layer.attention.kv_heads, rows, layer.attention.head_size) for layer in config.layers]
    floats = lambda *s: rng.standard_normal(s).astype(np.float32)  # noqa: E731
    return {
        "tokens": rng.integers(0, config.embedding.vocabulary, (b, time)),
        "past": np.array(past),
        "at": np.stack([np.arange(time)] * b),
        "rotary": {rope: Rotary(*(a.astype(np.float32) for a in pair)) for rope, pair in tables.items()},
        "cache": [KVCache(floats(*s), floats(*s)) for s in shapes],
    }


def fed(arguments: dict[str, Any], dtype: str, sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The graph's inputs by name."""
    named = {n: arguments[n] for n in ("tokens", "past", "at")}
    named |= {f"window_length.{size}": arguments["past"] for size in sizes}
    for i, (cos, sin) in enumerate(arguments["rotary"].values()):
        named |= {f"cos.{i}": cos.astype(dtype), f"sin.{i}": sin.astype(dtype)}
    for i, (k, v, *_) in enumerate(arguments["cache"]):
        named |= {f"k.{i}": k.astype(dtype), f"v.{i}": v.astype(dtype)}
    return named


def single(bundle: Bundle) -> Any:
    return map_leaves(lambda _, leaf: cast(leaf, np.float32), bundle.params())


# Run in CI alone, as most of the standard target's.
RARELY = {
    "ort-cpu float, attention in parts",
    "ort-cpu keep",
    "ort-cpu float, rare words",
    "ort-cpu float, sinks in parts",
    "ort-cpu int4, mixture",
    "ort-cpu int8-dynamic, mixture",
    "ort-cpu float, positions that are added",
    "ort-cpu int8, rare words in parts",
    "ort-web int8-dynamic, a table of its own",
}
# Of the standard target these run by default, the others in CI.
USUAL = {"standard int8"}


def marked(case: str) -> Any:
    rare = case in RARELY or (case.startswith("standard") and case not in USUAL)
    return pytest.param(case, marks=pytest.mark.long if rare else ())


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_a_target_computes_the_spec(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Prompts, a chunk on a past, single tokens on different pasts: logits and the new cache rows."""
    target, quant, config, native, share = CASES[case]
    save_checkpoint(tmp_path / "source", config, tiny_models.weights(config, SEEDS.get(case, 0)))
    checkpoint = open_checkpoint(tmp_path / "source")
    if native is not None:
        monkeypatch.setattr(type(checkpoint.leaves), "native", native)
    export(checkpoint, tmp_path / "out", target=target, quant=quant, verify=False)
    bundle = open_bundle(tmp_path / "out")
    tree, dtype = single(bundle), bundle.manifest.dtype
    session = open_session(tmp_path / "out" / "model.onnx", "cpu", options(1, products=bundle.products))
    names = [o.name for o in session.get_outputs()]
    sizes = windows(cache_kinds(config, windowed=True)) if bundle.cache == "windowed" else ()
    for seed, (past, time) in enumerate((([0, 0], 5), ([4], 3), ([0], 1), ([6, 1, 3], 1))):
        arguments = inputs(config, seed, past, time)
        got = dict(zip(names, session.run(None, fed(arguments, dtype, sizes)), strict=True))

        def run(change: Any, arguments: dict[str, Any] = arguments) -> Any:
            return model(*(change(a) for a in arguments.values()), change(tree), config=config)

        allowed = budgets(run)
        logits, cache = run(lambda a: cast(a, np.float64))
        close(f"{case}: logits", got["logits"], logits, allowed["out.0"], share)
        for i, layer in enumerate(cache):
            for j, (name, expected) in enumerate(zip("kv", layer[:2], strict=True)):
                for row, length in enumerate(past):
                    new = np.s_[row, :, length : length + time]
                    new_rows = np.asarray(got[f"{name}_out.{i}"])[new]
                    close(f"{case}: {name}.{i}", new_rows, expected[new], allowed[f"out.1.{i}.{j}"], share)


def close(label: str, got: np.ndarray, expected: np.ndarray, budget: float, share: float | None) -> None:
    """Within the computed budget, or a share of the largest number where codes or halves are rounded."""
    allowed = budget + 1e-6 if share is None else max(budget, share * largest(expected))
    error = largest(got.astype(np.float64) - expected)
    assert error <= allowed, f"{label}: off by {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("target", ["ort-cpu", "standard"])
def test_equal_weights_are_stored_separately(target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Norms of ones, biases of zeros: the optimizer would make one initializer of them all."""
    config = tiny_models.llama(bias=True, layers=1)
    ones = map_leaves(lambda _, a: np.ones_like(a) if a.ndim == 1 else a, tiny_models.weights(config))
    save_checkpoint(tmp_path / "source", config, ones)
    checkpoint = open_checkpoint(tmp_path / "source")
    export(checkpoint, tmp_path / "out", target=target, quant="fp32", verify=False)
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    stored = set(open_bundle(tmp_path / "out").manifest.tensors)
    assert stored <= {i.name for i in model.graph.initializer}
    assert capfd.readouterr().err == ""
