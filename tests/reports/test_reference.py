"""The pages of reference name each option, each request with its fields, and each name of Python."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tfm
import typer.main
from tfm.cli import main
from tfm.runtime.serve import app, requests

from reports import reference


def sections(page: str) -> dict[str, str]:
    """Heading -> what is below it, up to the next."""
    return dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##+ |\Z)", page, re.M | re.S))


def test_commands_have_all_their_options():
    page = sections("\n".join(reference.commands()))
    group: Any = typer.main.get_command(main.application())
    for name, command in group.commands.items():
        flags = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
        assert {flag for flag in flags if f"`{flag}`" not in page[name] and flag[0] == "-"} == set(), name


def test_requests_have_all_their_fields():
    page = "\n".join(reference.server())
    for route in app.ROUTES:
        for method in (route.methods or set()) - {"HEAD"}:
            assert f"| `{method} {route.path_format}` |" in page
    fields = re.findall(r"^\| \**`(\w+)`\** \| .", sections(page)["ChatBody"], re.M)
    assert set(fields) == set(requests.ChatBody.model_fields)


def test_python_has_all_its_names():
    page = "\n".join(reference.python())
    assert set(re.findall(r"^(?:## |\| `)tfm\.(\w+)", page, re.M)) == set(tfm.__all__)


@pytest.mark.parametrize("written", ["a | b", "`a | b`", "\\[B, T] and <tag> and 2*3"])
def test_a_cell_stays_one_cell(written: str):
    [*_, row] = reference.table(["x"], [reference.text(written)])
    assert len(re.split(r"(?<!\\)\|", row)) == 3
