"""Families all the way: files, export, ONNX Runtime, logits and tokens, against transformers.

An export costs seconds: here go families whose graphs differ most, one config of few layers of each, with
one of its heads and in one quantization by turns. In the `deep` profile all go, with every head, in every
quantization; what such a run saw is in families/checked.json.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from families import ROWS
from helpers.end_to_end import journeys
from helpers.hf_oracle import draws
from hypothesis import settings

QUANTS = ("fp32", "int8", "int8-dynamic")
TURNS = ("fp32", "int8", "fp32", "int8-dynamic")
HERE = [
    ("bart", 0), ("bert", 1), ("bloom", 0), ("cohere", 0), ("falcon", 0), ("gemma3_text", 0), ("gpt2", 0),
    ("mistral", 0), ("mixtral", 0), ("modernbert", 4), ("roberta", 0), ("t5", 1), ("qwen3", 2), ("bart", 1),
    ("opt", 1), ("t5", 5),
]  # fmt: skip
COUNT = (settings.default.max_examples or 0) // 500  # pyright: ignore[reportOptionalMemberAccess]
ALL = [(name, kind) for name in sorted(ROWS) for kind in range(len(ROWS[name].models))]
CASES = [
    (name, kind, QUANTS if COUNT else (TURNS[turn % len(TURNS)],))
    for turn, (name, kind) in enumerate(ALL if COUNT else HERE)
]


@pytest.mark.parametrize(("name", "kind", "quants"), CASES, ids=[f"{n}-{k}-{q[-1]}" for n, k, q in CASES])
def test_the_whole_way(tmp_path: Path, name: str, kind: int, quants: tuple[str, ...]):
    keys = draws(name, 12 * max(COUNT, 1))
    if not COUNT:
        keys.sort(key=lambda drawn: ROWS[name].config(**drawn).num_hidden_layers)
    journeys(name, kind, keys, tmp_path, quants, max(COUNT, 1))
