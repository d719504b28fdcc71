"""Budgets over a text: the formula on given figures, and the checks that ask for them."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.protocol import Engine
from tfm.refimpl.error_budget import TRIES, ULP, kl_budget
from tfm.refimpl.params.lazy import materialize
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.text.tokenizer import Tokenizer
from tfm.runtime.verification.checks import text
from tfm.runtime.verification.metrics import fidelity
from tfm.runtime.verification.report import Row
from tfm.runtime.verification.specification_error import budget_over_text, kl_budget_over_text

CONFIG = tiny_models.llama()
WEIGHTS = tiny_models.weights(CONFIG)
SPECIFICATION = NumpyEngine(CONFIG, WEIGHTS)
TOKENIZER = Tokenizer(text_strategies.wordpiece().to_str(), CONFIG.embedding.vocabulary)
WORDS = "the cat is catting."


def figures(rounding: float, jumps: list[float]):
    """A figure of the specification in float64, and one of each try; what the engines compute is ignored."""
    left = iter(jumps)

    def figure(engine: Engine) -> float:
        exact = engine.params["embedding"]["table"].dtype == np.float64
        return rounding if exact else next(left)

    return figure


def test_the_budget_of_given_figures():
    assert budget_over_text(SPECIFICATION, 1.0, figures(0.5, [0.25, 1.0, 0.125])) == 4 * (0.5 + 1.0)
    assert budget_over_text(SPECIFICATION, 7.0, figures(0.5, [0.25, 1.0, 0.125])) == 7.0
    assert kl_budget_over_text(SPECIFICATION, 1.0, figures(0.25, [0.0, 1.0, 0.0])) == (4 * (0.5 + 1.0)) ** 2
    assert kl_budget_over_text(SPECIFICATION, 9.0, figures(0.25, [0.0, 1.0, 0.0])) == kl_budget(9.0)


def test_the_engines_that_it_compares():
    """One has all weights in float64; in three others the table moves by an ulp, each time otherwise."""
    engines = []
    budget_over_text(SPECIFICATION, 0.0, lambda engine: engines.append(engine) or 0.0)
    exact, *tries = [dict(flatten(materialize(engine.params))) for engine in engines]
    leaves = dict(flatten(WEIGHTS))
    assert len(tries) == TRIES
    assert all(
        exact[name].dtype == np.float64 and np.array_equal(exact[name], leaves[name]) for name in leaves
    )
    tables = [weights.pop("embedding.table") for weights in tries]
    table = leaves.pop("embedding.table")
    assert all(weights[name] is leaves[name] for weights in tries for name in leaves)
    for moved in tables:
        assert 0 < np.abs(moved / table.astype(np.float64) - 1).max() <= 2 * ULP
    assert not np.array_equal(tables[0], tables[1])


def rows(config, scale: float, budget: float, schemes: dict | None = None) -> dict[str, Row]:
    """What the check of a text says of the mirror, its first output matrix scaled, at this golden budget."""
    weights = tiny_models.weights(config)
    stack = "decoder" if "decoder" in weights else "encoder"
    name = f"{stack}.layers.0.attn.wo"
    leaves = dict(flatten(weights))
    engine = TorchEngine(config, unflatten(leaves | {name: leaves[name] * np.float32(scale)}))
    golden = SimpleNamespace(own=SimpleNamespace(budget=budget, rms_budget=budget), plain=None)
    manifest = SimpleNamespace(schemes=schemes or {})
    context = SimpleNamespace(
        is_over=lambda done, total: False,
        golden=golden,
        source=None,
        bundle=SimpleNamespace(
            manifest=manifest,
            config=config,
            plan=SimpleNamespace(shapes=ParameterShapes(config)),
            leaf=leaves.__getitem__,
        ),
    )
    compare = text._compare_predictions if stack == "decoder" else text._compare_encoders
    reference, paths = NumpyEngine(config, weights), {"": (engine, golden)}
    with mock.patch.object(text, "all_backends", return_value=paths):
        found = list(compare(context, reference, TOKENIZER, WORDS, "", True))
    return {row.name: row for row in found}


@pytest.mark.parametrize("config", [tiny_models.llama(), tiny_models.encoder()], ids=["decoder", "encoder"])
def test_a_text_that_the_golden_tokens_say_too_little_of(config):
    """At a golden budget of nearly nothing a right engine passes by the text's own, a wrong one doesn't."""
    judged = {"KL divergence over a text", "RMS error over a text"}
    right, wrong = rows(config, 1.0, 1e-30), rows(config, 1.1, 1e-30)
    for name in judged & set(right):
        assert right[name].ok, right[name]
        budget = right[name].budget
        assert budget is not None
        assert budget > 1e-30
        assert wrong[name].ok is False
        assert wrong[name].budget == budget
    enough = rows(config, 1.0, 1.0)["KL divergence over a text"]
    assert (enough.budget, enough.ok) == (kl_budget(1.0), True)
    assert rows(config, 1.0, 1e-30, {"leaf": None})["KL divergence over a text"].ok is False


def test_the_divergence_that_is_measured_anew_is_from_the_specification():
    """Of an engine that is far off, the other way round it is another number."""
    with mock.patch.object(text, "kl_budget_over_text", return_value=1.0) as measured:
        rows(CONFIG, 1.1, 1e-30)
    _, _, figure = measured.call_args.args
    away, ids = NumpyEngine(CONFIG, tiny_models.weights(CONFIG, 1)), TOKENIZER.encode(WORDS)
    assert figure(away) == fidelity(away, SPECIFICATION, ids, before=TOKENIZER.before_text).kl
    assert figure(away) != fidelity(SPECIFICATION, away, ids, before=TOKENIZER.before_text).kl


@pytest.mark.parametrize("config", [tiny_models.llama(), tiny_models.encoder()])
def test_a_budget_of_kl_that_allows_anything_judges_nothing(config):
    """It is judged as long as a model that knows nothing would fail."""
    most = np.log(config.embedding.vocabulary)
    for budget in (1.0, 2.0, 4.0, 8.0):
        row, allowed = rows(config, 1.0, budget)["KL divergence over a text"], kl_budget(budget)
        assert (row.budget, row.result) == ((allowed, "ok") if allowed < most else (None, "measured"))
    assert rows(config, np.inf, 8.0)["KL divergence over a text"].ok is False
