"""RUNTIMES.md has the table of placed families; all ran, and one that runs again gives what was kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from families import ROWS

from reports import cuda_runs


def test_the_page_shows_it():
    text = (Path(__file__).parents[2] / "docs" / "RUNTIMES.md").read_text()
    block = text.split("<!-- cuda runs: PYTHONPATH=tests python -m reports.cuda_runs --table -->\n")[1]
    assert block.split("\n<!-- end -->")[0] == cuda_runs.table()


def test_every_family_ran_under_each_of_its_classes():
    """A new one needs `python -m reports.cuda_runs FAMILY`."""
    kept = json.loads(cuda_runs.FILE.read_text())
    assert {name: {model.__name__ for model in row.models} for name, row in ROWS.items()} == {
        name: set(family) for name, family in kept.items()
    }
    # How many positions the samples of a sound make is a size, and one that attention compares with.
    copied = {one["found"] for name in ("hubert", "moonshine", "wav2vec2") for one in kept.pop(name).values()}
    assert copied == {"values are copied (1)"}
    found = {one["found"] for family in kept.values() for one in family.values()}
    assert {one for one in found if not one.startswith(cuda_runs.NO_BUNDLE)} == {cuda_runs.PLACED}


@pytest.mark.parametrize("name", ["gpt_bigcode", "deberta", "jamba"])
def test_a_family_has_the_parts_that_ran(name: str):
    kept = json.loads(cuda_runs.FILE.read_text())[name]
    assert {
        model: {"cache": "decoder" in config.stacks, **cuda_runs.parts(config), "found": kept[model]["found"]}
        for model, config in cuda_runs.configs(name)
    } == kept


@pytest.mark.long
def test_a_family_is_placed_as_it_was(cuda_stubs: Path):
    kept = json.loads(cuda_runs.FILE.read_text())["gpt_bigcode"]
    model, config = next(cuda_runs.configs("gpt_bigcode"))
    assert cuda_runs.run(config, cuda_stubs) == kept[model]["found"]
