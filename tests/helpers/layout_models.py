"""Bundles for tests of layouts, and the greedy tokens that another runtime must give of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import Config
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.ort.engine import OrtEngine

from helpers import onnx_graph  # noqa: F401  (the exporter's functions are parsed once a process)
from helpers.end_to_end import diverse_model
from helpers.hf_oracle import draw_keys

MESSAGES = (
    "Explain self-attention to a child.",
    "Write two sentences about Zürich in winter.",
    "List three uses of a paper clip.",
    "Why is the sky blue?",
    "def fibonacci(n):",
)
LENGTH = 64
TRIES = 40  # configs drawn of a family until one suits


def family_bundle(name: str, suits: Callable[[Config], bool], folder: Path) -> tuple[Bundle, list[int]]:
    """The float bundle of a family's tiny random model that generates different tokens, and its prompt."""
    for number, keys in enumerate(draw_keys(name, TRIES)):
        drawn = diverse_model(name, 0, keys, folder / str(number))
        if drawn is None or not suits(drawn[1].config):
            continue
        export(drawn[1], folder / "bundle", quant="fp32", verify=False)
        return open_bundle(folder / "bundle"), list(drawn[2].prompt)
    raise AssertionError(f"{name}: none of {TRIES} models suits")


def real_bundle(source: Path, quant: str, folder: Path) -> Bundle:
    export(open_checkpoint(source), folder, quant=quant, verify=False)
    return open_bundle(folder)


def greedy(bundle: Bundle, prompts: Sequence[Sequence[int]], count: int = LENGTH) -> list[list[int]]:
    """The tokens of each prompt alone on ONNX Runtime's own operators, up to one that ends a text."""
    engine, ends = OrtEngine(bundle), frozenset(bundle.generation.eos)
    sequences = [GeneratedSequence(prompt, max_new_tokens=count, stop_ids=ends) for prompt in prompts]
    return [list(generate(engine, sequence)) for sequence in sequences]
