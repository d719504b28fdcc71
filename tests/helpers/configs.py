"""config.json of published models, a row each in two files of tests/refimpl/checkpoint/config_readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "refimpl" / "checkpoint" / "config_readers"


def _rows(file: str, key: str) -> Mapping[str, dict[str, Any]]:
    lines = (FOLDER / file).read_text(encoding="utf-8").splitlines()
    rows = {row[key]: row["config"] for row in map(json.loads, lines)}
    assert len(rows) == len(lines), f"{file} has each {key} once"
    return rows


PUBLIC = _rows("public_configs.jsonl", "source")  # by repository, most as read where they lie
ROWS = _rows("remembered_configs.jsonl", "name")  # of what has no row there, from memory
