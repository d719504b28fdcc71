"""MODELS.md has the table of short names as it is, and each name once."""

import re
from pathlib import Path

from tfm.runtime.hub.aliases import ALIASES

from reports import models


def test_the_page_shows_it():
    text = (Path(__file__).parents[2] / "docs" / "MODELS.md").read_text()
    block = text.split("<!-- models: PYTHONPATH=tests python -m reports.models -->\n")[1].split(
        "\n<!-- end -->"
    )[0]
    assert block == models.models()
    names = {*ALIASES, "smollm2-135m", "minilm-l6"}
    assert all(block.count(f"`{name}` {models.NEEDS[name]:,}") == 1 for name in names)
    assert re.search(r"\| 1 GB \| `smollm2-135m` ", block), "README's first model is the smallest that chats"
