"""How close each bundle's predictions stay to the float32 specification's over a text.

    python tests/bench/fidelity.py MODEL.gguf --text FILE --tfm int8=BUNDLE --tfm keep=BUNDLE …

The first 4,096 tokens in windows of 512 that don't see each other, each behind the tokens that the model's
tokenizer puts before a text, every position of the text counted: mean KL(spec‖bundle) in nats, share of equal
best tokens, perplexity. The specification reads the file's own numbers, so `keep`, which changes no weight,
is measured against what the file says. Exit code 1: a gate was missed.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from peers import named
from tfm import runtime
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.text.tokenizer import Tokenizer
from tfm.runtime.verification.metrics import fidelity
from workers import head

# Name -> (largest KL, smallest agreement).
GATES: dict[str, tuple[float, float]] = {
    "fp32": (1e-6, 0.999),
    "int8": (0.0045, 0.95),
    "keep": (0.0035, 0.0),
    "int8-dynamic": (0.035, 0.0),
}


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


def main(
    model: Path,
    text: Annotated[Path, typer.Option(help="Its first tokens are read.")],
    tfm: Annotated[list[str], typer.Option(help="NAME=BUNDLE; the name of a quantization has its gate.")],
    tokens: int = 4096,
    window: int = 512,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Compare, print a table, and exit 1 when a gate is missed."""
    checkpoint = open_checkpoint(model)
    ids = head(text, checkpoint.tokenizer, tokens)
    before = Tokenizer(str(checkpoint.tokenizer), checkpoint.config.embedding.vocabulary).before_text
    results, good = {}, True
    with tempfile.TemporaryDirectory() as folder:
        spec = Recorded(NumpyEngine(checkpoint.config, materialize(checkpoint.params)), folder)
        typer.echo(f"{'':24} {'mean KL':>9} {'top-1':>7} {'perplexity':>11} {'spec':>7}")
        for name, bundle in named(tfm).items():
            spec.rewind()
            f = fidelity(runtime.load(bundle), spec, ids, window, before=before)
            most, least = GATES.get(name, (float("inf"), 0.0))
            ok = f.kl <= most and f.agreement >= least
            good &= ok
            line = (
                f"{name:24} {f.kl:9.5f} {f.agreement:7.2%} {f.perplexity:11.3f} {f.reference_perplexity:7.3f}"
            )
            typer.echo(line + ("" if ok else f"   MISSED: KL ≤ {most}, agreement ≥ {least}"))
            results[name] = {
                "kl": f.kl,
                "agreement": f.agreement,
                "perplexity": f.perplexity,
                "spec_perplexity": f.reference_perplexity,
                "positions": f.positions,
                "ok": ok,
            }
    if json_out is not None:
        json_out.write_text(json.dumps(results, indent=1) + "\n")
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
