"""RUNTIMES.md has the table of ports as it is."""

from pathlib import Path

from reports import ports


def test_the_page_shows_it():
    text = (Path(__file__).parents[2] / "docs" / "RUNTIMES.md").read_text()
    block = text.split("<!-- ports: PYTHONPATH=tests python -m reports.ports -->\n")[1]
    assert block.split("\n<!-- end -->")[0] == ports.table()
