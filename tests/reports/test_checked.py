"""families/checked.json has a row for every family, none is stale, and FAMILIES.md shows them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from families import ROWS
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.families import families
from tfm.refimpl.errors import ConfigError
from tfm.runtime.bundle.same_bits import KEPT_BY_ONNX
from tfm.runtime.text.call_formats import BY_NAME

from reports import checked
from reports.promised_bits import SCHEMES, parts

REPORT: dict[str, Any] = json.loads(checked.FILE.read_text())
FAMILIES: dict[str, dict[str, Any]] = REPORT["families"]


def test_every_family_has_its_row_and_no_other():
    assert set(FAMILIES) == set(ROWS) == set(families()) - {"tfm"}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_row_is_of_the_family_as_it_is(name: str):
    row, dialect = FAMILIES[name], families()[name].GGUF
    assert row["tasks"] == checked.tasks(name)
    assert {"int8"} <= row["bits"].keys() <= {*SCHEMES}, "somebody has checked the same bits"
    # An operator that keeps bits by now stops nobody: --bits makes the row anew.
    stops = {word.strip(",") for reason in row["bits"].values() for word in reason.split()}
    assert not stops & KEPT_BY_ONNX
    assert row["gguf"] == (None if dialect is None else ", ".join(dialect.dialects))
    assert row["exported"] >= len(ROWS[name].models), "each head went all the way"
    assert row["error"] <= REPORT["budget"] == checked.LARGEST_ERROR
    assert max(row["share"], *(row[quant]["share"] for quant in checked.QUANTS[1:])) <= 1


def test_the_same_bits_are_told_of_the_config_as_it_is():
    """With other mixers or mlps than the row's, --bits makes what the row says anew."""
    assert {name: parts(name) for name in FAMILIES} == {name: row["parts"] for name, row in FAMILIES.items()}


def test_the_run_was_long_enough():
    drawn = sum(row["drawn"] for row in FAMILIES.values())
    refused = sum(count for row in FAMILIES.values() for count in row["refused"].values())
    assert drawn >= 500
    assert refused <= drawn / 20
    assert REPORT["beams"] >= 50


def test_forms_of_calls_are_of_types_that_are_read():
    """All forms but that of DeepSeek V4, whose type isn't."""
    assert set(checked.CALLS) == set(BY_NAME) - {"deepseek-v4"}
    assert {name for types in checked.CALLS.values() for name in types.split()} <= set(families())


def test_the_same_bits_are_told_once_or_by_scheme():
    bits = dict.fromkeys(SCHEMES, "Cos, Sin of ONNX Runtime")
    assert checked.promised(bits) == "Cos, Sin"
    assert checked.promised(dict.fromkeys(SCHEMES, "")) == "yes"
    assert checked.promised(bits | {"int8": ""}) == "int8: yes; int8-dynamic, int4: Cos, Sin"
    assert checked.promised({"int8": ""}) == "int8: yes; int8-dynamic, int4: not checked"


def test_the_page_shows_it():
    text = (Path(__file__).parents[2] / "docs" / "FAMILIES.md").read_text()
    block = text.split("<!-- families: PYTHONPATH=tests python -m reports.checked --table -->\n")[1].split(
        "\n<!-- end -->"
    )[0]
    assert block == checked.table(REPORT)


def test_the_readme_has_the_number_of_those_that_read_texts_in_tens():
    text = (Path(__file__).parents[2] / "README.md").read_text()
    stated = {int(number) for number in re.findall(r"(\d+) types", text)}
    assert stated == {len(FAMILIES.keys() - {"whisper"}) // 10 * 10}


def test_what_is_refused_is_counted_and_what_is_wrong_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str, kind: int, data: Any) -> float:
        data.draw(st.integers())
        raise ConfigError("config.json: head_dim must be even")

    errors: list[float] = []
    refused: Counter[str] = Counter()
    monkeypatch.setattr(checked, "compare_with_transformers", refuse)
    checked.drawn("llama", 0, 3, errors, refused)
    assert (errors, refused) == ([], {"head_dim must be even": 3})
    monkeypatch.setattr(checked, "compare_with_transformers", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checked.drawn("llama", 0, 3, errors, refused)
