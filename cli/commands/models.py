"""The command `tfm-cli models`, which lists the models that tfm can fetch, and the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options as o
from ..console import out, out_json, say, size, table

GROUP = "Make and check models"


def command(
    remove: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Remove the model or bundle NAME from the cache. If NAME is a model, tfm also removes the "
            "bundles that were made from this model.",
        ),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """List the models that tfm can fetch by name, and the models and bundles in the cache.

    The models that fit into this machine's memory come first.

    Example: tfm-cli models --remove smollm2-135m
    """
    from ...runtime.hub.aliases import ALIASES
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
                "source": m.source, "bytes": m.size, "megabytes": m.megabytes,
                "sha256": " ".join(one.sha256 for one in m.wheels),
            }
            for name, m in CATALOGUE.items()
        ]  # fmt: skip
        aliases = [{"name": name, **m._asdict(), "address": m.address} for name, m in ALIASES.items()]
        cache = [
            {
                "name": e.name, "kind": e.kind, "path": str(e.path), "bytes": e.bytes,
                "belongs_to": e.belongs_to,
            }
            for e in entries
        ]  # fmt: skip
        facts = {"catalogue": catalogue, "aliases": aliases, "cache_dir": str(cache_dir()), "cache": cache}
        out_json(facts)
        return
    table(
        ("CATALOGUE", "FOR", "SIZE", "MEMORY", "LICENCE", "ORIGIN", "WHAT"),
        [
            (
                name,
                m.task,
                size(m.size),
                "" if m.megabytes is None else size(m.megabytes * 1e6),
                m.licence,
                m.origin,
                m.about,
            )
            for name, m in CATALOGUE.items()
            if m.wheel
        ],
    )
    toys = {name: m.size for name, m in CATALOGUE.items() if not m.wheel}
    out(f"and toy models, {size(sum(toys.values()))} in all, that come with tfm: {', '.join(toys)}\n")
    _out_aliases()
    table(
        ("CACHE", "KIND", "SIZE", "BELONGS TO"),
        [(e.name, e.kind, size(e.bytes), e.belongs_to) for e in entries],
    )
    if any(entry.kind == "prepacked" for entry in entries):
        out("prepacked: a bundle's weights, stored as this processor reads them, for a faster start")
    out(f"{size(sum(e.bytes for e in entries))} in {cache_dir()}")


def _out_aliases() -> None:
    """Print the aliases. Aliases of models that fit into this machine's memory come first."""
    from ...runtime.hardware import memory
    from ...runtime.hub.aliases import ALIASES

    free = memory()
    fitting = {name: free is None or alias.megabytes * 1e6 <= free for name, alias in ALIASES.items()}
    for fits, head in ((True, "FITS HERE"), (False, "TOO LARGE HERE")):
        if rows := [
            (
                name,
                m.task,
                size(m.megabytes * 1e6),
                m.licence or "see its card",
                ", ".join(m.abilities),
                m.address,
            )
            for name, m in ALIASES.items()
            if fitting[name] is fits
        ]:
            table((head, "FOR", "MEMORY", "LICENCE", "HAS", "STANDS FOR"), rows)
            out()
    out(f"{'unknown' if free is None else size(free)} of memory is free. MEMORY is what a model needs with "
        "int8 weights and a text of 4,096 tokens. Its first export needs more.\n"
        "Names that stand for an hf: address aren't pinned to a version, and we haven't tried these models. "
        "The first fetch of a name records its files. Later ones must bring the same files.\n")  # fmt: skip
