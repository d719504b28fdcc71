"""Families from their files through export to ONNX Runtime: logits and tokens equal transformers'.

An export takes seconds. So only families whose graphs differ most are tested here, each with one config of
few layers, one head and one quantization. The `deep` profile tests all families with every head in every
quantization; families/checked.json holds the results of such a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families import ROWS
from helpers.end_to_end import run_all
from helpers.hf_oracle import draw_keys
from hypothesis import settings

QUANTS = ("fp32", "int8", "int8-dynamic")
TURNS = ("fp32", "int8", "fp32", "int8-dynamic")
HERE = [
    ("bart", 0), ("bert", 1), ("bloom", 0), ("cohere", 0), ("falcon", 0), ("gemma3", 0), ("gpt2", 0),
    ("mistral", 0), ("mixtral", 0), ("modernbert", 4), ("roberta", 0), ("umt5", 1), ("qwen3", 2), ("bart", 1),
    ("opt", 1), ("t5", 5), ("gpt_oss", 0), ("deepseek_v3", 0),
    ("deberta-v2", 1), ("longformer", 2), ("longformer", 4), ("gemma3n_text", 0),
    ("longt5", 0), ("phimoe", 0), ("xlnet", 1), ("bitnet", 0), ("deepseek_v32", 0), ("jamba", 2), ("lfm2", 1),
    ("gemma3n_text", 1), ("whisper", 0),
]  # fmt: skip
COUNT = (settings.default.max_examples or 0) // 500  # pyright: ignore[reportOptionalMemberAccess]
ALL = [(name, kind) for name in sorted(ROWS) for kind in range(len(ROWS[name].models))]
# By default: windows, a head of an encoder, a decoder that reads whole texts, convolutions. The graphs of the
# others differ less, or are compared in export/targets.
USUAL = {("gemma3", 0), ("modernbert", 4), ("qwen3", 2), ("lfm2", 1)}
CASES = [
    (name, kind, QUANTS if COUNT else (TURNS[turn % len(TURNS)],))
    for turn, (name, kind) in enumerate(ALL if COUNT else HERE)
]


def marked(name: str, kind: int, quants: tuple[str, ...]) -> Any:
    marks = () if COUNT or (name, kind) in USUAL else pytest.mark.long
    return pytest.param(name, kind, quants, marks=marks, id=f"{name}-{kind}-{quants[-1]}")


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize(("name", "kind", "quants"), [marked(*case) for case in CASES])
def test_exports_equal_transformers(tmp_path: Path, name: str, kind: int, quants: tuple[str, ...]):
    keys = draw_keys(name, 12 * max(COUNT, 1))
    if not COUNT:
        keys.sort(key=lambda drawn: ROWS[name].config(**drawn).get_text_config().num_hidden_layers)
    run_all(name, kind, keys, tmp_path, quants, max(COUNT, 1))


IN_FOUR_BITS = (
    "deepseek_v2", "qwen3_5_text", "lfm2_moe", "gemma3n_text", "nemotron_h", "jamba", "gpt_oss", "apertus",
    "llama4_text", "falcon_h1",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", IN_FOUR_BITS)
def test_exports_in_four_bits(tmp_path: Path, name: str):
    """Latents, states, convolutions, streams of a token, sinks, experts with gates and without.

    Weights are the specification's, and errors within their budget.
    """
    keys = draw_keys(name, 12 if name != "nemotron_h" else 60)
    keys.sort(key=lambda drawn: ROWS[name].config(**drawn).get_text_config().num_hidden_layers)
    if name == "nemotron_h":  # with experts that read a latent
        keys = [
            drawn
            for drawn in keys
            if "moe" in ROWS[name].config(**drawn).layers_block_type and drawn["moe_latent_size"]
        ]
    run_all(name, 0, keys, tmp_path, ("int4",))
