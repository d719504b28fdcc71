"""Families all the way: files, export, ONNX Runtime, logits and tokens, against transformers.

An export costs seconds: here go families whose graphs differ most, one config of few layers of each, with
one of its heads and in one quantization by turns. In the `deep` profile all go, with every head, in every
quantization; what such a run saw is in families/checked.json.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from families import ROWS
from hypothesis import settings
from original import draws
from whole import journeys

QUANTS = ("fp32", "int8", "int8-dynamic")
TURNS = ("fp32", "int8", "fp32", "int8-dynamic")
HERE = (
    "bart", "bert", "bloom", "cohere", "falcon", "gemma3_text", "gpt2", "mistral", "mixtral", "modernbert",
    "roberta", "t5",
)  # fmt: skip
COUNT = (settings.default.max_examples or 0) // 500  # pyright: ignore[reportOptionalMemberAccess]
CASES = [
    (name, kind, QUANTS if COUNT else (TURNS[turn % len(TURNS)],))
    for turn, name in enumerate(sorted(ROWS) if COUNT else HERE)
    for kind in range(len(ROWS[name].models))
    if COUNT or kind == turn % len(ROWS[name].models)
]


@pytest.mark.parametrize(("name", "kind", "quants"), CASES, ids=[f"{n}-{k}-{q[-1]}" for n, k, q in CASES])
def test_the_whole_way(tmp_path: Path, name: str, kind: int, quants: tuple[str, ...]):
    keys = draws(name, 12 * max(COUNT, 1))
    if not COUNT:
        keys.sort(key=lambda drawn: ROWS[name].config(**drawn).num_hidden_layers)
    journeys(name, kind, keys, tmp_path, quants, max(COUNT, 1))
