"""The long run over all families, kept in families/checked.json, and FAMILIES.md's table of it.

    PYTHONPATH=tests python -m reports.checked --table
    PYTHONPATH=tests python -m reports.checked [--examples 20] [--exports 1] [--beams 50] [FAMILY ...]

For each model_type `--examples` configs are drawn and compared with transformers, for each further head half
as many. `--exports` models of each head are exported to ONNX in each quantization and run. `--beams` beam
searches are drawn if no family is named. Only the rows of the families named are made anew, or all rows; the
file is written after each.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from families import ROWS
from helpers.hf_oracle import LARGEST_ERROR, compare_with_transformers, draw_keys
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.families import CLASS_SUFFIXES, families
from tfm.refimpl.errors import TfmError

FILE = Path(__file__).parents[1] / "families" / "checked.json"
QUANTS = ("fp32", "int8", "int8-dynamic")


def tasks(name: str) -> list[str]:
    """The tasks of the heads that the row of a model_type states, each once."""
    architectures = families()[name].ARCHITECTURES

    def task(model: str) -> str:
        # A checkpoint that is saved as another family's class and rewritten has that class's name here.
        return architectures.get(model) or next(t for end, t in CLASS_SUFFIXES.items() if model.endswith(end))

    return list(dict.fromkeys(task(model.__name__) for model in ROWS[name].models))


def many(count: int) -> Callable[[Any], Any]:
    """Settings for so many examples, the same in each run; examples of earlier runs aren't used."""
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def drawn(name: str, kind: int, count: int, errors: list[float], refused: Counter[str]) -> None:
    """Configs against transformers, through files: an error each, or why one was refused."""

    @many(count)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        try:
            errors.append(compare_with_transformers(name, kind, data))
        except TfmError as error:
            refused[str(error).partition(": ")[2]] += 1

    run()


def exported(name: str, kind: int, count: int) -> list[dict[str, dict[str, Any]]]:
    """`end_to_end.export_and_compare` of drawn models in all quantizations."""
    from helpers.end_to_end import run_all

    with tempfile.TemporaryDirectory() as folder:
        return run_all(name, kind, draw_keys(name, 12 * count), Path(folder), QUANTS, count)


def row(name: str, examples: int, exports: int) -> dict[str, Any]:
    """A family's row; AssertionError where a result was silently wrong."""
    errors: list[float] = []
    refused: Counter[str] = Counter()
    results: list[dict[str, dict[str, Any]]] = []
    for kind in range(len(ROWS[name].models)):
        drawn(name, kind, examples if kind == 0 else examples // 2, errors, refused)
        results += exported(name, kind, exports)
    dialect = families()[name].GGUF
    original = [result["original"] for result in results]
    return {
        "tasks": tasks(name),
        "gguf": None if dialect is None else ", ".join(dialect.dialects),
        "drawn": len(errors) + refused.total(),
        "refused": dict(refused),
        "error": float(f"{max(errors):.2g}"),
        "exported": len(results),
        "share": round(max(result["share"] for result in original), 3),
        "tokens": sum(result.get("tokens", 0) for result in original),
        "others": sum(result.get("others", 0) for result in original),
        **{
            quant: {
                "share": round(max(result[quant]["share"] for result in results), 3),
                "steady": sum(result[quant]["steady"] for result in results),
            }
            for quant in QUANTS[1:]
        },
    }


def searched(count: int) -> int:
    """Draw so many beam searches and compare texts and scores with transformers'; returns how many ran."""
    from helpers.generation_oracle import PAIRS, rules, same_texts

    done = 0

    @many(count)
    @given(st.sampled_from(PAIRS), st.integers(0, 2**32 - 1), rules().filter(lambda r: r["num_beams"] > 1))
    def run(name: str, seed: int, options: dict[str, Any]) -> None:
        nonlocal done
        same_texts(name, seed, options)
        done += 1

    run()
    return done


def code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def table(report: dict[str, Any]) -> str:
    """FAMILIES.md's table, in Markdown."""
    rows = [
        f"| {code(name)} | {', '.join(r['tasks'])} | {r['drawn']} | {r['error']:.0e} "
        f"| {code(r['gguf'])} | {r['exported']} of {len(ROWS[name].models)} |"
        for name, r in sorted(report["families"].items())
    ]
    head = "| `model_type` | tasks | configs | worst error | GGUF | int8, int8-dynamic |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows]).replace("|  |", "| |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--exports", type=int, default=1)
    parser.add_argument("--beams", type=int, default=50)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    report = json.loads(FILE.read_text()) if FILE.exists() else {"families": {}}
    if options.table:
        print(table(report))
        return
    sizes = {name: getattr(options, name) for name in ("examples", "exports", "beams")}
    report["command"] = " ".join(
        ["PYTHONPATH=tests python -m reports.checked", *(f"--{name} {n}" for name, n in sizes.items())]
    )
    report["budget"] = LARGEST_ERROR
    if not options.names:
        report["beams"] = searched(options.beams)
    for name in options.names or sorted(ROWS):
        results = report["families"][name] = row(name, options.examples, options.exports)
        FILE.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        print(name, json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
