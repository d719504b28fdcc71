"""A fixture for tests that export models."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import pytest
from tfm.export.graph import decompose as rules
from tfm.export.graph import trace
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operator of a graph has a rule of `decompose`, or torch would trace the program again.

    That takes longer than the whole export. Only a loop's step has graphs of its own that need it.
    """

    def decompose(program: ExportedProgram, table: Container[Any]) -> bool:
        if rules.decompose(program, table):
            return True
        targets = [node.target for node in program.graph.nodes]
        if not any(isinstance(target, HigherOrderOperator) for target in targets):
            ruleless = {str(t) for t in targets if t not in rules.RULES and not rules._stays(t, table)}
            assert not ruleless, f"torch traces the program again for {sorted(ruleless)}"
        return False

    monkeypatch.setattr(trace, "decompose", decompose)
