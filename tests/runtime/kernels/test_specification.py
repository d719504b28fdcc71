"""A model over kernels computes its specification to the bit, in pieces of any lengths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models
from helpers.exported import exported
from helpers.within_budget import assert_within_budget
from tfm.refimpl.ops import attention, latent_attention
from tfm.runtime.kernels.specification import KernelReference, written_out
from tfm.runtime.kernels.specification.attention import attend
from tfm.runtime.ort import kernel_backend
from tfm.runtime.ort.engine import OrtEngine

pytestmark = pytest.mark.usefixtures("kernels_on")


def test_logits_are_specified_to_the_bit(tmp_path: Path) -> None:
    bundle = exported(tmp_path, tiny_models.mixed_windows(context=700), quant="int4")
    engine = OrtEngine(bundle, "cpu", 1, kernels=kernel_backend.choose(bundle))
    reference = KernelReference(bundle.config, bundle.params(), halved=bundle.manifest.halved)
    count = 140
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


def test_a_process_that_knows_no_mixer_has_all_ops() -> None:
    """Modules of mixers are loaded by Configs that have them: the table needs all of its ops."""
    of, table = (
        "from tfm.refimpl.ops.dispatch import use",
        "from tfm.runtime.kernels.specification.ops import *",
    )
    subprocess.run([sys.executable, "-c", f"{table}\n{of}\nwith use(WRITTEN_OUT): pass"], check=True)


def test_a_query_that_sees_nothing_of_a_segment_takes_nothing_of_it() -> None:
    """Of two that are computed together one sees keys before the 512th alone, the other keys behind it."""
    rng, keys = np.random.default_rng(8), np.arange(540)
    q, k, v = (rng.standard_normal((1, n, 3, size), np.float32) for n, size in ((2, 8), (540, 8), (540, 16)))
    mask = np.stack([(keys >= 500) & (keys < 509), (keys >= 520) & (keys < 531)])[None]
    mixed = {"q": q, "k": k, "v": v}
    assert_within_budget(attend(q, k, v, mask), mixed, lambda one: attention.attend(**one, mask=mask))


def test_attention_that_is_written_out_is_what_is_specified() -> None:
    rng = np.random.default_rng(9)
    sizes = {
        "q": (2, 3, 6, 5), "k": (2, 7, 2, 5), "v": (2, 7, 2, 4), "bias": (2, 6, 3, 7), "latents": (2, 7, 11),
        "wk_b": (9, 18), "wv_b": (9, 24), "sink_logits": (6,),
    }  # fmt: skip
    given = {name: rng.standard_normal(shape, np.float32) for name, shape in sizes.items()}
    mask = rng.integers(0, 2, (2, 3, 7)).astype(bool)
    mask[0, 1] = False
    scores = {name: given[name] for name in ("q", "k", "v", "bias", "sink_logits")}
    latents = {name: given[name] for name in ("q", "latents", "wk_b", "wv_b")}
    got = written_out.attend(**scores, mask=mask, softcap=2.0)
    assert_within_budget(got, scores, lambda one: attention.attend(**one, mask=mask, softcap=2.0))
    got = written_out.absorbed_attend(**latents, mask=mask)
    assert_within_budget(got, latents, lambda one: latent_attention.absorbed_attend(**one, mask=mask))
