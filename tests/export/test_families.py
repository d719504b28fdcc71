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
HERE = [
    ("bart", 0, "fp32"), ("bert", 1, "int8"), ("falcon", 0, "fp32"), ("gemma3", 0, "int8"),
    ("modernbert", 4, "int8"), ("qwen3", 2, "fp32"), ("t5", 5, "int8-dynamic"), ("gpt_oss", 0, "fp32"),
    ("deepseek_v3", 0, "int8"), ("deberta-v2", 1, "fp32"), ("longformer", 2, "int8-dynamic"),
    ("longt5", 0, "fp32"), ("xlnet", 1, "fp32"), ("bitnet", 0, "int8"), ("deepseek_v32", 0, "fp32"),
    ("jamba", 2, "int8-dynamic"), ("gemma3n_text", 0, "int8"), ("lfm2", 1, "fp32"), ("whisper", 0, "fp32"),
    ("wav2vec2", 0, "int8"), ("moonshine", 0, "int8"),
]  # fmt: skip
COUNT = (settings.default.max_examples or 0) // 500  # pyright: ignore[reportOptionalMemberAccess]
ALL = [(name, kind, QUANTS) for name in sorted(ROWS) for kind in range(len(ROWS[name].models))]
# By default: windows, a head of an encoder, a decoder that reads whole texts, convolutions. The graphs of the
# others differ less, or are compared in export/targets.
USUAL = {("gemma3", 0), ("modernbert", 4), ("qwen3", 2), ("lfm2", 1)}
CASES = ALL if COUNT else [(name, kind, (quant,)) for name, kind, quant in HERE]


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
    "deepseek_v2", "qwen3_5_text", "gemma3n_text", "nemotron_h", "gpt_oss",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", IN_FOUR_BITS)
def test_exports_in_four_bits(tmp_path: Path, name: str):
    """Latents, states, streams of a token, sinks, experts with gates and without.

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
