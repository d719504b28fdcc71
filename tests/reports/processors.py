"""RUNTIMES.md's table of the kernels' bits by instruction set: those of the specification in NumPy, or not

    PYTHONPATH=tests python -m reports.processors [--emulated] [--tokens 24] [NAME=BUNDLE ...]

Compares bundles and tiny models over drawn texts of two lengths, under each set that this processor has, and
with `--emulated` those of 64-bit ARM. Prints the table; what wasn't run says so. A bundle
that doesn't promise the same bits is compared with its own outputs under the first set.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers import tiny_models
from helpers.emulated import Emulated, places
from helpers.exported import exported
from helpers.kernels import available, load
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.kernels.library import INSTRUCTION_SETS
from tfm.runtime.kernels.specification import KernelReference
from tfm.runtime.ort import kernel_backend
from tfm.runtime.ort.engine import OrtEngine

TINY = {
    "a mixture": tiny_models.mixture, "Mamba 2 around attention": tiny_models.state_spaces,
    "latent attention": tiny_models.latents,
}  # fmt: skip
ARM = ("neon-dotprod", "neon")


def row(name: str, bundle: Bundle, count: int, emulated: Emulated | None) -> str:
    """How many tokens have the specification's bits, by instruction set."""
    here = kernel_backend.choose(bundle)
    assert not isinstance(here, str), here
    lengths = np.minimum([count, count * 2 // 3], bundle.config.context)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, bundle.config.embedding.vocabulary, (2, int(lengths.max())))
    expected, name_of_expected = None, ""
    if OrtEngine(bundle, "cpu", 1, kernels=here).same_bits:
        reference = KernelReference(bundle.config, bundle.params(), halved=bundle.manifest.halved)
        expected, name_of_expected = computed(reference, tokens, lengths), "equal"
    total, there = int(lengths.sum()), available(load(here.library.path))
    found = []
    for one in INSTRUCTION_SETS:
        if one in there:
            backend = replace(here, library=replace(here.library, instruction_set=one))
            outputs = computed(OrtEngine(bundle, "cpu", 1, kernels=backend), tokens, lengths)
        elif one in ARM and emulated is not None:
            outputs = emulated.outputs(bundle, here, (tokens, lengths), one)
        else:
            found.append("not run")
            continue
        if expected is None:
            expected, name_of_expected = outputs, f"as {one}"
            found.append("not promised")
            continue
        outputs = outputs.reshape(expected.shape)
        other = (outputs.view(np.int32) != expected.view(np.int32)).reshape(2, -1, expected.shape[-1]).any(-1)
        wrong = other & (
            np.arange(other.shape[1]) < lengths[:, None]
        )  # tokens, or texts where a head reads whole ones
        found.append(f"{wrong.sum()} others" if wrong.any() else name_of_expected)
    return f"| {name} | {total} | {' | '.join(found)} |"


def computed(engine: OrtEngine | KernelReference, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Logits of all tokens, or what an encoder's head gives."""
    if "decoder" not in engine.config.stacks:
        return np.ascontiguousarray(engine.predict(tokens, lengths), np.float32)
    at = places(tokens)
    return np.ascontiguousarray(engine.step(tokens, engine.start(len(tokens)), lengths, at)[0], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", metavar="NAME=BUNDLE")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--emulated", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        emulated = Emulated(Path(folder)) if options.emulated else None
        named = [
            (name, open_bundle(Path(path))) for name, _, path in (x.partition("=") for x in options.bundles)
        ]
        print(
            f"| `int8` | tokens | {' | '.join(INSTRUCTION_SETS)} |\n|---|---|{'---|' * len(INSTRUCTION_SETS)}"
        )
        for name, bundle in named:
            print(row(name, bundle, options.tokens, emulated), flush=True)
        for i, (name, make) in enumerate(TINY.items()):
            bundle = exported(Path(folder) / str(i), make(), quant="int8")
            print(row(name, bundle, options.tokens, emulated), flush=True)


if __name__ == "__main__":
    main()
