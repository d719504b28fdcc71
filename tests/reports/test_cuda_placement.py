"""RUNTIMES.md has the table of families on ort-cuda as it is."""

from pathlib import Path

from reports import cuda_placement


def test_the_page_shows_it():
    text = (Path(__file__).parents[2] / "docs" / "RUNTIMES.md").read_text()
    block = text.split("<!-- cuda: PYTHONPATH=tests python -m reports.cuda_placement -->\n")[1]
    assert block.split("\n<!-- end -->")[0] == cuda_placement.table()
