"""The families that ONNX Runtime's CUDA provider placed over stubs, kept in families/placed.json, as a list.

    PYTHONPATH=tests python -m reports.cuda_runs --table
    PYTHONPATH=tests python -m reports.cuda_runs [FAMILY ...]

Of each family one drawn config is exported in fp16 under each of its classes: with a cache where text is
written, else as a text that is one run, under the head of the class. It is the first of the drawn ones that
have the most kinds of layers. A model of which both the stacks and the head ran, with others, isn't run. The
file is written after each family.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from families import ROWS
from helpers import cuda_stubs
from helpers.cuda_placement import place_all, problems
from helpers.hf_oracle import draw_keys
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import Config
from tfm.runtime.bundle import operator_limits, targets
from tfm.runtime.kernels.compilers import available
from tfm.runtime.kernels.platforms import Platform

from reports.layouts import listed

FILE = Path(__file__).parents[1] / "families" / "placed.json"
TARGET = targets.find("ort-cuda")
DRAWN = 12
PLACED, NO_BUNDLE = "all but sizes on CUDA, no copies", "no bundle"


def configs(name: str) -> Iterator[tuple[str, Config]]:
    """The Config of a family's drawn keys under each of its classes, with the name of the class."""
    row = ROWS[name]

    def config(keys: dict[str, Any], model: Any) -> Config:
        if model.__name__.removesuffix("Simple").endswith("QuestionAnswering"):
            keys = {**keys, "num_labels": 2}
        return read_config(row.config(**keys, architectures=[model.__name__]).to_dict())[0]

    first, *others = row.models
    # A single draw first, which other tests place; it often has one kind of layer where a family has several.
    drawn = [*draw_keys(name, 1), *draw_keys(name, DRAWN)]
    keys = max(drawn, key=lambda keys: len(_kinds(config(keys, first))))
    yield first.__name__, config(keys, first)
    for model in others:
        yield model.__name__, config(keys, model)


def _kinds(config: Config) -> set[type]:
    layers = [layer for stack in config.stacks.values() for layer in stack.layers]
    return {type(part) for layer in layers for part in (layer.attention, layer.mlp)}


def parts(config: Config) -> dict[str, str]:
    """Hashes of what a Config's stacks and its head consist of, without their numbers."""

    def shape(value: Any) -> Any:
        if is_dataclass(value):
            # What is off is left out, so that a new option changes no hash.
            named = {f.name: getattr(value, f.name) for f in fields(value)}
            return [type(value).__name__, {name: shape(one) for name, one in named.items() if one}]
        if isinstance(value, tuple | list):
            return sorted({json.dumps(shape(one), sort_keys=True) for one in value})
        if isinstance(value, Mapping):
            return {str(key): shape(one) for key, one in value.items()}
        return value if isinstance(value, bool | str | None) else type(value).__name__

    # Numbers decide whether ONNX Runtime's operators can be used.
    limits = [bool(operator_limits.group_query(config)), bool(operator_limits.multi_head(config))]
    stacks = {name: shape(stack) for name, stack in config.stacks.items()}
    described = {"stacks": [shape(config.embedding), stacks, limits], "head": shape(config.head)}

    def hashed(value: Any) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]

    return {name: hashed(value) for name, value in described.items()}


def run(config: Config, stubs: Path) -> str:
    """Where the nodes are, in a few words, or why there is no bundle."""
    if reason := operator_limits.no_bundle(TARGET, config, "float16"):
        return f"{NO_BUNDLE}: {reason}"
    with tempfile.TemporaryDirectory() as folder:
        return "; ".join(problems(config, place_all(config, "fp16", Path(folder), stubs))) or PLACED


def run_all(names: list[str]) -> None:
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    ran = {(one["stacks"], one["head"]): one["found"] for family in kept.values() for one in family.values()}
    with tempfile.TemporaryDirectory() as folder:
        stubs = cuda_stubs.build(Path(folder), available(Platform.here())[0])
        for name in names:
            family = {}
            for model, config in configs(name):
                hashes = parts(config)
                key = hashes["stacks"], hashes["head"]
                placed = [set(side) for side in zip(*(k for k, v in ran.items() if v == PLACED), strict=True)]
                if key not in ran:
                    apart = len(placed) == 2 and key[0] in placed[0] and key[1] in placed[1]
                    ran[key] = PLACED if apart else run(config, stubs)
                family[model] = {"cache": "decoder" in config.stacks, **hashes, "found": ran[key]}
                print(f"{name}, {model}: {ran[key]}", flush=True)
            kept[name] = family
            FILE.write_text(as_text(kept))


def as_text(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with a line for each class."""
    families = []
    for name, family in sorted(kept.items()):
        lines = [f"  {json.dumps(model)}: {json.dumps(one)}" for model, one in family.items()]
        families.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(families) + "\n}\n"


def table() -> str:
    """The families of each outcome and form; with its classes where others of the form have another one."""
    cells: dict[str, list[str]] = defaultdict(list)
    for name, family in json.loads(FILE.read_text()).items():
        for cache in (True, False):
            classes: dict[str, list[str]] = defaultdict(list)
            for model, one in family.items():
                if one["cache"] == cache:
                    classes[one["found"].split(":")[0]].append(model)
            for found, models in classes.items():
                form = f"{'a decoder with a cache' if cache else 'a text in one run, each head'}: {found}"
                cells[form].append(f"{name} ({', '.join(models)})" if len(classes) > 1 else name)
    return listed(dict(sorted(cells.items())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("families", nargs="*")
    given = parser.parse_args()
    if given.table:
        print(table())
    else:
        run_all(given.families or sorted(ROWS))
