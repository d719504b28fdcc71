"""A drawn model all the way: files, export, ONNX Runtime, logits and tokens, against transformers.

The computed budget is that of `refimpl.error_budget`, of the very text that is compared.
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
from tfm.refimpl.config import Config
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import TRIES, ULP, error_terms, largest_difference
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.verification import golden
from tfm.runtime.verification.streamed_reference import Inputs, Precision, outputs
from tfm.runtime.verification.verify import verify

from helpers import onnx_graph  # noqa: F401  (the exporter's functions are parsed once a process)
from helpers.hf_oracle import WORST, inputs, make, theirs

STEPS, DISTINCT, PROMPT, DRAWS = 48, 8, 4, 16
# Rows of `verify` that must have been judged: of each bundle, and beside them of some.
RUNGS = (
    "weights equal the specification's",
    "weights equal the source's",
    "whole: largest error",
    "whole: RMS error",
    "each row alone: largest error",
)
WRITES = (
    "cached, token by token: largest error",
    "in chunks: largest error",
    "greedy tokens equal the specification's",
)
READS = ("with more padding: largest error",)
SHARP = ("products in float: largest error", "products in float: RMS error")


class Recorder:
    """An engine that keeps the logits of each step."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.config, self.start = engine, engine.config, engine.start
        self.said: list[np.ndarray] = []

    def step(self, *given: Any, **more: Any) -> Any:
        logits, cache = self.engine.step(*given, **more)
        self.said.append(logits[0, -1].copy())
        return logits, cache


def enliven(model: Any, seed: int) -> None:
    """Weights of which a text can live: a random model's own say one token for ever, its last or that of
    its biases. So biases lie about zero, norms have both signs, and by turns matrices are larger, or what
    is added to tokens smaller."""
    noise = torch.Generator().manual_seed(seed)
    tables = [id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(2 if seed % 2 == 0 else 16 if id(weight) in tables or "lm_head" in name else 0.5)
            elif name.endswith("bias"):
                weight.sub_(1)
            else:
                weight.mul_(torch.randint(0, 2, weight.shape, generator=noise) * 2 - 1)
        ROWS[model.config.model_type].amend(model)


def lively(
    name: str, kind: int, keys: dict[str, Any], folder: Path
) -> tuple[Any, Checkpoint, GeneratedSequence] | None:
    """A model of these keys in files, and what it is to go on from: its row writes 48 tokens, or as many
    as the context holds. One that writes fewer than 8 different ones is drawn anew; None if all are."""
    for seed in range(DRAWS):
        model = make(name, keys, kind, seed)
        enliven(model, seed)
        model.save_pretrained(folder / str(seed))
        checkpoint = open_checkpoint(folder / str(seed))
        config, rng = checkpoint.config, np.random.default_rng(seed)
        if config.decoder is None:
            return model, checkpoint, GeneratedSequence(())
        source = None if config.encoder is None else inputs(model, config, seed, 12)["input_ids"][0].tolist()
        prompt = rng.integers(0, config.embedding.vocabulary, PROMPT if source is None else 1).tolist()
        row = GeneratedSequence(
            prompt, max_new_tokens=min(STEPS, config.context - len(prompt)), encoder_ids=source
        )
        tokens = list(generate(NumpyEngine(config, materialize(checkpoint.params)), row))
        if len(set(tokens)) >= min(DISTINCT, len(tokens) // 2):
            replayed = GeneratedSequence(prompt, max_new_tokens=len(tokens), encoder_ids=source)
            return model, checkpoint, replayed
    return None


def exact(config: Config, params: Any, given: Inputs) -> tuple[np.ndarray, float]:
    """What the specification says in float64, and how far from it float32 may be."""
    runs = [Precision(np.dtype(np.float64), tries=TRIES, move=ULP), Precision(np.dtype(np.float32))]
    said, rounded = outputs(config, params, given, runs)
    base, *moved = (real(config, copy, given) for copy in np.split(said, 1 + TRIES))
    return base, error_terms(base, real(config, rounded, given), moved).budget


def real(config: Config, said: np.ndarray, given: Inputs) -> np.ndarray:
    """What is said at real tokens; of whole texts all of it."""
    if said.ndim == 2 or config.decoder is not None:
        return said
    return said[np.arange(said.shape[1])[None] < given.lengths[:, None]]


def equal(want: np.ndarray, spec: np.ndarray) -> None:
    """transformers and the specification, both in float64."""
    error = np.abs(want - spec).max() / np.abs(want).max()
    assert error <= WORST, f"relative error {error:.3g}"


def reads(model: Any, checkpoint: Checkpoint, engine: Any) -> dict[str, Any]:
    """What an encoder's head says of two rows, one of them padded."""
    given = inputs(model, checkpoint.config, 5, 7)
    text = Inputs(given["input_ids"], given["attention_mask"].sum(1), types=given.get("token_type_ids"))
    spec, budget = exact(checkpoint.config, checkpoint.params, text)
    want = real(checkpoint.config, theirs(model, given)[-1], text)
    equal(want, spec)
    got = real(checkpoint.config, engine.predict(text.tokens, text.lengths, text.types), text)
    error = largest_difference(got, want)
    assert error <= budget, f"off by {error:.3g}, the budget is {budget:.3g}"
    return {"share": error / budget}


def writes(model: Any, checkpoint: Checkpoint, engine: Any, row: GeneratedSequence) -> dict[str, Any]:
    """Greedy steps, cached, against transformers without a cache, on the same tokens."""
    recorder = Recorder(engine)
    tokens = np.array(list(generate(recorder, row)))
    ids = np.array([[*row.prompt, *tokens[:-1]]])
    given, text = {"input_ids": ids, "use_cache": np.array(False)}, Inputs(ids, np.array([ids.shape[1]]))
    if row.encoder_ids is not None:
        source = np.array([row.encoder_ids])
        given = {"input_ids": source, "attention_mask": np.ones_like(source), "decoder_input_ids": ids}
        text = Inputs(ids, text.lengths, source, np.array([source.shape[1]]))
    spec, budget = exact(checkpoint.config, checkpoint.params, text)
    (want,) = theirs(model, given)
    equal(want, spec)
    want = want[0, len(row.prompt) - 1 :]
    error = largest_difference(np.stack(recorder.said), want)
    assert error <= budget, f"off by {error:.3g}, the budget is {budget:.3g}"
    gaps = want.max(-1) - want[np.arange(len(tokens)), tokens]
    assert gaps.max() <= budget, f"another token by {gaps.max():.3g}, the budget is {budget:.3g}"
    return {"share": error / budget, "tokens": len(tokens), "others": int((gaps > 0).sum())}


def bundle(checkpoint: Checkpoint, out: Path, quant: str) -> dict[str, Any]:
    """Export; then `verify`, every row that is due judged: weights equal to the integer, numbers in budget.

    `share` is the largest share of a budget; `steady` says that not even an activation was rounded to
    another integer: then all is within what float32 may be off.
    """
    export(checkpoint, out, quant=quant, verify=False)
    report = verify(out, checkpoint.path, seconds=600, threads=1)
    assert not report.failed, report.failed[0]
    due = {*RUNGS, *(READS if checkpoint.config.decoder is None else WRITES)}
    due |= set(SHARP if quant == "int8" else ())
    judged = {row.name: row for row in report.rows if row.ok}
    assert due <= set(judged), f"not judged: {', '.join(sorted(due - set(judged)))}"
    errors = {name: judged[name] for name in due if name.endswith("error")}
    opened = open_bundle(out)
    held = golden.load(out, opened.config)
    text = Inputs(held.tokens, held.lengths, held.source, held.source_lengths, held.types)
    _, budget = exact(opened.config, opened.params(), text)
    return {
        "share": max(row.figure / row.budget for row in errors.values()),
        "steady": errors["whole: largest error"].figure <= budget,
    }


def travel(
    model: Any, checkpoint: Checkpoint, row: GeneratedSequence, out: Path, quants: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The checkpoint in each quantization: what `bundle` says; of fp32 what transformers says, too."""
    found = {quant: bundle(checkpoint, out / quant, quant) for quant in quants}
    if "fp32" in quants:
        engine = OrtEngine(open_bundle(out / "fp32"), threads=1)
        if checkpoint.config.decoder is None:
            found["original"] = reads(model, checkpoint, engine)
        else:
            found["original"] = writes(model, checkpoint, engine, row)
    return found


def journeys(
    name: str, kind: int, keys: Iterable[dict[str, Any]], folder: Path, quants: Sequence[str], count: int = 1
) -> list[dict[str, dict[str, Any]]]:
    """What `travel` says of the first models of these keys that write a text, if they are to."""
    found = []
    for number, drawn in enumerate(keys):
        place = folder / str(number)
        if (made := lively(name, kind, drawn, place / "source")) is not None:
            found.append(travel(*made, place, quants))
        if len(found) == count:
            return found
    raise AssertionError(f"{name}: {len(found)} of {count} models write {DISTINCT} different tokens")
