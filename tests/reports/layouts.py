"""RUNTIMES.md's table of layouts: which families they take, by config.json files as they are published.

PYTHONPATH=tests python -m reports.layouts
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from tfm.export.layouts.convert import LAYOUTS
from tfm.refimpl.config import Config
from tfm.refimpl.errors import TfmError
from tfm.refimpl.families import read_config
from tfm.runtime.bundle import targets

FILE = Path(__file__).parents[1] / "refimpl" / "config_readers" / "public_configs.jsonl"
HEAD = ("layout", "takes every published config", "takes some")


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


def table() -> str:
    """The families of which a layout takes all configs for ort-cpu, and those of which some.

    Layouts that take the same are one row.
    """
    coverage: dict[tuple[str, str], list[str]] = defaultdict(list)
    configs, target = sorted(published().items()), targets.find("ort-cpu")
    for layout in LAYOUTS.values():
        taken = {
            name: [layout.refusal(config, target) is None for config in several] for name, several in configs
        }
        every = [name for name, several in taken.items() if all(several)]
        some = [f"{name} ({sum(n)} of {len(n)})" for name, n in taken.items() if any(n) and not all(n)]
        coverage[", ".join(every), ", ".join(some)].append(f"`{layout.name}`")
    rows = [HEAD, ("---",) * len(HEAD), *((", ".join(names), *taken) for taken, names in coverage.items())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
