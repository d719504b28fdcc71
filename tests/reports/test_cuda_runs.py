"""RUNTIMES.md has the table of placed families; a form that is placed again gives what was kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports import cuda_runs


def test_the_page_shows_it():
    text = (Path(__file__).parents[2] / "RUNTIMES.md").read_text()
    block = text.split("<!-- cuda runs: PYTHONPATH=tests python -m reports.cuda_runs --table -->\n")[1]
    assert block.split("\n<!-- end -->")[0] == cuda_runs.table()


def test_a_familys_forms_have_the_parts_that_ran():
    kept = json.loads(cuda_runs.FILE.read_text())
    assert kept
    for name in ("gpt_bigcode", "deberta"):
        forms = {form: cuda_runs.parts(config) for form, config in cuda_runs.forms(name)}
        assert forms == {form: one["parts"] for form, one in kept[name].items()}


@pytest.mark.long
def test_a_form_is_placed_as_it_was(cuda_stubs: Path):
    kept = json.loads(cuda_runs.FILE.read_text())["gpt_bigcode"]
    ((form, config), *_) = cuda_runs.forms("gpt_bigcode")
    assert cuda_runs.run(config, cuda_stubs) == kept[form]["found"]
