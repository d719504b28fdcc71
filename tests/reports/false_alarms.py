"""Bundles of all tiny models that nobody changed, verified: each row that fails is a false alarm.

    PYTHONPATH=tests python -m reports.false_alarms [--full] [--only NAME ...] [--quants QUANT ...]

Prints each bundle with its failed rows, and at the end how many bundles and rows there were.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import inspect
import tempfile
from pathlib import Path
from typing import get_args

from helpers import tiny_models
from helpers.exported import exported
from tfm.refimpl.config import Config
from tfm.refimpl.errors import ExportError
from tfm.runtime.verification.verify import verify

QUANTS = ("fp32", "int8", "int4", "int8-dynamic")
KINDS = get_args(Config)


def configs() -> dict[str, Config]:
    """Each tiny model that needs no argument, by its name."""
    found = {name: f for name, f in vars(tiny_models).items() if inspect.isfunction(f)}
    return {
        name: make()
        for name, make in found.items()
        if make.__annotations__.get("return") in KINDS
        and all(p.default is not p.empty for p in inspect.signature(make).parameters.values())
    }


def main() -> None:
    parser, models = argparse.ArgumentParser(description="Look for false alarms of verify."), configs()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", default=list(models), choices=models)
    parser.add_argument("--quants", nargs="+", default=QUANTS)
    options = parser.parse_args()
    bundles = rows = alarms = 0
    for name in options.only:
        for quant in options.quants:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    bundle = exported(Path(folder), models[name], quant=quant)
                except ExportError as error:
                    print(f"{name} {quant}: no bundle: {error}", flush=True)
                    continue
                report = verify(bundle.path, full=options.full)
            judged = [row for check in report.checks for row in check.rows if row.ok is not None]
            failed = [row for row in judged if row.ok is False]
            print(f"{name} {quant}: {len(judged)} rows", *failed, sep="\n  ", flush=True)
            bundles, rows, alarms = bundles + 1, rows + len(judged), alarms + len(failed)
    print(f"{bundles} bundles, {rows} rows, {alarms} false alarms")


if __name__ == "__main__":
    main()
