"""RUNTIMES.md has the table of layouts as it is."""

from pathlib import Path

from reports import layouts


def test_the_page_shows_it():
    text = (Path(__file__).parents[2] / "docs" / "RUNTIMES.md").read_text()
    block = text.split("<!-- layouts: PYTHONPATH=tests python -m reports.layouts -->\n")[1]
    assert block.split("\n<!-- end -->")[0] == layouts.table()
