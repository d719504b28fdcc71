"""A whole model over the NEON kernels on an emulated aarch64: the golden check, and the bits of x86."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models
from helpers.emulated import Emulated, places
from helpers.exported import exported
from tfm.runtime.ort import kernel_backend
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.verification import golden


@pytest.mark.peers
@pytest.mark.gcc
def test_the_golden_check_over_neon(kernels_on: Path, tmp_path: Path):
    """Real processors: not checked."""
    emulated = Emulated(tmp_path)
    bundle = exported(tmp_path, tiny_models.llama(), seed=11, quant="int8")
    here = kernel_backend.choose(bundle)
    assert not isinstance(here, str), here
    expected = golden.load(bundle)
    engine = OrtEngine(bundle, kernels=here)
    assert engine.same_bits
    tokens = expected.tokens
    logits, _ = engine.step(tokens, engine.start(len(tokens)), at=places(tokens))
    for processor, names in (("max", ("neon", "neon-dotprod")), ("cortex-a57", ("neon",))):
        for one in names:
            got = emulated.outputs(bundle, here, (tokens, expected.lengths), one, processor)
            got = got.reshape(logits.shape)
            assert np.array_equal(got.view(np.uint32), logits.view(np.uint32)), f"{processor}, {one}"
            view = expected.view(expected.real(got.astype(np.float64)))
            assert np.abs(view - expected.own.logits).max() <= expected.own.budget
