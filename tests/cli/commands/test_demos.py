"""COMMANDS.md's commands on the models that come with tfm: as they stand, and what their cards say."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import demo
import pytest
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.hub import model_names
from tfm.runtime.hub.download import sha256
from tfm.runtime.hub.locate import fetch, locate
from tfm.runtime.tasks import Model

COMMANDS = (Path(__file__).parents[3] / "docs" / "COMMANDS.md").read_text()
LINES = re.findall(r"^    tfm-cli (.*?) +# (.*)$", COMMANDS.split("## Commands")[1].split("\n## ")[0], re.M)


def silent_notes(_: str) -> None:
    """Notes that nobody reads."""


DEMOS = {name: model for name, model in model_names.CATALOGUE.items() if not model.wheel}
SPECIFICATION = ("--engine", "numpy")
EXPORTED = ("tag", "summarize")  # an encoder, and one with a decoder: an export takes seconds
CASES = [(line, told, SPECIFICATION) for line, told in LINES] + [
    pytest.param(line, told, (), marks=pytest.mark.long) for line, told in LINES if line.startswith(EXPORTED)
]


def test_there_is_a_line_and_a_model_for_each_command() -> None:
    commands = [shlex.split(line)[0] for line, _ in LINES]
    assert commands == list(demo.COMMANDS)
    assert [model.task for model in DEMOS.values()] == commands
    assert [*DEMOS] == [f"demo-{command}" for command in commands]


@pytest.mark.parametrize(("line", "told", "engine"), CASES)
def test_a_line_of_the_readme_gives_what_stands_behind_it(tfm, line, told, engine) -> None:
    """What it says on stderr too."""
    arguments = shlex.split(line)
    ran = tfm(*arguments, *engine)
    assert ran.code == 0, ran.err
    name = f"demo-{arguments[0]}"
    assert re.match(f"{name} .* toy .*--model", ran.err), ran.err
    cells = [re.split("  +", row)[:2] for row in ran.out.splitlines()]
    match arguments[0]:
        case "classify":
            found = cells[1][1]
        case "tag":
            found = ", ".join(f"{entity} {label}" for entity, label in cells[1:])
        case "fill" | "answer":
            found = cells[1][0]
        case _:
            found = ran.out.strip()
    assert found == told


@pytest.mark.parametrize("name", DEMOS)
def test_a_card_says_how_often_the_model_is_right(name: str) -> None:
    path = model_names.DEMOS / name
    card = (path / "README.md").read_text()
    [stated] = re.findall(r"held out \| [\w ]+ ([\d.]+)% on 500 texts", card)
    world = import_module(f"demos.{DEMOS[name].task}").TASK
    checkpoint = open_checkpoint(path)
    model = Model(NumpyEngine(checkpoint.config, materialize(checkpoint.params)), checkpoint)
    examples = demo.held_out(world)[:40]
    score = world.score(world.answers(model, [e.text for e in examples]), [e.answer for e in examples])
    assert score >= float(stated) / 100 - 0.05
    assert float(stated) >= 90


def test_the_catalogue_states_their_files() -> None:
    total = 0
    for name, model in DEMOS.items():
        located = locate(name, silent_notes)
        assert located.path == fetch(name, silent_notes) == model_names.DEMOS / name
        assert located.digest() == model.sha256 == sha256(located.path / "model.safetensors")
        size = sum(file.stat().st_size for file in located.path.iterdir())
        assert model.bytes == size
        total += size
    assert total <= 2_000_000
    assert {path.name for path in model_names.DEMOS.iterdir()} == set(DEMOS)


def test_the_recipe_writes_the_files_that_are_there(tmp_path, monkeypatch) -> None:
    """Two steps and five texts of it."""
    monkeypatch.setattr(demo, "EXAMPLES", 5)
    module = import_module("demos.fill")
    monkeypatch.setattr(module, "TASK", replace(module.TASK, steps=2))
    demo.made(module, tmp_path, 0)
    written, there = tmp_path / "demo-fill", model_names.DEMOS / "demo-fill"
    assert {file.name for file in written.iterdir()} == {file.name for file in there.iterdir()}
    # As Configs: the writer also states fields that are newer than the file.
    assert open_checkpoint(written).config == open_checkpoint(there).config
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (written / file).read_bytes() == (there / file).read_bytes()
    assert (written / "model.safetensors").stat().st_size == (there / "model.safetensors").stat().st_size
