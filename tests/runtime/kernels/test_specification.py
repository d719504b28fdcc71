"""A model over kernels computes its specification to the bit, in pieces of any lengths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import tiny_models
from helpers.exported import export_once
from tfm.refimpl.config import Config
from tfm.runtime.bundle.bundle import Bundle
from tfm.runtime.kernels.specification import KernelReference
from tfm.runtime.ort import kernel_backend
from tfm.runtime.ort.engine import OrtEngine

CONFIGS: dict[str, Config] = {
    "biases": tiny_models.llama(bias=True, qk_norm=True, vocabulary=101, mlp=79, context=700),
    "windows": tiny_models.mixed_windows(context=700),
    "convolutions": tiny_models.convolutions(),
    "an output matrix of its own": tiny_models.llama(tied=False, context=40),
    "codes": tiny_models.llama(context=700).with_kv("int8"),
}
LONG = {"marks": pytest.mark.long}

pytestmark = pytest.mark.usefixtures("kernels_on")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Bundle]:
    return export_once(tmp_path_factory.mktemp("specified"), CONFIGS)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("biases", "int8"),
        ("windows", "int4"),
        pytest.param("windows", "int8", **LONG),
        pytest.param("convolutions", "int8", **LONG),
        pytest.param("an output matrix of its own", "int4", **LONG),
        pytest.param("codes", "int8", **LONG),
    ],
)
def test_logits_are_specified_to_the_bit(bundles, name: str, quant: str) -> None:
    bundle = bundles(name, "ort-cpu", quant)
    engine = OrtEngine(bundle, "cpu", 1, kernels=kernel_backend.choose(bundle))
    reference = KernelReference(bundle.config, bundle.params(), half_cache=bundle.manifest.half_cache)
    count = min(140, bundle.config.context)
    ids = np.random.default_rng(7).integers(0, bundle.config.embedding.vocabulary, (1, count))

    def read(by: OrtEngine | KernelReference, *lengths: int) -> np.ndarray:
        cache, logits, at = by.start(1), [], 0
        for length in lengths:
            piece = ids[:, at : at + length]
            if piece.size:
                got, cache = by.step(piece, cache, None, np.arange(piece.shape[1])[None])
                logits.append(got[0])
            at += length
        return np.concatenate(logits).view(np.int32)

    expected = read(reference, 64, count)
    for lengths in ((count,), (1, 30, 65, 7, count), (*[1] * 5, count)):
        assert (read(engine, *lengths) == expected).all(), lengths
