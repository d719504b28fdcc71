"""Saturated attention amplifies rounding: right engines are within budgets there too, wrong ones aren't."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from helpers import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.config import Activation, Decoder, EncoderDecoder, Gated, Layer, Plain
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.protocol import Engine
from tfm.refimpl.error_budget import kl_budget, largest_difference
from tfm.refimpl.params.tree import flatten, unflatten
from tfm.runtime.verification.checks import replay
from tfm.runtime.verification.golden import Golden, golden, read
from tfm.runtime.verification.metrics import fidelity
from tfm.runtime.verification.specification_error import kl_budget_over_text

TEXT = np.random.default_rng(0).integers(0, 97, 96).tolist()
Leaves = dict[str, np.ndarray]


def t5(activation: Activation, gated: bool) -> EncoderDecoder:
    """T5's form with another mlp."""
    base = tiny_models.encoder_decoder()

    def changed(layer: Layer) -> Layer:
        pre = layer.mlp.pre
        mlp = Gated(80, activation, pre=pre) if gated else Plain(80, activation, bias=False, pre=pre)
        return replace(layer, mlp=mlp)

    stacks = {
        name: replace(stack, layers=tuple(map(changed, stack.layers))) for name, stack in base.stacks.items()
    }
    return replace(base, context=128, **stacks)


CONFIGS: list[Decoder | EncoderDecoder] = [
    tiny_models.llama(),
    tiny_models.llama(qk_norm=True, tied=False),
    tiny_models.llama(plain=True, bias=True, kind="gelu"),
    replace(tiny_models.rare(), context=128),
    t5("relu", gated=False),
    t5("silu", gated=False),
    t5("relu", gated=True),
    t5("gelu_tanh", gated=True),
]


def swapped(leaves: Leaves) -> Leaves:
    """Two layers have each other's matrix."""
    first, second = (f"decoder.layers.{i}.mlp.down" for i in (0, 1))
    return leaves | {first: leaves[second], second: leaves[first]}


def scaled(leaves: Leaves) -> Leaves:
    """One matrix is a tenth too large."""
    name = "decoder.layers.1.attn.wo"
    return leaves | {name: leaves[name] * np.float32(1.1)}


def without_vector(leaves: Leaves) -> Leaves:
    """A norm lacks its weight."""
    name = "decoder.layers.0.mlp_pre.weight"
    return leaves | {name: np.ones_like(leaves[name])}


def largest_error(engine: Engine, held: Golden) -> float:
    outputs = replay.run_at_once(engine, held)
    return largest_difference(held.view(outputs), held.own.logits)


@settings(max_examples=settings.default.max_examples // 5)  # 200 in the deep profile
@given(st.sampled_from(CONFIGS), st.integers(0, 2**32 - 1), st.floats(1, 6))
def test_right_engines_are_within_budgets_and_wrong_ones_are_not(config, seed, doublings):
    """Queries are up to 64 times as large as usual: a softmax of such scores is nearly one key's alone."""
    leaves: Leaves = dict(flatten(tiny_models.weights(config, seed)))
    for name in leaves:
        if name.endswith((".wq", ".q_norm")):
            leaves[name] = leaves[name] * np.float32(2**doublings)
    weights = unflatten(leaves)
    held = read(golden(config, weights), config)
    specification = NumpyEngine(config, weights)

    def kl_of(engine: Engine) -> float:
        return fidelity(engine, specification, TEXT).kl

    right = TorchEngine(config, weights)
    assert largest_error(right, held) <= held.own.budget
    budget = kl_budget(held.own.budget)
    if kl_of(right) > budget:
        budget = kl_budget_over_text(specification, held.own.budget, kl_of)
        assert kl_of(right) <= budget
    for plant in (swapped, scaled, without_vector):
        wrong = TorchEngine(config, unflatten(plant(leaves)))
        assert kl_of(wrong) > budget or largest_error(wrong, held) > held.own.budget, plant.__doc__
