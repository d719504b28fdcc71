"""A table of runtimes on converted bundles: their tokens or vectors beside tfm's own, speed and size.

    PYTHONPATH=tests python tests/bench/runtimes.py prepare FOLDER               models, layouts, environments
    PYTHONPATH=tests python tests/bench/runtimes.py check FOLDER MODEL QUANT     are their outputs tfm's?
    PYTHONPATH=tests python tests/bench/runtimes.py time FOLDER MODEL QUANT      how fast are they?
    PYTHONPATH=tests python tests/bench/runtimes.py table FOLDER                 Markdown of what was found

SmolLM2 and MiniLM are real. The T5 has the sizes of T5-small and the mixture those of a small Mixtral with
eight experts, both with random weights: what a step costs doesn't depend on them. What `keep` keeps is
SmolLM2's own Q4_1; of the others it is Q8_0, which llama.cpp's converter makes of them, from its source.

Tokens are compared with those of tfm's engine on ONNX Runtime's operators, of onnxruntime-web with those of
the same engine where products are of floats, as there. Speed is beside tfm's own path over its kernels, all
on the same texts, taking turns: a ratio of medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import typer
from shapes import CONVERT
from workers import Worker, quiet

QUANTS = {
    "smollm2": ("fp32", "int8", "int4", "keep", "int8-dynamic"),
    "minilm": ("fp32", "int8-dynamic", "int8", "int4", "keep"),
    "t5": ("fp32", "int8-dynamic", "int8", "int4", "keep"),
    "mixture": ("fp32", "int8", "int4", "keep", "int8-dynamic"),
}
MESSAGES = (
    "Explain self-attention to a child.",
    "Write two sentences about Zürich in winter.",
    "List three uses of a paper clip.",
    "Why is the sky blue?",
    "def fibonacci(n):",
)
NEW = 64  # tokens of an answer
NEW_IN_FLOAT = 16  # where products are of floats, which is slow
THREADS = 2
FOR_S = 0.3  # how long an encoder reads the same texts in a turn
PHASES = ("prompt", "token")
app = typer.Typer()


@dataclass(frozen=True)
class Runtime:
    """A runtime, the layout it reads, and the worker that drives it; `environment` of its process."""

    name: str
    layout: str
    kind: str
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def in_float(self) -> bool:
        """Whether its products are of floats, whatever the weights are."""
        return self.kind in ("web", "onnx-in-float")

    def start(self, folder: Path, model: str, quant: str) -> Worker:
        encodes = " encoder" if model == "minilm" else ""
        path = bundle_path(folder, model, quant, self.layout)
        python = folder / "environments" / self.kind / "bin" / "python"
        return Worker(
            self.kind + encodes,
            path,
            python=str(python) if python.exists() else sys.executable,
            node=folder / "node" if self.kind in ("web", "transformers.js") else None,
            threads=THREADS,
            environment=dict(self.environment),
        )


OWN = Runtime("tfm, its kernels", "tfm", "onnx")
OPERATORS = Runtime("tfm, ONNX Runtime's operators", "tfm", "onnx", (("TFM_KERNELS", "0"),))
IN_FLOAT = Runtime("tfm, products of floats", "tfm", "onnx-in-float")
OTHERS = (
    Runtime("onnxruntime-genai", "genai", "genai"),
    Runtime("optimum", "optimum", "optimum"),
    Runtime("transformers.js in Node", "transformers.js", "transformers.js"),
    Runtime("onnxruntime-web (WebAssembly)", "transformers.js", "web"),
)


def bundle_path(folder: Path, model: str, quant: str, layout: str) -> Path:
    return folder / "bundles" / f"{model}-{quant}-{layout}"


def runtimes(folder: Path, model: str, quant: str) -> list[Runtime]:
    """The other runtimes whose layout the model has."""
    return [one for one in OTHERS if bundle_path(folder, model, quant, one.layout).exists()]


def result_path(folder: Path, model: str, quant: str) -> Path:
    return folder / "results" / f"{model}-{quant}.json"


def record(folder: Path, model: str, quant: str, runtime: Runtime, values: Mapping[str, Any]) -> None:
    """Add what was found to the results of a model and quantization."""
    path = result_path(folder, model, quant)
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[runtime.name] = results.get(runtime.name, {}) | values
    path.write_text(json.dumps(results, indent=1) + "\n")


def random_checkpoint(path: Path, make: Callable[[], Any]) -> Path:
    """A model of transformers with random weights of which a text's tokens are different ones."""
    import torch
    from helpers.end_to_end import diversify_weights

    if not path.exists():
        torch.manual_seed(0)
        model = make()
        diversify_weights(model, 2)
        model.save_pretrained(path)
    return path


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(decoder_start_token_id=0))


def mixture() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            hidden_size=512,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            num_local_experts=8,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            sliding_window=None,
        )
    )


def sources(folder: Path) -> dict[str, Callable[[], Path]]:
    """The checkpoint of each model, fetched or made when asked for."""
    from tfm.runtime.hub.locate import fetch
    from tfm.runtime.progress import silent

    return {
        "smollm2": lambda: fetch("smollm2-135m", silent),
        "minilm": lambda: fetch("minilm-l6", silent),
        "t5": lambda: random_checkpoint(folder / "checkpoints" / "t5", t5),
        "mixture": lambda: random_checkpoint(folder / "checkpoints" / "mixture", mixture),
    }


def in_blocks(folder: Path, name: str, llama_source: Path) -> Path:
    """The model as a GGUF file in Q8_0."""
    file = folder / "checkpoints" / "gguf" / f"{name}-Q8_0.gguf"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", CONVERT, llama_source, sources(folder)[name](), file]
        subprocess.run(list(map(str, command)), check=True)
    return file


@app.command()
def prepare(
    folder: Path,
    model: list[str] = list(QUANTS),  # noqa: B006
    llama_source: Path | None = None,
) -> None:
    """Export and convert the models, and make the environments; what is there already stays.

    Without `--llama-source` nothing is made for `keep` of models that aren't in blocks already.
    """
    from helpers import peers
    from tfm.export.bundle_writer import export
    from tfm.export.layouts.convert import LAYOUTS, convert
    from tfm.refimpl.checkpoint.open import open_checkpoint
    from tfm.runtime.bundle import targets
    from tfm.runtime.bundle.bundle import open_bundle

    environments = folder / "environments"
    if not environments.exists():
        environments.mkdir(parents=True)
        peers.python_with(environments / "genai", "onnxruntime-genai")
        peers.python_with_optimum(environments / "optimum")
        peers.node_modules(folder / "node", "@huggingface/transformers", "onnxruntime-web")
    for name in model:
        for quant in QUANTS[name]:
            path = bundle_path(folder, name, quant, "tfm")
            if not path.exists():
                if quant != "keep" or name == "smollm2":
                    source = sources(folder)[name]()
                elif llama_source is not None:
                    source = in_blocks(folder, name, llama_source)
                else:
                    continue
                typer.echo(path)
                export(open_checkpoint(source), path, quant=quant, verify=False)
            for layout in LAYOUTS.values():
                out = bundle_path(folder, name, quant, layout.name)
                if not out.exists() and not layout.refusal(open_bundle(path).config, targets.find("ort-cpu")):
                    convert(path, out, layout)


def texts(folder: Path, model: str) -> list[list[int]]:
    """The prompts: of SmolLM2 messages in its chat template, of MiniLM the messages, of others drawn ids."""
    from tfm.runtime.tasks import load

    if model in ("smollm2", "minilm"):
        loaded = load(bundle_path(folder, model, "fp32", "tfm"))
        if model == "minilm":
            return [loaded.text.encode(message, add_special_tokens=True) for message in MESSAGES]
        template = loaded.chat_template
        return [template.encode([{"role": "user", "content": message}]) for message in MESSAGES]
    drawn = np.random.default_rng(0)
    return [drawn.integers(10, 32000, length).tolist() for length in (38, 40, 34, 35, 37)]


@app.command()
def check(folder: Path, model: str, quant: str) -> None:
    """Compare what each runtime gives with tfm's engine on the same path."""
    from tfm.runtime.bundle.bundle import open_bundle

    prompts, expected = texts(folder, model), {}
    ends = open_bundle(bundle_path(folder, model, quant, "tfm")).generation.eos
    for runtime in (OPERATORS, IN_FLOAT, OWN, *runtimes(folder, model, quant)):
        worker = runtime.start(folder, model, quant)
        if model == "minilm":
            given = worker.ask({"texts": prompts})["vectors"]
        else:
            some, new = (prompts[:2], NEW_IN_FLOAT) if runtime.in_float else (prompts, NEW)
            given = [worker.measure(ids, new)["tokens"] for ids in some]
        worker.close()
        expected.setdefault(runtime.in_float, given)
        found = difference(given, expected[runtime.in_float], vectors=model == "minilm", ends=ends)
        files = bundle_path(folder, model, quant, runtime.layout).rglob("*.onnx*")
        size = sum(file.stat().st_size for file in files)
        stated = {"same": found, "bytes": size, "version": worker.hello["version"]}
        record(folder, model, quant, runtime, stated)
        typer.echo(f"{model} {quant} {runtime.name}: {found}")


def difference(
    given: Sequence[Any], expected: Sequence[Any], *, vectors: bool, ends: Sequence[int] = ()
) -> str:
    """How far vectors of length 1 are apart, or which tokens differ, up to one that ends the text.

    A GGUF file doesn't say that a model's vectors have length 1.
    """
    if vectors:
        one, other = (
            np.array(rows) / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (given, expected)
        )
        return f"{np.abs(one - other).max():.0e}"
    others = []
    for a, b in zip(given, expected, strict=False):
        wanted = list(takewhile(lambda token: token not in ends, b[: len(a)]))
        if a[: len(wanted)] != wanted:
            first = next(i for i, pair in enumerate(zip(a, wanted, strict=False)) if pair[0] != pair[1])
            others.append(str(first + 1))
    if not others:
        return "equal"
    return f"{len(others)} of {len(given)} texts differ, from token {', '.join(others)} on"


@app.command("time")
def measure(folder: Path, model: str, quant: str, rounds: int = 3, new: int = 32) -> None:
    """Time the runtimes beside tfm's own path, taking turns."""
    typer.echo(quiet(), err=True, nl=bool(quiet()))
    prompts = texts(folder, model)
    chosen = [OWN, OPERATORS, *runtimes(folder, model, quant)]
    workers = {runtime.name: runtime.start(folder, model, quant) for runtime in chosen}
    path = workers[OWN.name].hello["version"]
    if quant != "fp32" and not path.startswith("kernels"):
        sys.exit(f"tfm's kernels aren't used: {path} computes")

    def request(runtime: Runtime) -> dict[str, Any]:
        if model == "minilm":
            return {"texts": prompts, "for_s": FOR_S}
        return {"prompt": prompts[0], "new": new // 4 if runtime.in_float else new}

    replies: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for turn in range(rounds + 1):
        for runtime in chosen[:: -1 if turn % 2 else 1]:
            reply = workers[runtime.name].ask(request(runtime))
            if turn:  # the first run pages weights in
                replies[runtime.name].append(reply)
    for worker in workers.values():
        worker.close()
    seconds = {runtime.name: medians(replies[runtime.name], request(runtime)) for runtime in chosen}
    for name, own in seconds.items():
        speed = {phase: seconds[OWN.name][phase] / value for phase, value in own.items()}
        runtime = next(one for one in chosen if one.name == name)
        record(folder, model, quant, runtime, {"speed": speed, "seconds": own})
        typer.echo(f"{model} {quant} {name}: {speed} {own}")


def medians(replies: Sequence[Mapping[str, Any]], request: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a prompt, or of texts to embed, and of each further token."""

    def median(name: str) -> float:
        return statistics.median(reply[name] for reply in replies)

    if "texts" in request:
        return {"prompt": median("seconds")}
    return {"prompt": median("prefill_s"), "token": median("decode_s") / (request["new"] - 1)}


@app.command()
def table(folder: Path) -> None:
    """Print what was found as two tables in Markdown: tokens or the largest difference, with the size of a
    layout's files; then speed of prompt and tokens."""
    columns = (OPERATORS, *OTHERS)
    head = ["model", "`--quant`", *(runtime.name for runtime in columns)]
    same, speeds = [[*head, "MB"]], [head]
    for model, quants in QUANTS.items():
        for quant in quants:
            if not (path := result_path(folder, model, quant)).exists():
                continue
            results = json.loads(path.read_text())
            found = [results.get(one.name) for one in columns]
            # Of two layouts, those for transformers.js.
            size = f"{results[OTHERS[-1].name]['bytes'] / 1e6:.0f}"
            same.append([model, quant, *(one["same"] if one else "" for one in found), size])
            speeds.append([model, quant, *(speed(one["speed"]) if one else "" for one in found)])
    for rows in (same, speeds):
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        typer.echo("\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n")


def speed(found: Mapping[str, float]) -> str:
    return "; ".join(f"{found[phase]:.2f}" for phase in PHASES if phase in found)


if __name__ == "__main__":
    app()
