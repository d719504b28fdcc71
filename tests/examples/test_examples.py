"""The examples run as their docstrings say, from the repository root, and print what they promise."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.refused import refused
from helpers.task_models import chat_model, tiny_reader
from tfm.refimpl.config import Tag

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PAGE = ROOT / "docs" / "PYTHON.md"


def run(name: str, *arguments: object) -> str:
    """What the example prints."""
    command = [sys.executable, f"tests/examples/{name}.py", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_check_my_kernel():
    correct, wrong = run("check_my_kernel").split("\n\nwithout rescaling:\n")
    assert (correct.startswith("my_attention keeps "), wrong.startswith("attend breaks ")) == (True, True)


def test_export_and_run(tmp_path: Path):
    shown = run("export_and_run", tmp_path)
    assert "verified: True" in shown
    assert "text: '" in shown


def test_quantize_a_weight():
    rows = [line.split() for line in run("quantize_a_weight").splitlines()[1:]]
    assert [row[:2] for row in rows] == [["8", "32"], ["8", "128"], ["4", "32"], ["4", "128"]]
    errors = [float(row[3].rstrip("%")) for row in rows]
    assert 0 < errors[0] < errors[1] < 1 < errors[2] < errors[3] < 20


@pytest.mark.real
def test_read_a_layer(smollm2_gguf: Path):
    rows = [line.split() for line in run("read_a_layer", smollm2_gguf, 29).splitlines()[1:]]
    assert ["decoder.layers.29.attn.wk", "Q4_1", "576x192"] in [row[:3] for row in rows]
    assert len(rows) == 9


def test_add_a_family(tmp_path: Path):
    shown = run("add_a_family", tmp_path)
    assert "kv_heads=4" in shown
    assert re.search(" token: .", shown)


def test_the_pages_lines_are_the_examples_and_run(monkeypatch: pytest.MonkeyPatch, capsys):
    """Which pyright reads beside the other tests; here on a tiny model."""
    section = PAGE.read_text().partition("## From Python")[2].partition("\n## ")[0]
    indented = [line for line in section.splitlines() if line.startswith("    ") or not line]
    shown = [line.strip() for line in indented if line]
    example = (FOLDER / "from_python.py").read_text().partition("noqa: E402, T201")[2].splitlines()
    assert shown == [line.strip() for line in example if line]
    tags = tiny_reader(Tag(3), ("O", "B-PER", "I-PER"))
    models = {"smollm2-135m": chat_model(ends=True), "demo-tag": tags}
    monkeypatch.setattr("tfm.load", models.__getitem__)
    ran = runpy.run_path(str(FOLDER / "from_python.py"))
    assert type(ran["reply"]).__name__ == "Reply"
    assert type(ran["reply"].agrees) is bool
    assert len(ran["labels"]) == 1
    assert len(ran["talk"].messages) == 5
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", ["add_a_family", "export_and_run", "read_a_layer"])
def test_an_example_without_its_arguments_prints_its_usage(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    with refused(SystemExit, "2"):
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().err.startswith(f"usage: {name}.py [-h] ")


def test_laws_without_their_packages_name_the_extra():
    code = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name: None if name in ('hypothesis', 'jaxtyping') else find(name)\n"
        "import tfm.refimpl.laws\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = "needs hypothesis and jaxtyping: pip install 'tfm-cli[laws]'"
    assert done.stderr.splitlines()[-1] == f"ImportError: tfm.refimpl.laws {expected}"


def test_the_page_links_every_example():
    programs = sorted(path.name for path in FOLDER.glob("*.py") if not path.name.startswith("test_"))
    assert programs
    for name in programs:
        assert f"(../tests/examples/{name})" in PAGE.read_text(), f"PYTHON.md must link tests/examples/{name}"
