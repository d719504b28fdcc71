"""MODELS.md's table of short names, by the memory that each needs.

PYTHONPATH=tests python -m reports.models
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

from tfm.runtime.hub.aliases import ALIASES
from tfm.runtime.hub.model_names import CATALOGUE

from reports.reference import table

GIGABYTES = (1, 2, 4, 6, 12, 16)
NAMES = CATALOGUE | ALIASES
NEEDS = {name: model.megabytes for name, model in NAMES.items() if model.megabytes is not None}


def models() -> str:
    """The names under the memory that is enough for them, each with what it needs."""
    rows = []
    for low, high in zip((0, *GIGABYTES), GIGABYTES, strict=False):
        fitting = sorted((needs, name) for name, needs in NEEDS.items() if low < needs / 1000 <= high)
        writes = [NAMES[name].task == "generate" for _, name in fitting]
        cells = [f"`{name}` {megabytes:,}" for megabytes, name in fitting]
        chats, reads = (
            ", ".join(c for c, w in zip(cells, writes, strict=True) if w is kind) for kind in (True, False)
        )
        rows.append((f"{high} GB", chats, reads))
    return "\n".join(
        table(("free memory", "chat, MB each", "embed, classify, tag, translate, summarize, MB each"), *rows)
    )


if __name__ == "__main__":
    print(models())
