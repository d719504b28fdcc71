"""The table of components has no empty cell, nothing is missing from it, and what it names exists."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from helpers.mirror import over_both
from tfm.refimpl import laws
from tfm.refimpl.laws.kit.checking import EQUALS
from tfm.refimpl.laws.kit.declare import public, specified
from tfm.refimpl.laws.kit.settings import HAND

from reports import components
from reports.components import MIXED, NONE, ORACLES, OTHERS, PLUMBING, ROOT, TESTS, WHOLE, functions_of
from reports.onnx_cases import ADAPTERS

SHORT = components.ops_files()


def test_every_file_is_a_component_or_plumbing():
    """A new file of refimpl gets a row, or is among those that need none."""
    rooms = (ROOT / "refimpl", *(ROOT / "refimpl" / room for room in MIXED))
    there = {
        path.relative_to(ROOT / "refimpl").as_posix()
        for room in rooms
        for path in room.iterdir()
        if path.name not in ("__init__.py", *MIXED)
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    files = [file for other in OTHERS.values() for file in other.files]
    assert all((ROOT / "refimpl" / file).exists() for file in files)
    named = [file for file in files if file.split("/")[0] not in PLUMBING] + sorted(PLUMBING)
    assert len(named) == len(set(named))
    assert there == set(named)
    assert set(ORACLES) < set(SHORT)
    for component in SHORT:
        assert components.oracle_of(component), (
            f"{component} needs a test_{component}_is_… in test_oracles_*.py, or a line in components.ORACLES"
        )
    assert set(WHOLE) == {name.split(".")[0] for name in HAND}


@pytest.mark.parametrize("name", specified())
def test_every_function_has_a_law(name: str):
    """At least one besides equality with the specification."""
    assert set(laws.names()[name.split(".")[1]]) > {EQUALS}, f"{name} has no law in refimpl/laws"


def test_every_function_is_specified_or_fed_by_hand():
    everything = {f"{short}.{name}" for short, module in SHORT.items() for name in public(module)}
    assert everything == {*specified(), *HAND}
    assert set(components.graphs()) == set(over_both()), "each that runs over tensors is exported by itself"


def named_tests() -> list[str]:
    """Every test that the table names."""
    oracles = [*ORACLES.values(), *(other.oracle for other in OTHERS.values())]
    tests = [o for oracle in oracles if not isinstance(oracle, str) for o in oracle]
    return sorted({*tests, *(f for f, _ in WHOLE.values() if f is not None)})


@pytest.mark.parametrize("test", named_tests())
def test_what_the_table_names_exists(test: str):
    if "::" not in test:
        assert test in ADAPTERS, f"ONNX's cases of {test} aren't run"
        return
    file, name = test.split("::")
    assert name in functions_of(file), f"tests/{test} doesn't exist"


def test_no_cell_is_empty():
    """A yes with a count, or a reason."""
    rows = components.rows()
    assert len(rows) == len(SHORT) + len(OTHERS)
    for row in rows:
        for column, cell in asdict(row).items():
            assert cell, f"{row.component} has nothing under {column}"
            assert not cell.startswith(NONE) or len(cell) > len(NONE) + 10, f"{row.component}: {cell!r}"
            assert not cell.endswith(": 0"), f"{row.component}: {column} counts nothing"
            assert cell not in ("0", "0 graphs"), f"{row.component}: {column} counts nothing"
    for name in ORACLES:
        assert (ROOT / "refimpl" / "ops" / f"{name}.py").exists()
    for other in OTHERS.values():
        assert (TESTS / other.laws).exists()


def test_one_command_prints_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "300")
    components.main([])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*SHORT, *OTHERS))
    components.main(["--json"])
    printed = json.loads(capsys.readouterr().out)
    assert {row["component"] for row in printed} == {*SHORT, *OTHERS}
