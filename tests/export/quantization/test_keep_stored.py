"""`keep` of what quantizing libraries store changes no weight; other schemes round the same numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers import quantized_writer
from helpers.quantized_writer import FORMATS
from helpers.refused import refused
from tfm.export.bundle_writer import export
from tfm.export.quantization import plan
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint
from tfm.refimpl.errors import ExportError
from tfm.refimpl.ops.quant import Blocks, dequantize
from tfm.runtime.bundle import schemes, targets
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.kept_weights import described, totals
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.weights import compare_weights
from tfm.runtime.verification.verify import verify

TARGET = targets.find("ort-cpu")
WIDENED = ("gptq2", "gptq3", "mxfp4", "modelopt")


def opened(directory: Path, name: str) -> tuple[Checkpoint, Checkpoint]:
    quantized_writer.write(directory, FORMATS[name])
    return open_checkpoint(directory / "stored"), open_checkpoint(directory / "floats")


@pytest.mark.parametrize(
    ("name", "quant", "form"),
    [
        ("gptq4", "int4", "GPTQ4 kept in 4-bit blocks of 32"),
        ("nvfp4", "keep", "NVFP4 widened to 8-bit blocks of 16"),
    ],
)
def test_a_kept_bundle_is_the_file(name, quant, form, tmp_path):
    stored, floats = opened(tmp_path, name)
    out = tmp_path / "bundle"
    export(stored, out, quant=quant, verify=False)
    bundle = open_bundle(out, check_hashes=True)
    kept = [n for n in stored.leaves.names if ".attn.w" in n or ".mlp." in n]
    assert len(kept) == 14
    for leaf in kept:
        blocks = bundle.leaf(leaf)
        assert isinstance(blocks, Blocks)
        np.testing.assert_array_equal(dequantize(blocks), floats.leaf(leaf), err_msg=leaf)
    counts = {said: count for said, (count, _) in totals(bundle.manifest).items()}
    assert counts == {form: 14, "F32 rounded to 8-bit blocks of 32": 2, "float32": 5}
    assert not verify(out).failed
    [row] = compare_weights(VerifyContext(bundle, stored, None, math.inf, "cpu", 1), "weights", stored)
    assert row.ok


@pytest.mark.parametrize(
    ("name", "bits", "block", "symmetric"),
    [
        ("gptq4-v2", 4, 16, False),
        ("gptq2", 4, 32, False),
        ("gptq3", 4, 32, False),
        ("gptq8-whole", 8, None, False),
        ("awq", 4, 32, False),
        ("pack4", 4, 32, True),
        ("pack8-asymmetric", 8, 32, False),
        ("int8", 8, None, True),
        ("llm-int8", 8, None, True),
        ("mxfp4", 8, 32, True),
        ("modelopt", 8, 16, True),
        ("bitnet", 4, None, True),
        ("bitnet-online", 4, None, True),
    ],
)
def test_groups_of_neighbours_stay(name, bits, block, symmetric, tmp_path):
    stored, _ = opened(tmp_path, name)
    made = plan.plan(stored, schemes.find("keep"), TARGET)
    for leaf in made.shapes:
        if ".attn.w" in leaf or ".mlp." in leaf:
            one = made.formats[leaf]
            assert (one.native, one.bits, one.symmetric) == (True, bits, symmetric), leaf
            # Of one group, the longest power of two that divides it.
            assert one.block == (block or (32 if leaf.endswith("down") else 64)), leaf
            assert described(one, "float32").split()[1] == ("widened" if name in WIDENED else "kept")


@pytest.mark.parametrize("name", ["gptq4-order", "fp8-block", "nf4"])
def test_numbers_without_blocks_say_what_to_do(name, tmp_path):
    stored, _ = opened(tmp_path, name)
    with refused(ExportError, "quant=keep", "quant=int8"):
        plan.plan(stored, schemes.find("keep"), TARGET)


@pytest.mark.parametrize(("quant", "name"), [("int8", "gptq4"), ("int4", "gptq3"), ("int8-dynamic", "gptq4")])
def test_other_schemes_round_the_same_numbers(quant, name, tmp_path):
    stored, floats = opened(tmp_path, name)
    scheme = schemes.find(quant)
    made = plan.plan(stored, scheme, TARGET)
    assert made == plan.plan(floats, scheme, TARGET)
    for leaf in ("decoder.layers.0.attn.wq", "decoder.layers.1.mlp.down"):
        got, want = (plan.leaf(one, leaf, made.formats[leaf], "float32") for one in (stored, floats))
        assert isinstance(got, Blocks)
        assert isinstance(want, Blocks)
        np.testing.assert_array_equal(got.codes, want.codes)
        np.testing.assert_array_equal(got.scale, want.scale)
