"""How close each backend that computes a bundle stays to the specification over a text.

    python tests/bench/backends.py MODEL.gguf BUNDLE… --text FILE

A path is ONNX Runtime with products of integers, or of floats as WebAssembly computes them, or tfm's kernels
with one instruction set. The first 4,096 tokens are read in windows of 2,048 that don't see each other:
mean KL(specification‖path) in nats, share of equal best tokens, perplexity, beside the kind of cache. The
specification reads the file's own numbers. Rows of a Markdown table are printed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from tfm import runtime
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.protocol import Engine
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.text.tokenizer import Tokenizer
from tfm.runtime.verification.metrics import fidelity
from workers import head

FLOATS = "floats"
PATHS = (FLOATS, "0", "amx", "avx512-vnni", "avx-vnni", "avx2")


class Recorded:
    """An engine that computes a text once: the n-th step of every later reading gets the n-th answer."""

    def __init__(self, engine: Any, folder: str) -> None:
        self.engine, self.config, self.folder = engine, engine.config, Path(folder)
        self.step_number = 0

    def rewind(self) -> None:
        self.step_number = 0

    def start(self, batch: int = 1, encoder_ids: Any = None) -> Any:
        return self.engine.start(batch, encoder_ids)

    def step(self, tokens: Any, cache: Any, lengths: Any = None, at: Any = None) -> tuple[np.ndarray, Any]:
        file = self.folder / f"{self.step_number}.npy"
        self.step_number += 1
        if file.exists():
            return np.load(file), cache
        logits, cache = self.engine.step(tokens, cache, lengths, at)
        np.save(file, logits)
        return logits, cache


def engine_of(bundle: Path, path: str, threads: int) -> Engine:
    """The engine that computes a bundle on a path."""
    if path == FLOATS:
        return OrtEngine(open_bundle(bundle), threads=threads, plain=True)
    os.environ["TFM_KERNELS"] = path
    return runtime.load(bundle, threads=threads).engine


def main(
    model: Path,
    bundles: list[Path],
    text: Annotated[Path, typer.Option(help="Its first tokens are read.")],
    tokens: int = 4096,
    window: int = 2048,
    path: Annotated[
        list[str] | None, typer.Option(help="A value of TFM_KERNELS, or floats; by default all.")
    ] = None,
    threads: int = 2,
) -> None:
    """Read the text on each path, print a table."""
    checkpoint = open_checkpoint(model)
    ids = head(text, checkpoint.tokenizer, tokens)
    before = Tokenizer(str(checkpoint.tokenizer), checkpoint.config.embedding.vocabulary).before_text
    typer.echo("| bundle | path | KL, nats | equal best | perplexity |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        specification = Recorded(NumpyEngine(checkpoint.config, materialize(checkpoint.params)), folder)
        for bundle in bundles:
            for name in path or PATHS:
                specification.rewind()
                engine = engine_of(bundle, name, threads)
                found = fidelity(engine, specification, ids, window, before=before)
                where = f"{engine.backend}, floats" if name == FLOATS else engine.backend
                typer.echo(
                    f"| {bundle.name} | {where} | {found.kl:.5f} | {found.agreement:.1%} | "
                    f"{found.perplexity:.3f} (specification {found.reference_perplexity:.3f}) |"
                )


if __name__ == "__main__":
    typer.run(main)
