"""`tfm-cli models`: the catalogue and the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options as o
from ..console import out, out_json, say, size, table

GROUP = "Make and check models"


def command(
    remove: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Remove this from the cache; a model goes with its bundles."),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """List the models that can be fetched by name, and what the cache holds.

    Example: tfm-cli models --remove smollm2-135m
    """
    from ...runtime.hub.cache_dir import cache_dir, cached
    from ...runtime.hub.cache_dir import remove as remove_cached
    from ...runtime.hub.model_names import CATALOGUE

    if remove is not None:
        for entry in remove_cached(remove):
            say(f"removed {entry.kind} {entry.name} ({size(entry.bytes)})")
        return
    entries = cached()
    if as_json:
        catalogue = [
            {
                "name": name, "about": m.about, "task": m.task, "origin": m.origin, "licence": m.licence,
                "source": m.source, "bytes": m.bytes, "sha256": m.sha256,
            }
            for name, m in CATALOGUE.items()
        ]  # fmt: skip
        cache = [{"name": e.name, "kind": e.kind, "path": str(e.path), "bytes": e.bytes} for e in entries]
        out_json({"catalogue": catalogue, "cache_dir": str(cache_dir()), "cache": cache})
        return
    table(
        ("CATALOGUE", "FOR", "SIZE", "LICENCE", "ORIGIN", "WHAT"),
        [(name, m.task, size(m.bytes), m.licence, m.origin, m.about) for name, m in CATALOGUE.items()],
    )
    out()
    table(
        ("MODEL", "SOURCE", "SHA256"),
        [(name, m.source, m.sha256) for name, m in CATALOGUE.items()],
    )
    out()
    table(("CACHE", "KIND", "SIZE"), [(e.name, e.kind, size(e.bytes)) for e in entries])
    if any(entry.kind == "prepacked" for entry in entries):
        out("prepacked: a bundle's weights as this processor wants them; without them it starts slower")
    out(f"{size(sum(e.bytes for e in entries))} in {cache_dir()}")
