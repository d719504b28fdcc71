"""Families with states or latents: 512 tokens at once, in steps and in a batch, through a bundle.

PYTHONPATH=tests python -m reports.long_texts [NAMES]

Of each family's drawn configs it takes one with the most kinds of caches. What it prints are errors as shares
of their budget, of `ort-cpu` in float32 beside the specification.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from families import ROWS
from helpers.hf_oracle import draw_keys, make_model
from helpers.long_texts import LENGTH, STEPS, in_a_batch, in_steps, specified
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.config import Decoder
from tfm.refimpl.engine.cache_kinds import cache_kinds
from tfm.refimpl.error_budget import largest_difference
from tfm.refimpl.families import read_config
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort.engine import OrtEngine

NAMES = (
    "bamba", "deepseek_v2", "deepseek_v3", "deepseek_v32", "falcon_h1", "falcon_mamba", "glm_moe_dsa",
    "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "mamba", "mamba2", "mistral4",
    "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next",
)  # fmt: skip
DRAWN = 14
ROTATION = ("rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")
QUERY_SCALE = ("llama_4_scaling_beta", "original_max_position_embeddings")


def longer(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys for texts so long, with a plain rotation: other ones may end before."""
    rotary = keys.get("rope_parameters")
    if rotary and rotary.get("rope_theta") is not None:
        kept = ROTATION + (QUERY_SCALE if QUERY_SCALE[0] in rotary else ())
        plain = {name: value for name, value in rotary.items() if name in kept}
        keys = {**keys, "rope_parameters": {**plain, "rope_type": "default"}}
    return {**keys, "max_position_embeddings": LENGTH} if "max_position_embeddings" in keys else keys


def richest(name: str) -> dict[str, Any]:
    """The drawn keys whose layers have the most kinds of caches, and of these the most layers."""

    def kinds(keys: dict[str, Any]) -> tuple[int, int]:
        row = ROWS[name]
        stated = row.config(**keys, architectures=[row.models[0].__name__]).to_dict()
        found = [type(kind) for kind in cache_kinds(read_config(stated)[0])]
        return len(set(found)), len(found)

    return max(map(longer, draw_keys(name, DRAWN)), key=kinds)


def shares(name: str, folder: Path) -> tuple[str, list[float]]:
    """The kinds of caches, and the largest error as a share of its budget, each way to read the text."""
    make_model(name, richest(name)).save_pretrained(folder / "source")
    ROWS[name].restate(folder / "source")
    export(open_checkpoint(folder / "source"), folder / "out", quant="fp32", verify=False)
    bundle = open_bundle(folder / "out")
    engine, config = OrtEngine(bundle, "cpu", threads=1), bundle.config
    assert isinstance(config, Decoder)
    ids = np.random.default_rng(3).integers(0, config.embedding.vocabulary, (1, LENGTH))
    exact, allowed = specified(config, materialize(bundle.params()), ids)
    ways = [*(in_steps(engine, ids, sizes) for sizes in STEPS), in_a_batch(engine, ids)[0]]
    kinds = ", ".join(type(kind).__name__ for kind in cache_kinds(config))
    return kinds, [largest_difference(logits, exact) / allowed for logits in ways]


def main() -> None:
    """A line for each family."""
    transformers.logging.set_verbosity_error()
    print("family: caches: at once, in steps, one by one, in a batch")
    for name in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            kinds, ways = shares(name, Path(folder))
        print(f"{name}: {kinds}: {', '.join(f'{share:.3f}' for share in ways)}", flush=True)


if __name__ == "__main__":
    main()
