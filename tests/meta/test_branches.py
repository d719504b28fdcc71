"""Each branch of a composite is taken by others' code or by the plain model, as branches.json says."""

from __future__ import annotations

from pathlib import Path

import branches
import pytest

NEW = "run `python tests/meta/branches.py TEST ...` with a comparison that takes it"


def test_every_branch_of_a_composite_is_taken_from_outside():
    names = set(branches.composites())
    taken = set(branches.measured())
    assert names - taken == set(branches.UNTAKEN), NEW
    assert taken <= names, "branches.json has branches that are gone: run a judge again"


def test_judges_are_there():
    """Those of families by their family, the others by their file."""
    judges = {judge for found in branches.measured().values() for judge in found}
    files = {judge.split("::")[0] for judge in judges}
    assert files <= {judge.split("::")[0] for judge in branches.JUDGES}
    for file in files:
        text = (branches.ROOT / file).read_text()
        named = {judge.split("::")[1].split("[")[0] for judge in judges if judge.startswith(file)}
        assert not [name for name in named if f"def {name}(" not in text]


SOURCE = '''
def f(x, y=None):
    """Its text."""
    if x > 1:
        raise ValueError
    match y:
        case None:
            return [a for a in x if a] or 0
        case _:
            raise AssertionError
    return x if y else x if y else None
'''


def test_branches_are_named_by_their_text():
    assert sorted(branches.branches(SOURCE, "m")) == sorted([
        "m.f: call",
        "m.f: not (x > 1)",
        "m.f: case None",
        "m.f: a",
        "m.f: not (a)",
        "m.f: [a for a in x if a]",
        "m.f: not ([a for a in x if a])",
        "m.f: y",
        "m.f: not (y)",
        "m.f: y #2",
        "m.f: not (y) #2",
    ])  # fmt: skip


def test_a_judge_says_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    judge = f"{branches.PLAIN}::test_encoder_decoders"
    monkeypatch.setattr(branches, "MEASURED", tmp_path / "branches.json")
    branches.write(branches.run([judge]))
    taken = branches.measured()
    assert taken["encoder.encoder_kv: call"] == [judge]
    assert {"block._cross: cross is None", "block._cross: not (cross is None)"} <= set(taken)
    assert "encoder.predict: call" not in taken
