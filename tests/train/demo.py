"""Trains the demo models that come with tfm: toys, one for each command that has no small real model.

    python tests/train/demo.py OUT                      all of them; runtime/hub/demos holds what this wrote
    python tests/train/demo.py OUT --only demo-tag      one of them

Each becomes a directory OUT/NAME with its card. All texts are drawn by the files of tests/train/demos. The
same seed trains the same models; another version of torch or another processor may round its sums otherwise.
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
import task
import typer
from compare import models
from tfm.cli.console import out, progress, say
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten

COMMANDS = ("classify", "tag", "fill", "answer", "translate", "summarize")
EXAMPLES = 500  # that each is scored on, and that it isn't trained on
SHOWN = 3  # of these, on the card
CARD = """\
---
license: apache-2.0
---
# {name}

A toy that comes with tfm, so that `tfm-cli {command}` can be tried without a download. {about}

It is of no use for other texts: take a real model for them.

| | |
|---|---|
| parameters | {parameters:,}, float16 |
| held out | {measure} {score:.1%} on {examples} texts never trained on (the specification, in NumPy) |
| made by | `python tests/train/demo.py OUT`, seed {seed}, {steps:,} steps of {batch} texts |
| texts | all drawn by `tests/train/demos/{command}.py`, none from elsewhere |
| licence | Apache-2.0, as tfm |

Some of the held out texts, with the right answers:

{shown}
"""


def main(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Where the models are written.")],
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One of them, as demo-tag.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train, score, write; scores on stdout, progress on stderr."""
    names = [f"demo-{command}" for command in COMMANDS]
    if odd := sorted(set(only or ()) - set(names)):
        raise typer.BadParameter(f"--only must be one of {', '.join(names)}, got {odd[0]!r:.40}")
    for name, command in zip(names, COMMANDS, strict=True):
        if name in (only or names):
            begin = time.monotonic()
            score = made(import_module(f"demos.{command}"), folder, seed)
            out(f"{name}: {score:.1%}, {time.monotonic() - begin:.0f} s")


def held_out(world: task.Task, seed: int = 0, count: int = EXAMPLES) -> list[task.Example]:
    """The texts that the model isn't trained on."""
    rng = np.random.default_rng([seed, 2])
    return [world.draw(rng) for _ in range(count)]


def made(module: ModuleType, folder: Path, seed: int) -> float:
    """The score of a demo model, which is written to the folder with its card."""
    world: task.Task = replace(module.TASK, dtype=np.float16)
    examples = held_out(world, seed)
    say(f"{world.name}: {world.steps} steps")
    path = task.learn(world, folder, examples, seed=seed, progress=progress())
    return carded(path, module, examples, seed)


def carded(path: Path, module: ModuleType, examples: list[task.Example], seed: int) -> float:
    """The score on the examples of the model that was written to the path; its card is written beside it."""
    world: task.Task = module.TASK
    _, model = next(models(path, ()))
    score = world.score(world.answers(model, [e.text for e in examples]), [e.answer for e in examples])
    card = CARD.format(
        name=world.name,
        command=world.name.removeprefix("demo-"),
        about=" ".join((module.__doc__ or "").split()),
        parameters=sum(int(np.prod(shape)) for _, shape in flatten(parameter_shapes(model.config))),
        measure=world.measure,
        score=score,
        examples=len(examples),
        seed=seed,
        steps=world.steps,
        batch=task.BATCH,
        shown="\n".join(f"    {e.text} -> {e.answer}" for e in examples[:SHOWN]),
    )
    (path / "README.md").write_text(card, encoding="utf-8")
    return score


if __name__ == "__main__":
    typer.run(main)
