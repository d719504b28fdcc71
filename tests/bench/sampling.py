"""What sampling takes from decoding: tokens a second with top-k 50 and top-p 0.95 over those of greedy.

    python tests/bench/sampling.py BUNDLE
    python tests/bench/sampling.py --make CHECKPOINT       a random model of SmolLM2's size whose vocabulary
                                                           has 151,936 tokens, to export and measure too

Whole decoding loops take turns, 128 tokens each; the ratio is that of the medians. Exit code 1: below 0.95.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tfm import runtime
from tfm.refimpl.checkpoint.open import save_checkpoint
from tfm.refimpl.config import LM, Attention, Decoder, Embedding, Gated, Layer, RMSNorm, Rope, Stack
from tfm.refimpl.params.random_weights import random_weights

TOKENS = 128
LOOPS = {"greedy": {"greedy": True}, "sampled": {"temperature": 0.8, "top_k": 50, "top_p": 0.95}}


def make(path: Path) -> None:
    """SmolLM2-135M's sizes, a vocabulary of 151,936, random numbers."""
    norm = RMSNorm(1e-5)
    attention = Attention(heads=9, kv_heads=3, head_size=64, position=Rope(100_000.0, 64), pre=norm)
    layer = Layer(attention, Gated(1536, "silu", pre=norm))
    config = Decoder(Embedding(151_936, 576), Stack((layer,) * 30, norm), LM(tied=True), context=2048)
    save_checkpoint(path, config, random_weights(config, np.random.default_rng(0)))


def main(
    path: Path,
    create: Annotated[bool, typer.Option("--make", help="Write the random checkpoint.")] = False,
    pairs: int = 5,
) -> None:
    """Measure, print, and exit 1 below the gate."""
    if create:
        make(path)
        return
    model = runtime.load(path)
    took: dict[str, list[float]] = {name: [] for name in LOOPS}
    prompt = list(range(100, 132))
    for turn in range(pairs + 1):
        for name, options in LOOPS.items():
            begin = time.perf_counter()
            ids = model.generate_ids(prompt, max_new_tokens=TOKENS, stop_on_eos=False, **options)
            if turn:  # the first warms up
                took[name].append((time.perf_counter() - begin) / len(ids))
    greedy, sampled = (statistics.median(took[name]) for name in LOOPS)
    size = model.config.embedding.vocabulary
    print(f"vocabulary {size}: greedy {1 / greedy:.1f}, sampled {1 / sampled:.1f} tokens/s", end="")  # noqa: T201
    print(f", {greedy / sampled:.3f} times (gate 0.95)")  # noqa: T201
    raise typer.Exit(int(greedy / sampled < 0.95))


if __name__ == "__main__":
    typer.run(main)
