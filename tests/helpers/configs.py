"""config.json of published models, a row each in two files of tests/refimpl/checkpoint/config_readers."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfm.refimpl.checkpoint.families import with_model_type
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

FOLDER = Path(__file__).parents[1] / "refimpl" / "checkpoint" / "config_readers"


def _rows(file: str, key: str) -> Mapping[str, dict[str, Any]]:
    lines = (FOLDER / file).read_text(encoding="utf-8").splitlines()
    rows = {row[key]: row["config"] for row in map(json.loads, lines)}
    assert len(rows) == len(lines), f"{file} has each {key} once"
    return rows


PUBLIC = _rows("public_configs.jsonl", "source")  # by repository, most as read where they lie
ROWS = _rows("remembered_configs.jsonl", "name")  # of what has no row there, from memory

# What transformers 5 takes of one type alone -> how a value becomes that.
STRICT = {
    "attn_temperature_tuning": bool,
    "time_step_limit": lambda _: (0.0, float("inf")),
}
# Whose class writes `tie_word_embeddings` as true, whatever was read.
ALWAYS_TIED = ("t5", "mt5", "umt5", "longt5")


def changed(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A row with these changes: a key with dots is one inside, `...` takes a key away."""
    values = copy.deepcopy(ROWS[name] if name in ROWS else PUBLIC[name])
    for key, value in changes.items():
        inner, *path = values, *key.split(".")
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
        if value is ...:
            del inner[path[-1]]
    return values


def theirs(values: Mapping[str, Any]) -> Any:
    """The config of transformers' class."""
    kind = with_model_type(values)["model_type"]
    kind = {"kimi_k2": "deepseek_v3"}.get(kind, kind)  # DeepSeek's class by another name
    typed = {key: STRICT[key](value) for key, value in values.items() if key in STRICT}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of the spelling of its day
        return CONFIG_MAPPING[kind].from_dict({**values, **typed})


def rewritten(values: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as transformers writes it of what it read: each key said, in today's spelling."""
    kept = {"tie_word_embeddings"} if with_model_type(values)["model_type"] in ALWAYS_TIED else set()
    return {**theirs(values).to_dict(), **{key: values[key] for key in kept & values.keys()}}
