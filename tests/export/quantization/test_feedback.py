"""int4 over a text: where it comes from, what matrices read of it, and that rounding over it is better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from helpers.refused import refused
from tfm.export.bundle_writer import export
from tfm.export.quantization import calibrate, plan
from tfm.export.quantization.activation_recorder import record
from tfm.export.quantization.calibrate import rounding_text, without_feedback
from tfm.export.quantization.plan import Calibration, CalibrationResult
from tfm.refimpl.calibrate.coordinate_descent import (
    Hessian,
    coordinate_descent,
    damped,
    hessian,
    output_error,
)
from tfm.refimpl.calibrate.least_error import least_error
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ExportError
from tfm.refimpl.ops.quant import Blocks
from tfm.runtime.bundle import feedback, rounding
from tfm.runtime.bundle.weight_formats import WeightFormat
from tfm.runtime.progress import silent
from tfm.runtime.verification.checks.weights import (
    _equals_source,  # pyright: ignore[reportPrivateUsage]
)
from tfm.runtime.verification.metrics import log_softmax

TOKENIZER = text_strategies.byte_level()
SIZE = TOKENIZER.get_vocab_size()


def saved(path: Path, config: Config) -> Checkpoint:
    save_checkpoint(path, config, tiny_models.weights(config), TOKENIZER.to_str())
    return open_checkpoint(path)


@pytest.mark.parametrize("kind", ["llama", "encoder", "encoder_decoder"])
def test_what_matrices_read_is_what_the_mirror_records(kind: str, tmp_path: Path):
    """Of both stacks, whatever rows are computed together."""
    checkpoint = saved(tmp_path, getattr(tiny_models, kind)(vocabulary=SIZE))
    text = np.random.default_rng(2).integers(0, SIZE, (feedback.ROWS + 3, 11))
    sums: dict[str, Hessian] = {}

    def observe(names: tuple[str, ...], x: np.ndarray) -> None:
        for name in names:
            sums[name] = hessian(sums.get(name), x.astype(np.float64))

    record(checkpoint.config, checkpoint.leaf, windows=text.tolist(), on_input=observe)
    found: dict[str, feedback.Inputs] = {}
    feedback.measure(checkpoint, text, sums.keys(), lambda inputs, *_: found.update(inputs))
    assert found.keys() == sums.keys()
    assert any(name.endswith("table") for name in found)
    for name, inputs in found.items():
        total = damped(sums[name])
        np.testing.assert_allclose(inputs.importance, np.diag(total) / text.size, rtol=1e-4)
        np.testing.assert_allclose(inputs.total, total, rtol=1e-4, atol=1e-5 * total.max())
        weight = checkpoint.leaf(name).T if name.endswith("table") else checkpoint.leaf(name)
        alone = least_error(weight, inputs.importance, bits=4, block=16)
        together = output_error(weight, coordinate_descent(weight, inputs.total, alone), sums[name])
        assert together < output_error(weight, alone, sums[name])


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("embedding.table", WeightFormat(4, 32, "block", symmetric=False)),
        ("embedding.table", WeightFormat(8, 16, "block", halves=True, code_bits=6)),
        ("decoder.layers.1.mlp.down", WeightFormat(8, 32, "block", halves=True, code_bits=5)),
    ],
)
def test_codes_compensate_each_other_in_their_own_range(name: str, form: WeightFormat, tmp_path: Path):
    """A table's too. `verify` sees each code that another one has taken the place of."""
    checkpoint = saved(tmp_path, tiny_models.llama(vocabulary=SIZE))
    text = np.random.default_rng(2).integers(0, SIZE, (20, 16))
    read: dict[str, feedback.Inputs] = {}
    feedback.measure(checkpoint, text, {name}, lambda inputs, *_: read.update(inputs))
    found = read[name]
    weight, axis = checkpoint.leaf(name), int(name.endswith("table"))
    alone = rounding.rounded(weight, form, axis=axis, importance=found.importance)
    made = feedback.compensating(weight, alone, found, form)
    assert (made.bits, made.axis, made.codes.shape) == (form.bits, axis, weight.shape)
    assert feedback.error(weight, made, found, form) < 0.9 * feedback.error(weight, alone, found, form)
    half, middle = 2 ** ((form.code_bits or form.bits) - 1), 2 ** (form.bits - 1)
    assert (made.codes.min(), made.codes.max()) == (middle - half, middle + half - 1)
    assert feedback.is_possible(weight, made, found, form)
    assert not feedback.is_possible(weight, alone, found, form)
    assert (made.scale == made.scale.astype(np.float16)).all() == form.halves
    scale = made.scale.copy()
    scale[1, 1] *= 1.01
    assert not feedback.is_possible(weight, replace(made, scale=scale), found, form)
    for wrong in {made.codes[3, 5] + 1, made.codes[3, 5] - 1, middle - half - 1, middle + half}:
        codes = made.codes.copy()
        codes[3, 5] = np.uint8(int(wrong) % 256)
        assert not feedback.is_possible(weight, replace(made, codes=codes), found, form), wrong
    if form.code_bits:  # the ends of the range: what lies beyond isn't taken for them
        for end, beyond in ((middle - half, -1), (middle + half - 1, 1)):
            codes = made.codes.copy()
            codes[tuple(np.argwhere(codes == end)[0])] = end + beyond
            assert not feedback.is_possible(weight, replace(made, codes=codes), found, form), end


def test_verify_takes_narrow_codes_that_compensate_nothing(tmp_path: Path):
    """An expert's, or those of a model that gets no text: their scales have the least error."""
    checkpoint, name = saved(tmp_path, tiny_models.llama(vocabulary=SIZE)), "decoder.layers.1.mlp.down"
    form, weight = WeightFormat(8, 32, "block", halves=True, code_bits=5), checkpoint.leaf(name)
    for importance in ({}, {name: np.random.default_rng(0).random(len(weight))}):
        made = plan.leaf(checkpoint, name, form, "float32", CalibrationResult(importance=importance))
        assert isinstance(made, Blocks)
        assert (made.bits, made.codes.min(), made.codes.max()) == (8, 112, 143)
        wrong = made.codes.copy()
        wrong[3, 5] ^= 1
        for codes, ok in ((made.codes, True), (wrong, False), (made.codes - np.uint8(112), False)):
            blocks = replace(made, codes=codes)
            assert _equals_source(checkpoint, name, weight, form, blocks) == ok


def test_a_decoder_draws_a_text_that_is_likely(tmp_path: Path):
    """Of the context's length; its tokens are far likelier than others in their place."""
    config = tiny_models.llama(vocabulary=SIZE)
    checkpoint = saved(tmp_path, config)
    text = rounding_text(checkpoint, None, silent)
    assert text.shape[1] == min(calibrate.DRAWN_LENGTH, config.context)
    assert text.size >= calibrate.TOKENS_AN_INPUT * 16
    assert len(np.unique(text[:, -1])) > 1
    engine, (rows, time) = NumpyEngine(config, checkpoint.params), text.shape
    logits, _ = engine.step(text, engine.start(rows), at=np.tile(np.arange(time), (rows, 1)))
    before = log_softmax(logits[:, :-1])
    drawn, others = (
        np.take_along_axis(before, tokens[:, 1:, None], 2).mean()
        for tokens in (text, np.random.default_rng(1).integers(0, SIZE, text.shape))
    )
    assert drawn > others + 0.1


def test_who_has_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog " * 40)
    models = {
        kind: saved(tmp_path / kind, getattr(tiny_models, kind)(vocabulary=SIZE))
        for kind in ("llama", "encoder", "mixture", "hearing")
    }
    given = rounding_text(models["encoder"], file, silent)
    assert given.min() >= 0
    assert len(given) > 1
    monkeypatch.setattr(calibrate, "MOST_NUMBERS", 1000)
    without = {kind: without_feedback(model, None) for kind, model in models.items()}
    assert all(without.values())
    assert len(set(without.values())) == 4
    with_file = {kind: without_feedback(model, file) for kind, model in models.items()}
    assert with_file == without | {"llama": "", "encoder": ""}
    monkeypatch.undo()
    assert without_feedback(models["llama"], None) == ""
    with refused(ExportError, "calibration", "mixture"):
        export(models["mixture"], tmp_path / "out", quant="int4", calibration=Calibration(file), verify=False)
    with refused(ExportError, "tokenizer"):
        rounding_text(replace(models["llama"], tokenizer=None), file, silent)
