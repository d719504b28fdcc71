"""Five prompts, 64 greedy tokens each: the same ids from the specification and from every float engine.

    python tests/bench/tokens.py MODEL.gguf --onnx FP32_BUNDLE --onnx STANDARD_FP32_BUNDLE \\
        --transformers-python BIN

transformers reads the same GGUF file with its own dequantizer (pip install transformers torch gguf
accelerate). A difference is accepted only where the float64 specification's own two best are closer
than the error budget of refimpl/error_budget.py; both are printed. Exit code 1: one was not accepted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from engines import Numpy
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.laws.kit.budget import budgets, cast
from tfm.runtime.tasks import Model
from workers import Worker

PROMPTS = (
    "Explain self-attention to a child.",
    "Write a short poem about the sea.",
    "What is the capital of France, and what is it known for?",
    "List three ways to save energy at home.",
    "Write a Python function that reverses a string.",
)


def best_two(spec: NumpyEngine, ids: list[int], new: int) -> np.ndarray:
    """The gap between the two best logits at each of the last `new` positions of a text."""
    at = np.arange(len(ids) - new, len(ids))[None]
    logits, _ = spec.step(np.array([ids]), spec.start(1), at=at)
    top = np.partition(logits[0], -2, axis=-1)[:, -2:]
    return top[:, 1] - top[:, 0]


def doubt(spec: NumpyEngine, ids: list[int]) -> tuple[float, float]:
    """(gap in float64, budget) of the prediction that follows `ids`."""

    def run(change: Callable[[Any], Any]) -> np.ndarray:
        engine = NumpyEngine(spec.config, change(spec.params))
        return engine.step(np.array([ids]), engine.start(1))[0]

    top = np.partition(run(lambda tree: cast(tree, np.float64))[0, 0], -2)[-2:]
    (budget,) = budgets(run).values()
    return float(top[1] - top[0]), budget


def main(
    model: Path,
    onnx: Annotated[list[Path] | None, typer.Option(help="A float32 bundle of the model.")] = None,
    transformers_python: str = sys.executable,
    threads: int = 2,
    new_tokens: int = 64,
) -> None:
    """Compare all engines' ids with the specification's, and exit 1 for a difference it doesn't excuse."""
    spec = Numpy(str(model), threads)
    front = Model(spec.engine, open_checkpoint(model))
    prompts = [front.prompt(text) for text in PROMPTS]
    wanted = []
    for text, ids in zip(PROMPTS, prompts, strict=True):
        tokens = spec.measure(ids, new_tokens)[0]
        gaps = best_two(spec.engine, ids + tokens[:-1], new_tokens)
        typer.echo(f"numpy, {text!r}: smallest gap {gaps.min():.5f} at token {gaps.argmin()}")
        typer.echo(f"  {front.text.decode(tokens)!r:.100}")
        wanted.append(tokens)

    good = True
    others = [("torch", model, sys.executable), ("transformers", model, transformers_python)]
    for kind, path, python in others + [("onnx", path, sys.executable) for path in onnx or []]:
        worker, same = Worker(kind, path, python=python, threads=threads), 0
        for text, ids, expected in zip(PROMPTS, prompts, wanted, strict=True):
            got = worker.measure(ids, new_tokens)["tokens"]
            if got == expected:
                same += 1
                continue
            at = next(i for i, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1])
            gap, budget = doubt(spec.engine, ids + expected[:at])
            good &= gap < budget
            typer.echo(
                f"  {worker.name}, {text!r}: token {at} is {got[at]}, the specification's {expected[at]}; "
                f"its gap {gap:.6f}, budget {budget:.6f}: {'accepted' if gap < budget else 'WRONG'}"
            )
        worker.close()
        typer.echo(f"{worker.name} ({worker.hello['version']}): {same} of {len(PROMPTS)} texts equal")
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
