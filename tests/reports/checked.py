"""The long run over all families, kept in families/checked.json, and FAMILIES.md's table of it.

    PYTHONPATH=tests python -m reports.checked --table
    PYTHONPATH=tests python -m reports.checked [--examples 20] [--exports 1] [--beams 50] [FAMILY ...]
    PYTHONPATH=tests python -m reports.checked --bits [FAMILY ...]

For each model_type `--examples` configs are drawn and compared with transformers, for each further head half
as many. `--exports` models of each head are exported to ONNX in each quantization and run. `--beams` beam
searches are drawn if no family is named. Only the rows of the families named are made anew, or all rows; the
file is written after each. With `--bits` only what a row says of the same bits is.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from families import ROWS
from helpers.hf_oracle import LARGEST_ERROR, compare_with_transformers, draw_keys
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint import families as folder
from tfm.refimpl.checkpoint.families import CLASS_SUFFIXES, families
from tfm.refimpl.errors import TfmError

from reports.promised_bits import SCHEMES, parts, stopped

FILE = Path(__file__).parents[1] / "families" / "checked.json"
QUANTS = ("fp32", "int8", "int8-dynamic")
# The types whose models write calls of tools in each form of runtime/text/call_formats.py; others have models
# for which no form is known, or none that chat.
CALLS = {
    "harmony": "gpt_oss", "gemma-4": "gemma4 gemma4_text gemma4_unified gemma4_unified_text",
    "function-gemma": "gemma3_text", "gemma-3": "gemma3",
    "deepseek-v3.2": "deepseek_v32", "deepseek-v3": "deepseek_v3", "deepseek-v3.1": "deepseek_v3",
    "kimi-k2": "kimi_k2 kimi_k25", "minimax-m2": "minimax_m2",
    "glm-4.5": "glm4_moe bailing_hybrid laguna",
    "glm-4.7": "glm4_moe glm4_moe_lite glm_moe_dsa laguna",
    "qwen3-coder": "qwen3_moe qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text nemotron_h",
    "seed-oss": "seed_oss",
    "mistral-v13": "mistral mistral3 ministral3", "mistral-v11": "mistral mistral3",
    "mistral": "mistral mistral3", "command-a": "cohere2 cohere2_moe", "command-r": "cohere",
    "phi-4-mini": "phi3",
    "phi-4-mini-single": "phi3", "granite-3": "granite granitemoe", "lfm2": "lfm2 lfm2_moe",
    "olmo-3": "olmo3", "nemotron-2": "nemotron_h llama", "hunyuan-a13b": "hunyuan_v1_moe jamba",
    "hunyuan": "hunyuan_v1_dense", "apertus": "apertus", "gigachat": "deepseek_v3", "internlm-2": "internlm2",
    "hermes": "llama qwen2 qwen3 qwen3_moe smollm3 granitemoehybrid exaone4", "llama-3-tags": "llama",
    "llama-3": "llama", "llama-pythonic": "llama llama4 llama4_text", "xlam": "llama",
}  # fmt: skip


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
        "bits": stopped(name),
        "parts": parts(name),
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


def known_as(name: str) -> str:
    """The models of a type as people know them: what its family's file begins with."""
    files = pkgutil.iter_modules(folder.__path__)
    modules = (importlib.import_module(f"{folder.__name__}.{file.name}") for file in files)
    text = next(module.__doc__ or "" for module in modules if name in module.MODEL_TYPES)
    return re.split(r" \(|: |\. |\.$|, as text", " ".join(text.split()), maxsplit=1)[0]


def promised(bits: dict[str, str]) -> str:
    """Whether the same bits are promised, or what prevents it: one text if it is the same in all schemes."""
    whole = {scheme: bits.get(scheme, "not checked") for scheme in SCHEMES}
    told = {scheme: reason.removesuffix(" of ONNX Runtime") or "yes" for scheme, reason in whole.items()}
    alike = {text: [s for s in SCHEMES if told[s] == text] for text in told.values()}
    if len(alike) == 1:
        return told[SCHEMES[0]]
    return "; ".join(f"{', '.join(schemes)}: {text}" for text, schemes in alike.items())


def table(report: dict[str, Any]) -> str:
    """FAMILIES.md's table, in Markdown."""
    rows = [
        f"| {code(name)} | {known_as(name)} | {', '.join(r['tasks'])} | {r['drawn']} | {r['error']:.0e} "
        f"| {code(r['gguf'])} | {r['exported']} of {len(ROWS[name].models)} "
        f"| {', '.join(form for form, types in CALLS.items() if name in types.split())} "
        f"| {promised(r['bits'])} |"
        for name, r in sorted(report["families"].items())
    ]
    heads = "`model_type`, models, tasks, configs, worst error, GGUF, int8 and int8-dynamic, calls, same bits"
    head = f"| {heads.replace(', ', ' | ')} |"
    return re.sub(r"\|  (?=\|)", "| ", "\n".join([head, "|---" * 9 + "|", *rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--exports", type=int, default=1)
    parser.add_argument("--beams", type=int, default=50)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--bits", action="store_true")
    options = parser.parse_args()
    report = json.loads(FILE.read_text()) if FILE.exists() else {"families": {}}
    if options.table:
        print(table(report))
        return
    sizes = {name: getattr(options, name) for name in ("examples", "exports", "beams")}
    if not options.bits:
        report["command"] = " ".join(
            ["PYTHONPATH=tests python -m reports.checked", *(f"--{name} {n}" for name, n in sizes.items())]
        )
        report["budget"] = LARGEST_ERROR
    if not options.names and not options.bits:
        report["beams"] = searched(options.beams)
    for name in options.names or sorted(ROWS):
        if options.bits:
            results = report["families"][name] | {"bits": stopped(name), "parts": parts(name)}
        else:
            results = row(name, options.examples, options.exports)
        report["families"][name] = results
        FILE.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        print(name, json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
