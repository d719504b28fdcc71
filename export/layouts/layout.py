"""Define the record of a layout: its name, which models it refuses, and which files it writes."""

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
    """The form in which one runtime reads a model: which models the runtime can run, and which files are
    written for it.

    `refusal` returns the reason why the layout can't be used for a model of this Config, exported for this
    target, or None if the layout can be used. `write` writes the files into an empty directory.

    `options` are the sampling and search options that the runtime supports, under tfm's names for them. None
    means that the runtime supports all options. If a model asks for any other option, the option isn't
    written, because the runtime would ignore it.

    `must_end` says that the runtime needs an end token. For a model without one, the runtime ends a text at
    token 0, the padding token.
    """

    name: str
    refusal: Callable[[Config, Target], str | None]
    write: Callable[[Bundle, Path], None]
    options: frozenset[str] | None = None
    must_end: bool = False

    def stated(self, generation: Generation) -> Generation:
        """Return the generation settings without the options that the runtime lacks, for the model itself and
        for its tasks.
        """
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
        """Return a line that names the options that the model asks for and the runtime lacks. Return None if
        the runtime supports all of them.

        The line also says if the runtime needs an end token that the model lacks.
        """
        lost, lines = [], []
        for one in (generation, *generation.tasks.values()):
            kept = self.stated(one)
            stated, written = one.defaults | one.search, kept.defaults | kept.search
            lost += [f"{n}={v}" for n, v in stated.items() if n not in written and v is not None]
        if lost:
            lines.append(
                f"{self.name} doesn't apply these settings of the model: {', '.join(dict.fromkeys(lost))}"
            )
        if self.must_end and not generation.eos:
            lines.append(f"{self.name} ends texts at token 0, because the model states no end token")
        return "; ".join(lines) or None


def target_refusal(target: Target) -> str | None:
    """Return the reason why bundles for a target can't be written in any layout, or None if they can."""
    if target.device != "cpu":
        # Of a standard graph's blocks ONNX Runtime makes integer products, unless a session's option says no.
        return (
            f"the bundle must be for ort-cpu or ort-web, but it is for {target.name}: export for "
            "target=ort-cpu"
        )
    return None
