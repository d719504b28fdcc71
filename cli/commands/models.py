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
    from ...runtime.hub.cache_dir import cache_dir, cached
    from ...runtime.hub.cache_dir import remove as remove_cached
    from ...runtime.hub.model_names import CATALOGUE

    if remove is not None:
        for one in remove_cached(remove):
            say(f"removed {one.kind} {one.name} ({size(one.bytes)})")
        return
    held = cached()
    if as_json:
        catalogue = [
            {"name": n, "source": f"pypi:{p.wheel}", "about": p.about, "megabytes": p.megabytes}
            for n, p in CATALOGUE.items()
        ]
        cache = [{"name": c.name, "kind": c.kind, "path": str(c.path), "bytes": c.bytes} for c in held]
        out_json({"catalogue": catalogue, "cache_dir": str(cache_dir()), "cache": cache})
        return
    table(
        ("CATALOGUE", "SIZE", "SOURCE", "WHAT"),
        [(n, f"{p.megabytes} MB", f"pypi:{p.wheel}", p.about) for n, p in CATALOGUE.items()],
    )
    out()
    table(("CACHE", "KIND", "SIZE"), [(c.name, c.kind, size(c.bytes)) for c in held])
    out(f"{size(sum(c.bytes for c in held))} in {cache_dir()}")
