"""tfm beside the engines that people use today: one run, models loaded, measurements in turn.

    pip install llama-cpp-python                          in an environment of its own
    pip install onnxruntime-genai onnx onnx-ir torch transformers                      in a second
    pip install ctranslate2 torch transformers gguf accelerate                          in a third
    pip install openvino-genai                            in a fourth

prepare.py makes their models from the GGUF file that the bundles were exported from. Then

    tfm-cli export MODEL.gguf int8 --quant int8            and likewise keep, int8-dynamic
    tfm-cli export Q8_0.gguf int4 --quant int4 --table 4           whose 4-bit blocks are int4's own
    python tests/bench/peers.py --text FILE \\
        --tfm int8=DIR --tfm int4=DIR --tfm keep=DIR --tfm int8-dynamic=DIR \\
        --llama-python BIN --llama Q8_0=FILE --llama Q4_0=FILE --llama Q4_1=FILE \\
        --genai-python BIN --genai DIR --ct2-python BIN --ct2 DIR --openvino-python BIN --openvino FILE

A comparison whose two sides aren't both named is left out. Prefill ends when the first new token is
known, decode is all after it; figures are tokens a second, median (lowest to highest). Exit code 1:
a gate was missed. The peers' sources build or come as wheels; llama-cpp-python from source uses the
instructions of the machine that builds it, which is what it should be compared with.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from workers import IDLE, Series, Worker, head, idle, interleave, quiet, ratio


@dataclass(frozen=True)
class Pair:
    """A bundle, the llama.cpp file it is held against, and the least ratio for each phase."""

    ours: str
    theirs: str
    prefill: float | None
    decode: float | None


PAIRS = (
    Pair("int8", "Q8_0", prefill=1.4, decode=1.2),  # prefill 3.0 beside a llama.cpp without AMX
    Pair("int4", "Q4_0", prefill=1.8, decode=1.3),
    Pair("keep", "Q4_1", prefill=None, decode=1.15),
    Pair("keep", "Q4_K_M", prefill=1.8, decode=1.6),  # of Qwen2.5-Coder 1.5B
    Pair("int8-dynamic", "Q8_0", prefill=2.0, decode=None),
)


def named(values: list[str]) -> dict[str, Path]:
    """NAME=PATH options as a dictionary."""
    return {name: Path(path) for name, _, path in (value.partition("=") for value in values)}


def row(label: str, version: str, series: Series) -> str:
    figures = series.to_json()
    cells = []
    for phase in ("prefill", "decode"):
        f = figures[f"{phase}_tokens_per_s"]
        cells.append(f"{f['median']:7.1f} ({f['min']:6.1f} – {f['max']:6.1f})")
    used = idle(series.replies)
    busy = f"   used {used:.0%} of a processor while idle!" if used > IDLE else ""
    return f"{label:24} {cells[0]}   {cells[1]}   {version}{busy}"


def judge(pair: Pair, ours: Series, theirs: Series) -> dict[str, Any]:
    """Both ratios of a pair, with the gates that they must reach."""
    verdicts = {}
    for phase in ("prefill", "decode"):
        gate = getattr(pair, phase)
        value = ratio(getattr(ours, phase), getattr(theirs, phase))
        verdicts[phase] = {"ratio": value, "gate": gate, "ok": gate is None or value >= gate}
    return verdicts


def main(
    text: Annotated[Path, typer.Option(help="The prompt is its first tokens.")],
    tfm: Annotated[list[str], typer.Option(help="QUANT=BUNDLE")],
    llama: Annotated[list[str], typer.Option(help="TYPE=GGUF")] = [],  # noqa: B006
    llama_python: str = sys.executable,
    genai: Path | None = None,
    genai_python: str = sys.executable,
    ct2: Path | None = None,
    ct2_python: str = sys.executable,
    openvino: Annotated[Path | None, typer.Option(help="A GGUF file.")] = None,
    openvino_python: str = sys.executable,
    threads: int = 2,
    pairs: int = 5,
    prompt_tokens: int = 128,
    new_tokens: int = 128,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Measure, print a table, and exit 1 when a gate is missed."""
    bundles, files = named(tfm), named(llama)
    comparisons = [pair for pair in PAIRS if pair.ours in bundles and pair.theirs in files]
    tokenizer = (next(iter(bundles.values())) / "tokenizer.json").read_text(encoding="utf-8")
    ids = head(text, tokenizer, prompt_tokens)

    typer.echo(quiet(), nl=bool(quiet()))
    start = lambda kind, model, python: Worker(kind, model, python=python, threads=threads)  # noqa: E731
    workers = {f"tfm {p.ours}": start("onnx", bundles[p.ours], sys.executable) for p in comparisons}
    for name in {p.theirs for p in comparisons}:
        workers[f"llama.cpp {name}"] = start("llama", files[name], llama_python)
    others = [
        (f"{kind} {model.name}", start(kind, model, python))
        for kind, model, python in (
            ("genai", genai, genai_python),
            ("ct2", ct2, ct2_python),
            ("openvino", openvino, openvino_python),
        )
        if model is not None
    ]
    for worker in [*workers.values(), *(worker for _, worker in others)]:
        worker.measure(ids, new_tokens)  # the first run pages weights in

    typer.echo(f"{prompt_tokens} tokens in, {new_tokens} out, {threads} threads, {pairs} interleaved pairs")
    typer.echo(f"{'':24} {'prefill tokens/s':^25}   {'decode tokens/s':^25}")
    result: dict[str, Any] = {"pairs": [], "others": [], "threads": threads}
    good = True
    for pair in comparisons:
        sides = [
            (label, workers[label], Series(prompt_tokens, new_tokens))
            for label in (f"tfm {pair.ours}", f"llama.cpp {pair.theirs}")
        ]
        interleave([(worker, series) for _, worker, series in sides], ids, pairs)
        for label, worker, series in sides:
            typer.echo(row(label, worker.hello["version"], series))
        judged = judge(pair, sides[0][2], sides[1][2])
        for phase, verdict in judged.items():
            gate = "no gate" if verdict["gate"] is None else f"gate {verdict['gate']}"
            good &= verdict["ok"]
            typer.echo(
                f"  {phase} {verdict['ratio']:.2f} times ({gate}{'' if verdict['ok'] else ': MISSED'})"
            )
        engines = {label: series.to_json() | worker.hello for label, worker, series in sides}
        result["pairs"].append({"ours": pair.ours, "theirs": pair.theirs, "engines": engines} | judged)
    for label, worker in others:
        series = Series(prompt_tokens, new_tokens)
        interleave([(worker, series)], ids, pairs)
        typer.echo(row(label, worker.hello["version"], series))
        result["others"].append({"name": label} | series.to_json() | worker.hello)
    for worker in [*workers.values(), *(worker for _, worker in others)]:
        worker.close()
    if json_out is not None:
        json_out.write_text(json.dumps(result, indent=1) + "\n")
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
