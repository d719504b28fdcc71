"""What a layout is: its name, what it refuses, and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ...refimpl.checkpoint.generation_config import Generation
from ...refimpl.config import Config
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target


@dataclass(frozen=True)
class BundleLayout:
    """One runtime's form of a bundle.

    `refusal` gives the reason why a model of that Config, exported for that target, can't have the layout. It
    gives None if the model can. `write` fills an empty directory.

    `options` are the ways to choose tokens that the runtime has, by the names of a Sampler and of a search.
    None means that it has all of them. Other options that a model asks for aren't written, because the
    runtime would ignore them.

    `must_end` concerns a model without an end token: the runtime then ends a text at token 0, which fills up
    rows.
    """

    name: str
    refusal: Callable[[Config, Target], str | None]
    write: Callable[[Bundle, Path], None]
    options: frozenset[str] | None = None
    must_end: bool = False

    def stated(self, generation: Generation) -> Generation:
        """Return how tokens are chosen by the runtime's files, for the model itself and for its tasks."""
        options = self.options
        if options is None:
            return generation
        defaults, search = (
            {name: value for name, value in stated.items() if name in options}
            for stated in (generation.defaults, generation.search)
        )
        tasks = {name: self.stated(task) for name, task in generation.tasks.items()}
        return replace(generation, defaults=defaults, search=search, tasks=tasks)

    def left_out(self, generation: Generation) -> str | None:
        """Return a line on what the model asks for and the runtime lacks, or None if it lacks nothing."""
        lost, lines = [], []
        for one in (generation, *generation.tasks.values()):
            kept = self.stated(one)
            stated, written = one.defaults | one.search, kept.defaults | kept.search
            lost += [f"{n}={v}" for n, v in stated.items() if n not in written and v is not None]
        if lost:
            lines.append(f"{self.name} chooses tokens without {', '.join(dict.fromkeys(lost))}")
        if self.must_end and not generation.eos:
            lines.append(f"{self.name} ends texts at token 0, as the model states no end")
        return "; ".join(lines) or None


def target_refusal(target: Target) -> str | None:
    """Return the reason why bundles for a target have no layouts, or None if they can have them."""
    if target.device != "cpu":
        # Of a standard graph's blocks ONNX Runtime makes integer products, unless a session's option says no.
        return (
            f"it is made of bundles for ort-cpu or ort-web, this one is for {target.name}: "
            "export for target=ort-cpu"
        )
    return None
