"""The families that ONNX Runtime's CUDA provider placed over stubs, kept in families/placed.json, as a table.

    PYTHONPATH=tests python -m reports.cuda_runs --table
    PYTHONPATH=tests python -m reports.cuda_runs [FAMILY ...]

Of each family one drawn config is exported in fp16 in each of its forms: with a cache, for a decoder, and as
a text that is one run, under the first head that has it. Heads are the same operators in all families, which
tests/export/targets/test_cuda_placement.py places one by one. Forms of the same parts are run once. The file
is written after each run; a form whose parts are those of the file stays.
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
from helpers.cuda_placement import SIZES, place, write_graphs
from helpers.hf_oracle import draw_keys
from tfm.refimpl.config import Config
from tfm.refimpl.errors import TfmError
from tfm.refimpl.families import read_config
from tfm.runtime.bundle import operator_limits, targets
from tfm.runtime.kernels.compilers import available
from tfm.runtime.kernels.platforms import Platform

FILE = Path(__file__).parents[1] / "families" / "placed.json"
TARGET = targets.find("ort-cuda")
FORMS = ("with a cache", "a text is one run")
HEAD = ("over stubs, one drawn config each", *FORMS)


def forms(name: str) -> Iterator[tuple[str, Config]]:
    """The forms of a family that have a bundle for ort-cuda, each with its first model's Config."""
    row, seen = ROWS[name], set()
    for i, model in enumerate(row.models):
        keys = draw_keys(name, 1)[0]
        keys = {**(row.reading(keys) if i else keys), "architectures": [model.__name__]}
        try:
            config, _ = read_config(row.config(**keys).to_dict())
        except TfmError:
            continue  # a head that asks for more keys, such as two labels
        form = FORMS["decoder" not in config.stacks]
        reasons = (
            operator_limits.recurrence(TARGET, config, "float16"),
            operator_limits.selection(config, "float16"),
            operator_limits.untried(TARGET, config),
        )
        if form not in seen and not any(reasons):
            seen.add(form)
            yield form, config


def parts(config: Config) -> str:
    """A hash of what a Config consists of, without its numbers and its head."""

    def shape(value: Any) -> Any:
        if is_dataclass(value):
            # What is off is left out, so that a new option changes no hash.
            named = {f.name: getattr(value, f.name) for f in fields(value)}
            return [type(value).__name__, {name: shape(one) for name, one in named.items() if one}]
        if isinstance(value, tuple | list):
            return sorted({json.dumps(shape(one)) for one in value})
        if isinstance(value, Mapping):
            return {str(key): shape(one) for key, one in value.items()}
        return value if isinstance(value, bool | str | None) else type(value).__name__

    described = [shape(config.embedding), {name: shape(stack) for name, stack in config.stacks.items()}]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def run(config: Config, stubs: Path) -> str:
    """Where the nodes are, in a few words."""
    with tempfile.TemporaryDirectory() as folder:
        placements = [place(graph, stubs) for graph in write_graphs(config, "fp16", Path(folder))]
    copied = sum(len(one.copied) for one in placements)
    others = sorted({name for one in placements for name in one.on_cpu if name not in SIZES})
    if copied or others:
        return f"{copied} values are copied; on the CPU: {', '.join(others) or 'sizes'}"
    refused = any(one.capture for one in placements)
    return f"all but sizes on CUDA, no copies, a capture is {'refused' if refused else 'accepted'}"


def run_all(names: list[str]) -> None:
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    known = {one["parts"]: one["found"] for family in found.values() for one in family.values()}
    with tempfile.TemporaryDirectory() as folder:
        stubs = cuda_stubs.build(Path(folder), available(Platform.here())[0])
        for name in names:
            family = {}
            for form, config in forms(name):
                if (key := parts(config)) not in known:
                    known[key] = run(config, stubs)
                family[form] = {"parts": key, "found": known[key]}
                print(f"{name}, {form}: {known[key]}", flush=True)
            found[name] = family
            FILE.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


def table() -> str:
    """The families of each outcome, by form; those whose parts ran as an earlier family's are in brackets."""
    cells: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    seen: set[str] = set()
    for name, family in json.loads(FILE.read_text()).items():
        for form, one in family.items():
            cells[one["found"]][form].append(f"({name})" if one["parts"] in seen else name)
            seen.add(one["parts"])
    rows = [
        (found, *(", ".join(by_form[form]) for form in FORMS)) for found, by_form in sorted(cells.items())
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, ("---",) * len(HEAD), *rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("families", nargs="*")
    given = parser.parse_args()
    if given.table:
        print(table())
    else:
        run_all(given.families or sorted(ROWS))
