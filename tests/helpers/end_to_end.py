"""A drawn model from its files through export to ONNX Runtime, compared with transformers.

Errors are within the budget of `refimpl.error_budget`, computed for the text that is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import ROWS
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import Checkpoint, materialize, open_checkpoint
from tfm.refimpl.config import CTC, LM, Config, Decoder
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import TRIES, ULP, error_terms, largest_difference
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.verification import golden
from tfm.runtime.verification.streamed_reference import Inputs, Precision, outputs
from tfm.runtime.verification.verify import verify

from helpers import onnx_graph  # noqa: F401  (the exporter's functions are parsed once a process)
from helpers.hf_oracle import LARGEST_ERROR, make_inputs, make_model, transformers_outputs

STEPS = 48  # tokens that a diverse model generates
DISTINCT = 8  # of which this many are different
PROMPT = 4
SEEDS = 16  # models drawn of the same keys until one is diverse

# Rows of `verify` that must have been judged: of every bundle, of decoders', of encoders', and of int8.
REQUIRED_ROWS = (
    "weights equal the specification's",
    "weights equal the source's",
    "whole: largest error",
    "whole: RMS error",
    "each row alone: largest error",
)
DECODER_ROWS = (
    "cached, token by token: largest error",
    "in chunks: largest error",
    "greedy tokens equal the specification's",
)
ENCODER_ROWS = ("with more padding: largest error",)
INT8_ROWS = ("products in float: largest error", "products in float: RMS error")


class RecordingEngine:
    """An engine that keeps the logits of each step."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.config = engine.config
        self.start = engine.start
        self.logits: list[np.ndarray] = []

    def step(self, *arguments: Any, **options: Any) -> Any:
        logits, cache = self.engine.step(*arguments, **options)
        self.logits.append(logits[0, -1].copy())
        return logits, cache


def diversify_weights(model: Any, seed: int) -> None:
    """Change random weights so that the model generates different tokens.

    A random model repeats one token for ever: its last, or one that its biases prefer. So biases get a mean
    of zero and norms get both signs. With an even seed matrices are larger; with an odd one layers add less
    to the tokens and tables are larger.
    """
    noise = torch.Generator().manual_seed(seed)
    tables = [id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and seed % 2 == 0:
                weight.mul_(2)
            elif weight.ndim > 1:
                weight.mul_(16 if id(weight) in tables or "lm_head" in name else 0.5)
            elif name.endswith("bias"):
                weight.sub_(1)
            else:
                weight.mul_(torch.randint(0, 2, weight.shape, generator=noise) * 2 - 1)
        ROWS[model.config.model_type].amend(model)


def diverse_model(
    name: str, kind: int, keys: dict[str, Any], folder: Path
) -> tuple[Any, Checkpoint, GeneratedSequence] | None:
    """A model of these keys, its files, and the sequence to continue; None if no seed gives diverse tokens.

    A decoder generates 48 tokens, or as many as its context holds. Where fewer than 8 of them are different,
    the next seed is tried. An encoder generates nothing, so its first model is taken.
    """
    for seed in range(SEEDS):
        model = make_model(name, keys, kind, seed)
        diversify_weights(model, seed)
        model.save_pretrained(folder / str(seed))
        ROWS[name].restate(folder / str(seed))
        checkpoint = open_checkpoint(folder / str(seed))
        config = checkpoint.config
        if not isinstance(config.head, LM):
            return model, checkpoint, GeneratedSequence(())
        rng = np.random.default_rng(seed)
        if isinstance(config, Decoder):
            source, length = None, PROMPT
        else:
            read, length = make_inputs(model, config, seed, 12), 1
            if "input_values" in read:
                source = read["input_values"][0]
            elif config.sound_shape is not None:
                source = read["input_features"][0].T
            else:
                source = read["input_ids"][0].tolist()
        prompt = rng.integers(0, config.embedding.vocabulary, length).tolist()
        count = min(STEPS, config.context - len(prompt))
        sequence = GeneratedSequence(prompt, max_new_tokens=count, encoder_ids=source)
        tokens = list(generate(NumpyEngine(config, materialize(checkpoint.params)), sequence))
        # A model that counts positions by the id of padding has none in its text.
        padding = model.config.pad_token_id if "pad_token_id" in ROWS[name].reads else None
        if padding not in (*prompt, *tokens) and len(set(tokens)) >= min(DISTINCT, len(tokens) // 2):
            return (
                model,
                checkpoint,
                GeneratedSequence(prompt, max_new_tokens=len(tokens), encoder_ids=source),
            )
    return None


def exact_outputs(config: Config, params: Any, inputs: Inputs) -> tuple[np.ndarray, float]:
    """The specification's outputs in float64, and the error budget of float32."""
    runs = [Precision(np.dtype(np.float64), tries=TRIES, move=ULP), Precision(np.dtype(np.float32))]
    exact, rounded = outputs(config, params, inputs, runs)
    base, *moved = (real_outputs(config, copy, inputs) for copy in np.split(exact, 1 + TRIES))
    return base, error_terms(base, real_outputs(config, rounded, inputs), moved).budget


def real_outputs(config: Config, values: np.ndarray, inputs: Inputs) -> np.ndarray:
    """The outputs at real tokens; of a head that reads whole texts all of them."""
    if values.ndim == 2 or isinstance(config.head, LM):
        return values
    return values[np.arange(values.shape[1])[None] < inputs.lengths[:, None]]


def assert_equal(expected: np.ndarray, specification: np.ndarray) -> None:
    """transformers and the specification agree, both in float64."""
    error = np.abs(expected - specification).max() / np.abs(expected).max()
    assert error <= LARGEST_ERROR, f"relative error {error:.3g}"


def compare_predictions(model: Any, checkpoint: Checkpoint, engine: Any) -> dict[str, Any]:
    """An encoder's head on two rows, one of them padded, against transformers."""
    config = checkpoint.config
    arguments = make_inputs(model, config, 5, 7)
    if config.stem is not None:
        sound = arguments["input_values"]
        lengths = np.full(2, config.positions(sound.shape[1]))
        inputs = Inputs(np.zeros((2, lengths[0]), np.int64), lengths, sound, lengths)
    else:
        lengths = arguments["attention_mask"].sum(1)
        inputs = Inputs(arguments["input_ids"], lengths, token_types=arguments.get("token_type_ids"))
    specification, budget = exact_outputs(config, checkpoint.params, inputs)
    expected = real_outputs(config, transformers_outputs(model, arguments)[-1], inputs)
    assert_equal(expected, specification)
    given = inputs.tokens if inputs.encoder_ids is None else inputs.encoder_ids
    predicted = engine.predict(given, inputs.lengths, inputs.token_types)
    error = largest_difference(real_outputs(config, predicted, inputs), expected)
    assert error <= budget, f"off by {error:.3g}, the budget is {budget:.3g}"
    return {"share": error / budget}


def compare_generation(
    model: Any, checkpoint: Checkpoint, engine: Any, sequence: GeneratedSequence
) -> dict[str, Any]:
    """Greedy steps with a cache, against transformers without a cache on the same tokens."""
    recorder = RecordingEngine(engine)
    tokens = np.array(list(generate(recorder, sequence)))
    ids = np.array([[*sequence.prompt, *tokens[:-1]]])
    lengths = np.array([ids.shape[1]])
    if sequence.encoder_ids is None:
        arguments = {"input_ids": ids, "use_cache": np.array(False)}
        inputs = Inputs(ids, lengths)
    else:
        source = np.array([sequence.encoder_ids])
        arguments = {"input_ids": source, "attention_mask": np.ones_like(source), "decoder_input_ids": ids}
        inputs = Inputs(ids, lengths, source, np.array([source.shape[1]]))
        if checkpoint.config.sound_shape is not None:
            sound = (
                {"input_values": source} if source.ndim == 2 else {"input_features": source.swapaxes(1, 2)}
            )
            arguments = {**sound, "decoder_input_ids": ids}
            inputs = Inputs(ids, lengths, source, np.array([checkpoint.config.positions(source.shape[1])]))
    specification, budget = exact_outputs(checkpoint.config, checkpoint.params, inputs)
    (expected,) = transformers_outputs(model, arguments)
    assert_equal(expected, specification)
    expected = expected[0, len(sequence.prompt) - 1 :]
    error = largest_difference(np.stack(recorder.logits), expected)
    assert error <= budget, f"off by {error:.3g}, the budget is {budget:.3g}"
    gaps = expected.max(-1) - expected[np.arange(len(tokens)), tokens]
    assert gaps.max() <= budget, f"another token by {gaps.max():.3g}, the budget is {budget:.3g}"
    return {"share": error / budget, "tokens": len(tokens), "others": int((gaps > 0).sum())}


def export_and_verify(checkpoint: Checkpoint, out: Path, quant: str) -> dict[str, Any]:
    """Export and `verify`: all required rows were judged, weights are equal, errors within their budgets.

    `share` is the largest share of a budget. `steady` says that all errors are within float32's rounding:
    then no activation was rounded to another integer.
    """
    export(checkpoint, out, quant=quant, verify=False)
    report = verify(out, checkpoint.path, seconds=600, threads=1)
    assert not report.failed, report.failed[0]
    due = {*REQUIRED_ROWS, *(DECODER_ROWS if isinstance(checkpoint.config.head, LM) else ENCODER_ROWS)}
    if isinstance(checkpoint.config.head, CTC):  # a sound has no padding
        due -= set(ENCODER_ROWS)
    if quant == "int8":
        due |= set(INT8_ROWS)
    judged = {row.name: row for row in report.rows if row.ok}
    assert due <= set(judged), f"not judged: {', '.join(sorted(due - set(judged)))}"
    errors = {name: judged[name] for name in due if name.endswith("error")}
    bundle = open_bundle(out)
    assert bundle.manifest.source.left_out == checkpoint.left_out
    inputs = golden.load(bundle).inputs
    _, budget = exact_outputs(bundle.config, bundle.params(), inputs)
    return {
        "share": max(row.figure / row.budget for row in errors.values()),
        "steady": errors["whole: largest error"].figure <= budget,
    }


def export_and_compare(
    model: Any, checkpoint: Checkpoint, sequence: GeneratedSequence, out: Path, quants: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`export_and_verify` in each quantization; under "original" the fp32 bundle against transformers."""
    results = {quant: export_and_verify(checkpoint, out / quant, quant) for quant in quants}
    if "fp32" in quants:
        engine = OrtEngine(open_bundle(out / "fp32"), threads=1)
        if not isinstance(checkpoint.config.head, LM):
            results["original"] = compare_predictions(model, checkpoint, engine)
        else:
            results["original"] = compare_generation(model, checkpoint, engine, sequence)
    return results


def run_all(
    name: str,
    kind: int,
    configs: Iterable[dict[str, Any]],
    folder: Path,
    quants: Sequence[str],
    count: int = 1,
) -> list[dict[str, dict[str, Any]]]:
    """`export_and_compare` of the first `count` configs that have a diverse model."""
    results = []
    for number, keys in enumerate(configs):
        diverse = diverse_model(name, kind, keys, folder / str(number) / "source")
        if diverse is not None:
            results.append(export_and_compare(*diverse, folder / str(number), quants))
        if len(results) == count:
            return results
    raise AssertionError(f"{name}: {len(results)} of {count} models generate {DISTINCT} different tokens")
