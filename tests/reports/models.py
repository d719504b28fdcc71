"""MODELS.md's table of short names, by the memory that each needs.

PYTHONPATH=tests python -m reports.models
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

from tfm.runtime.hub.aliases import ALIASES

from reports.reference import table

GIGABYTES = (1, 2, 4, 6, 12, 16)


def models() -> str:
    """The names under the memory that is enough for them, each with what it needs."""
    rows = []
    for low, high in zip((0, *GIGABYTES), GIGABYTES, strict=False):
        fitting = sorted(
            (alias.megabytes, name) for name, alias in ALIASES.items() if low < alias.megabytes / 1000 <= high
        )
        writes = [ALIASES[name].task == "generate" for _, name in fitting]
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
