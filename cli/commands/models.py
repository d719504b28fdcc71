"""`tfm-cli models`: the catalogue and the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from ..console import out, out_json, say, size, table

GROUP = "Make and check models"


def command(
    remove: Annotated[
        str | None, typer.Option(metavar="NAME", help="Remove this from the cache, a model with its bundles.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List the models that can be fetched by name, and what the cache holds."""
    from ...runtime.hub import model_names

    if remove is not None:
        for one in model_names.remove(remove):
            say(f"removed {one.kind} {one.name} ({size(one.bytes)})")
        return
    held = model_names.cached()
    if as_json:
        catalogue = [
            {"name": n, "source": f"pypi:{p.wheel}", "about": p.about, "megabytes": p.megabytes}
            for n, p in model_names.CATALOGUE.items()
        ]
        cache = [{"name": c.name, "kind": c.kind, "path": str(c.path), "bytes": c.bytes} for c in held]
        out_json({"catalogue": catalogue, "cache_dir": str(model_names.cache_dir()), "cache": cache})
        return
    table(
        ("CATALOGUE", "SIZE", "SOURCE", "WHAT"),
        [(n, f"{p.megabytes} MB", f"pypi:{p.wheel}", p.about) for n, p in model_names.CATALOGUE.items()],
    )
    out()
    table(("CACHE", "KIND", "SIZE"), [(c.name, c.kind, size(c.bytes)) for c in held])
    out(f"{size(sum(c.bytes for c in held))} in {model_names.cache_dir()}")
