"""The mirror's functions of whole trees against the specification's.

refimpl/laws can't draw these from their annotations, which don't say which subtree of which
Config is meant, so they are fed from drawn Configs here; `HAND` names them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.config_strategies import configs
from helpers.mirror import OverTensors
from helpers.tree_inputs import budget, inputs, quantized, tensor
from hypothesis import example, given
from hypothesis import strategies as st
from tfm.refimpl.config import Config
from tfm.refimpl.laws.kit.budget import FINE, cast, expected
from tfm.refimpl.laws.kit.results import compare, flat
from tfm.refimpl.laws.kit.settings import HAND
from tfm.refimpl.ops import block as spec_block
from tfm.refimpl.ops import encoder as spec_encoder
from tfm.refimpl.ops import model as spec_model

seeds = st.integers(0, 2**32 - 1)
SPECS = {"block": spec_block, "encoder": spec_encoder, "model": spec_model}
mirror_model = OverTensors(spec_model)


def test_these_are_the_functions_fed_by_hand():
    """But the rotary tables, which NumPy makes for every engine, stems of waveforms, whose exports are
    compared, and mixers that whole models have."""
    assert {name.split(".")[0] for name in HAND} == {
        *SPECS, "moonshine_stem", "ngram_memory", "position_tables", "shared_block",
        "wave_stem",
    }  # fmt: skip


@given(configs(), seeds, *(st.integers(1, 4) for _ in range(2)), st.integers(0, 5), st.integers(0, 3))
@example(tiny_models.indexed(), 1, 2, 3, 5, 2)
def test_model(config: Config, seed: int, b: int, t: int, old: int, p: int):
    """Logits and caches of any Config, quantized or not, float64 and float32."""
    tree = tiny_models.weights(config, seed)
    tree = quantized(config, tree, seed) if seed % 3 == 0 else tree
    given_ = [*inputs(config, seed, b, t, old, p).values(), tree]
    run = lambda change, f=spec_model.model: f(*(change(a) for a in given_), config=config)  # noqa: E731
    allowed = budget(run)
    for dtype, share in ((np.float64, FINE), (np.float32, 1.0)):
        typed = lambda a, dtype=dtype: tensor(cast(a, dtype))  # noqa: E731
        got = dict(flat(run(typed, mirror_model.model)))
        assert {a.dtype for a in got.values()} == {torch.from_numpy(np.zeros(0, dtype)).dtype}
        compare(f"model {dtype.__name__}", got, expected(run, dtype), allowed, share)


@pytest.mark.parametrize(
    ("name", "quantizes"),
    [
        ("attention", True),
        ("latents", False),
        ("deltas", True),
        pytest.param("experts", False, marks=pytest.mark.long),
        pytest.param("apart", True, marks=pytest.mark.long),
    ],
)
def test_module(name: str, quantizes: bool):
    """A decoder with its vectors, and the module that reads them, quantized or not."""
    seed, b, t, old, p = 3, 2, 3, 4, 2
    config = tiny_models.MODULES[name]()
    tree = tiny_models.weights(config, seed)
    tree = quantized(config, tree, seed) if quantizes else tree
    own = inputs(config.mtp_decoder, seed, b, t, old, p)
    hidden = np.random.default_rng(seed).standard_normal((b, t, config.embedding.width)).astype(np.float32)
    pairs = [own.pop("tokens"), hidden, *own.values(), tree]
    calls = {"model_with_hidden": [*inputs(config, seed, b, t, old, p).values(), tree], "mtp_model": pairs}
    for function, given_ in calls.items():
        spec, mirror = (getattr(ops, function) for ops in (spec_model, mirror_model))
        run = lambda change, f=spec, g=given_: f(*(change(a) for a in g), config=config)  # noqa: E731
        allowed = budget(run)
        for dtype, share in ((np.float64, FINE), (np.float32, 1.0)):
            typed = lambda a, dtype=dtype: tensor(cast(a, dtype))  # noqa: E731
            compare(function, dict(flat(run(typed, mirror))), expected(run, dtype), allowed, share)
