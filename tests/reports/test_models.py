"""MODELS.md has the table of short names as it is, and each name once."""

from pathlib import Path

from tfm.runtime.hub.aliases import ALIASES

from reports import models


def test_the_page_shows_it():
    text = (Path(__file__).parents[2] / "docs" / "MODELS.md").read_text()
    block = text.split("<!-- models: PYTHONPATH=tests python -m reports.models -->\n")[1].split(
        "\n<!-- end -->"
    )[0]
    assert block == models.models()
    assert all(block.count(f"`{name}` {alias.megabytes:,}") == 1 for name, alias in ALIASES.items())
