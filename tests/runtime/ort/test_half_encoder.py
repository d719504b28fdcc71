"""An encoder's keys and values in float16, over tfm's kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models
from helpers.exported import exported
from helpers.kernels import bits_of
from helpers.refused import refused
from tfm import runtime
from tfm.export import bundle_writer
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import EncoderDecoder, Stack
from tfm.refimpl.engine.cache_kinds import Halved
from tfm.refimpl.errors import NumericError
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.plan import Plan
from tfm.runtime.kernels.specification import KernelReference
from tfm.runtime.verification.verify import verify

pytestmark = pytest.mark.usefixtures("kernels_on")
IDS, LENGTHS = np.random.default_rng(3).integers(0, 97, (2, 21)), np.array([21, 9])


@pytest.mark.parametrize("halved", ["all", "cache"])
def test_logits_are_those_of_the_stated_type(
    tmp_path: Path, halved: Halved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles of tfm 0.2 keep only the decoder's own keys and values in float16."""
    if halved == "cache":
        monkeypatch.setattr(Plan, "may_halve", lambda plan, cache: "cache")
    bundle = exported(tmp_path, tiny_models.rotary_encoder_decoder(), quant="int8")
    assert bundle.manifest.halved == halved
    model, logits = runtime.load(bundle.path), {}
    assert model.same_bits
    cache = model.start(2, IDS, LENGTHS)
    read = cache.take().encoder_kv
    assert read is not None
    assert {buffer.dtype for buffer in read.buffers} == {
        np.dtype("float16" if halved == "all" else "float32")
    }
    own = model.step(IDS[:, :5], model.start(2, IDS, LENGTHS))[0]
    for kind in ("all", "cache"):
        reference = KernelReference(bundle.config, bundle.params(), halved=kind)
        logits[kind] = reference.step(IDS[:, :5], reference.start(2, IDS, LENGTHS))[0]
    assert np.array_equal(bits_of(own), bits_of(logits[halved]))
    assert not np.array_equal(logits["all"], logits["cache"])


def test_heads_that_no_kernel_computes_read_them_as_float32(tmp_path: Path) -> None:
    config = tiny_models.rotary_encoder_decoder()
    assert isinstance(config, EncoderDecoder)
    assert isinstance(config.decoder, Stack)
    layers = (replace(one, cross=replace(one.cross, head_size=12)) for one in config.decoder.layers)
    config = replace(config, decoder=replace(config.decoder, layers=tuple(layers)))
    bundle = exported(tmp_path, config, quant="int8")
    assert bundle.manifest.halved == "all"
    report = verify(bundle.path)
    assert not [row.name for row in report.rows if row.ok is False]


def test_large_ones_are_float32_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_models.rotary_encoder_decoder()
    params = tiny_models.weights(config)
    params["decoder"]["layers"][1]["cross"]["bk"][3] = 7e4
    save_checkpoint(tmp_path / "model", config, params)
    checkpoint = open_checkpoint(tmp_path / "model")
    export(checkpoint, tmp_path / "large", quant="int8", verify=False)
    bundle = open_bundle(tmp_path / "large")
    reason = (
        "a cache of float16 in tfm's kernels needs keys and values below 30000, "
        "but layer 1 reads an encoder's key of 7e+04"
    )
    assert (bundle.manifest.halved, bundle.refused) == ("", (reason,))
    monkeypatch.setattr(bundle_writer, "SAFE_IN_FLOAT16", np.inf)
    export(checkpoint, tmp_path / "half", quant="int8", verify=False)
    model = runtime.load(tmp_path / "half")
    with refused(NumericError, "key", "value", "cache", "TFM_KERNELS=0"):
        model.start(2, IDS, LENGTHS)
