"""What a long run saw of each family, kept in families/checked.json, and the README's table of it.

    PYTHONPATH=tests python -m reports.checked --table
    PYTHONPATH=tests python -m reports.checked [--examples 20] [--exports 1] [--beams 50] [FAMILY …]

Of each model_type `--examples` configs are drawn against transformers, of each other head half as many,
and `--exports` of each are exported to ONNX in each quantization and run; `--beams` searches are drawn
where no family is named. The rows of those that are named are made anew, or all; the file is written after
each.
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
from tfm.refimpl.errors import TfmError
from tfm.refimpl.families import families

FILE = Path(__file__).parents[1] / "families" / "checked.json"
QUANTS = ("fp32", "int8", "int8-dynamic")


def tasks(name: str) -> list[str]:
    """What the heads of a model_type that its row states say, each once."""
    said = families()[name].ARCHITECTURES
    return list(dict.fromkeys(said[model.__name__] for model in ROWS[name].models))


def many(count: int) -> Callable[[Any], Any]:
    """That many examples, the same each time, and none of earlier runs."""
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
    """A family's row; AssertionError where anything was silently wrong."""
    errors: list[float] = []
    refused: Counter[str] = Counter()
    went: list[dict[str, dict[str, Any]]] = []
    for kind in range(len(ROWS[name].models)):
        drawn(name, kind, examples if kind == 0 else examples // 2, errors, refused)
        went += exported(name, kind, exports)
    dialect = families()[name].GGUF
    original = [found["original"] for found in went]
    return {
        "tasks": tasks(name),
        "gguf": None if dialect is None else ", ".join(dialect.dialects),
        "drawn": len(errors) + refused.total(),
        "refused": dict(refused),
        "error": float(f"{max(errors):.2g}"),
        "exported": len(went),
        "share": round(max(found["share"] for found in original), 3),
        "tokens": sum(found.get("tokens", 0) for found in original),
        "others": sum(found.get("others", 0) for found in original),
        **{
            quant: {
                "share": round(max(found[quant]["share"] for found in went), 3),
                "steady": sum(found[quant]["steady"] for found in went),
            }
            for quant in QUANTS[1:]
        },
    }


def searched(count: int) -> int:
    """That many searches through beams, drawn, whose texts and scores are transformers'."""
    from helpers.generation_oracle import PAIRS, rules, same_texts

    done = 0

    @many(count)
    @given(st.sampled_from(PAIRS), st.integers(0, 2**32 - 1), rules().filter(lambda r: r["num_beams"] > 1))
    def run(name: str, seed: int, asked: dict[str, Any]) -> None:
        nonlocal done
        same_texts(name, seed, asked)
        done += 1

    run()
    return done


def table(held: dict[str, Any]) -> str:
    """The README's table, in Markdown."""
    code = lambda text: f"`{text}`" if text else ""  # noqa: E731
    rows = [
        f"| {code(name)} | {', '.join(r['tasks'])} | {r['drawn']} | {r['error']:.0e} "
        f"| {code(r['gguf'])} | {r['exported']} of {len(ROWS[name].models)} |"
        for name, r in sorted(held["families"].items())
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
    asked = parser.parse_args()
    held = json.loads(FILE.read_text()) if FILE.exists() else {"families": {}}
    if asked.table:
        print(table(held))
        return
    sizes = {name: getattr(asked, name) for name in ("examples", "exports", "beams")}
    held["command"] = " ".join(
        ["PYTHONPATH=tests python -m reports.checked", *(f"--{name} {n}" for name, n in sizes.items())]
    )
    held["budget"] = LARGEST_ERROR
    if not asked.names:
        held["beams"] = searched(asked.beams)
    for name in asked.names or sorted(ROWS):
        made = held["families"][name] = row(name, asked.examples, asked.exports)
        FILE.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")
        print(name, json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
