"""RUNTIMES.md's table of layouts: which families they take, by config.json files as they are published.

PYTHONPATH=tests python -m reports.layouts

Of families without such a file here it is the default of transformers' class.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import fill

from families import ROWS
from families.kit import Row
from tfm.export.layouts.convert import LAYOUTS
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import Config
from tfm.refimpl.errors import TfmError
from tfm.runtime.bundle import targets

FILE = Path(__file__).parents[1] / "refimpl" / "checkpoint" / "config_readers" / "public_configs.jsonl"
# What checkpoints have and transformers' defaults lack.
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
USUAL = {
    "deberta": DISENTANGLED,
    "deberta-v2": DISENTANGLED,
    "lfm2": {"full_attn_idxs": [2, 5]},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
}


def published() -> dict[str, list[Config]]:
    """The Configs of the published files that tfm reads, by model_type."""
    configs: dict[str, list[Config]] = defaultdict(list)
    for line in FILE.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)["config"]
        try:
            config, _ = read_config(values)
        except TfmError:
            continue  # what tfm itself doesn't read
        if name := values.get("model_type"):
            configs[name].append(config)
    return configs


def shown() -> dict[str, list[Config]]:
    """The published Configs, and one of each other family that the tests compare with transformers."""
    configs = published()
    for name, row in ROWS.items():
        if name not in configs:
            configs[name] = [_usual(name, row)]
    return configs


def _usual(name: str, row: Row) -> Config:
    """The Config of transformers' defaults, or of sizes where these leave something out."""
    architectures = [row.models[0].__name__]
    try:
        return read_config(row.config(**USUAL.get(name, {}), architectures=architectures).to_dict())[0]
    except TfmError:
        return read_config(row.config(**row.sizes, architectures=architectures).to_dict())[0]


def table() -> str:
    """Whether a layout takes a family's configs for ort-cpu: all, so many, or none.

    Layouts that take the same are one column, and families that none takes are left out.
    """
    configs, target = sorted(shown().items()), targets.find("ort-cpu")
    columns: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for layout in LAYOUTS.values():
        taken = ([layout.refusal(one, target) is None for one in several] for _, several in configs)
        columns[tuple(map(share, taken))].append(f"`{layout.name}`")
    head = ("family", *map(", ".join, columns.values()))
    cells = zip((name for name, _ in configs), *columns, strict=True)
    rows = [head, ("---",) * len(head), *(row for row in cells if any(row[1:]))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def share(taken: list[bool]) -> str:
    """How many of them, in the words of a cell."""
    return "yes" if all(taken) else f"{sum(taken)} of {len(taken)}" if any(taken) else ""


def listed(found: Mapping[str, Iterable[str]]) -> str:
    """A list of outcomes, with the families of each in lines of a page's width."""
    return "\n".join(
        fill(f"- **{outcome}**: {', '.join(names)}", 140, subsequent_indent="  ", break_on_hyphens=False)
        for outcome, names in found.items()
    )


if __name__ == "__main__":
    print(table())
