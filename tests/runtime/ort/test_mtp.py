"""A module for drafts in a bundle: the specification's, on each path, and drafts that change no text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.modules import cycle, cycling
from helpers.refused import refused
from tfm import runtime
from tfm.export.bundle_writer import export
from tfm.export.layouts.convert import convert
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Decoder
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import largest_difference
from tfm.refimpl.errors import ConfigError, ExportError, LimitError
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.graph_io import MTP, graphs
from tfm.runtime.ort import kernel_backend
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.ort.kernel_backend import KernelBackend
from tfm.runtime.tasks import Model
from tfm.runtime.verification import golden
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.mtp import check_module
from tfm.runtime.verification.checks.table import CHECKS

LENGTH = 300  # more than two runs of a recurrence
CONFIGS: dict[str, Callable[[], tuple[Decoder, Any]]] = {
    **{
        name: (lambda make=make: (config := make(), tiny_models.weights(config, seed=2)))
        for name, make in tiny_models.MODULES.items()
    },
    "cycling": cycling,
    "long deltas": lambda: (
        config := tiny_models.with_module(tiny_models.gated_deltas(LENGTH)),
        tiny_models.weights(config, seed=2),
    ),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The bundle of a config, made once."""
    folder = tmp_path_factory.mktemp("mtp")

    def made(name: str, quant: str = "int8", target: str = "ort-cpu") -> Path:
        path = folder / f"{name} {quant} {target}"
        if not path.exists():
            config, weights = CONFIGS[name]()
            save_checkpoint(folder / name, config, weights)
            checkpoint = open_checkpoint(folder / name, mtp=True)
            export(checkpoint, path, quant=quant, target=target, verify=False)
        return path

    return made


@pytest.mark.parametrize(
    ("name", "quant", "target"),
    [
        ("attention", "int8", "ort-cpu"),
        pytest.param("deltas", "int4", "ort-cpu", marks=pytest.mark.long),
        pytest.param("experts", "int8", "ort-cpu", marks=pytest.mark.long),
        pytest.param("apart", "int8-dynamic", "ort-cpu", marks=pytest.mark.long),
        pytest.param("apart", "fp32", "standard", marks=pytest.mark.long),
        pytest.param("latents", "int4", "ort-cpu", marks=pytest.mark.long),
    ],
)
def test_a_module_is_the_specifications(bundles: Callable[..., Path], name: str, quant: str, target: str):
    """Of the vectors that the graph gives, pairs in any chunks; a step of the model is as without it."""
    path = bundles(name, quant, target)
    bundle = open_bundle(path)
    specification = NumpyEngine(bundle.config, bundle.params())
    stored = golden.load(bundle)
    ids = np.random.default_rng(0).integers(0, bundle.config.embedding.vocabulary, (1, 12))
    engines = [OrtEngine(bundle)]
    kernels = kernel_backend.choose(bundle)
    if isinstance(kernels, KernelBackend):
        engines.append(OrtEngine(bundle, kernels=kernels))
    for engine in engines:
        allowed = stored.own.budget
        if bundle.manifest.halved and engine is not engines[0]:
            allowed += float(np.load(path / "golden" / "half.npy")[0])
        at = np.arange(12)[None]
        logits, hidden, _ = engine.step_with_hidden(ids, engine.start(1), at)
        same, cache = engine.step(ids[:, :5], engine.start(1), at=at[:, :5])
        rest, vectors, cache = engine.step_with_hidden(ids[:, 5:], cache, at[:, :-5])
        assert largest_difference(np.concatenate([same, rest], 1), logits) <= allowed
        assert largest_difference(vectors, hidden[:, 5:]) <= allowed
        pairs, before = ids[:, 1:], hidden[:, :-1]
        expected, own, _ = specification.step_mtp(pairs, before, specification.start_mtp())
        for sizes in ([11], [3, 1, 7], [1] * 11):
            cache, parts, begin, last = engine.start_mtp(), [], 0, None
            for size in sizes:
                end = begin + size
                last, part, cache = engine.step_mtp(pairs[:, begin:end], before[:, begin:end], cache)
                parts.append(part)
                begin = end
            assert largest_difference(np.concatenate(parts, 1), own) <= allowed
            assert largest_difference(last, expected) <= allowed
            assert cache.lengths.tolist() == [11]


def test_verify_holds_the_module(bundles: Callable[..., Path]):
    """The check compares the graph's module with the specification's over the bundle's weights."""
    opened = open_bundle(bundles("attention"))
    context = VerifyContext(opened, None, None, math.inf, "cpu", 1)
    assert [row.ok for row in check_module(context)] == [True, True]

    class Other(OrtEngine):
        def step_mtp(self, tokens: np.ndarray, hidden: np.ndarray, cache: Any) -> Any:
            return super().step_mtp(tokens, -hidden, cache)

    context.engine = Other(opened)
    assert [row.ok for row in check_module(context)] == [False, False]
    assert CHECKS["mtp"].applies(opened)


@pytest.mark.long
def test_a_long_prompt_is_read_in_runs(bundles: Callable[..., Path]):
    """Where an engine reads a step in several runs, the vectors are those of all of them, and rows read apart
    have theirs."""
    bundle = open_bundle(bundles("long deltas", "fp32"))
    engine, specification = OrtEngine(bundle), NumpyEngine(bundle.config, bundle.params())
    ids = np.random.default_rng(1).integers(0, 97, (1, 290))
    _, hidden, _ = engine.step_with_hidden(ids, engine.start(1))
    _, expected, _ = specification.step_with_hidden(ids, specification.start(1))
    np.testing.assert_allclose(hidden, expected, atol=1e-3)
    logits, _, _ = engine.step_mtp(ids[:, 1:], hidden[:, :-1], engine.start_mtp())
    drafted, _, _ = specification.step_mtp(ids[:, 1:], hidden[:, :-1], specification.start_mtp())
    np.testing.assert_allclose(logits, drafted, atol=1e-3)
    rows = np.concatenate([ids, ids[:, ::-1]])[:, :9]
    both, _ = engine.step(rows, engine.start(2), lengths=np.array([9, 4]))
    wanted, _ = specification.step(rows, specification.start(2), lengths=np.array([9, 4]))
    np.testing.assert_allclose(both, wanted, atol=1e-3)


def texts(model: Model, draft: Any, prompt: list[int]) -> list[list[int]]:
    return [
        model.generate_ids(prompt, max_new_tokens=24, draft=draft, **options)
        for options in ({"greedy": True}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.3, "seed": 4})
    ]


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("attention", "int8"),
        pytest.param("deltas", "int4", marks=pytest.mark.long),
        ("cycling", "int8"),
        pytest.param("latents", "fp32", marks=pytest.mark.long),
    ],
)
def test_texts_are_those_without_drafts(bundles: Callable[..., Path], name: str, quant: str):
    """Greedy and sampled, on the path that a bundle takes by itself; a module that is right has its drafts
    accepted."""
    model = runtime.load(bundles(name, quant))
    drafter, prompt = model.mtp_drafter(), [3, 10, 17, 24]
    assert texts(model, drafter, prompt) == texts(model, False, prompt)
    assert drafter.proposed > 0
    if name == "cycling":
        assert texts(model, drafter, prompt)[0][:3] == [cycle(24), cycle(cycle(24)), cycle(cycle(cycle(24)))]
        assert drafter.accepted > 0.9 * drafter.proposed


def test_what_has_no_module_says_so(bundles: Callable[..., Path], tmp_path: Path):
    """A bundle without one, another model's drafter, targets and layouts that have no place for it."""
    model = runtime.load(bundles("attention"))
    other = runtime.load(bundles("cycling"))
    with refused(LimitError, "drafter", "own", "model"):
        other.generate_ids([1, 2], draft=model.mtp_drafter(), max_new_tokens=3)
    config, weights = CONFIGS["attention"]()
    save_checkpoint(tmp_path / "m", config, weights)
    plain = open_checkpoint(tmp_path / "m")
    assert plain.config == replace(config, mtp=None)
    assert plain.left_out.keys() == {"mtp"}
    assert {graph.file for graph in graphs(config)} - {graph.file for graph in graphs(plain.config)} == {MTP}
    assert set(parameter_shapes(config)) - set(parameter_shapes(plain.config)) == {
        name for name in parameter_shapes(config) if name.startswith("mtp.")
    }
    with refused(ConfigError, "multi-token", "prediction"):
        Model(NumpyEngine(plain.config, plain.params), plain).mtp_drafter()
    module = open_checkpoint(tmp_path / "m", mtp=True)
    with refused(ExportError, "GPU"):
        export(module, tmp_path / "c", target="ort-cuda", quant="int8")
    with refused(ExportError, "scales", "text"):
        export(module, tmp_path / "c", kv="int8")
    with refused(ExportError, "genai"):
        convert(bundles("attention"), tmp_path / "d", "genai")
