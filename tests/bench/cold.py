"""From a cold process to the first piece of text, and the memory it takes, beside llama.cpp's Python binding.

    python tests/bench/cold.py BUNDLE --llama-python BIN --llama Q8_0.gguf
    python tests/bench/cold.py BUNDLE --other OLD/bin/tfm-cli      # beside another tfm, in turn

Cold is the process; the files are in the page cache on both sides, and one run of each before the first
measurement lets tfm write what it keeps in the user's cache. Time runs from spawning the process to the first
byte on its standard output. Processor seconds are those of the whole run and its children, user and system:
where a machine is busy with other work they say more. Memory is read from /proc in runs of its own (Linux):
`peak` is VmHWM, all pages that were resident; `private` the most of RssAnon, those that no file backs. Exit
code 1: a gate was missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

LLAMA = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_threads=int(sys.argv[3]), n_ctx=512, verbose=False)
asked = [{"role": "user", "content": sys.argv[2]}]
for piece in model.create_chat_completion(asked, stream=True, max_tokens=int(sys.argv[4]), temperature=0):
    text = piece["choices"][0]["delta"].get("content")
    if text:
        print(text, end="", flush=True)
"""
GATES = {"first_s": 0.5, "peak_mb": 235.0}


def first_byte(command: list[str]) -> tuple[float, float]:
    """Seconds from spawning to the first byte of output, and processor seconds of the run."""
    begin, used = time.perf_counter(), os.times()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        byte = process.stdout.read(1)
        took = time.perf_counter() - begin
        _, trouble = process.communicate()
    if not byte or process.returncode:
        sys.exit(f"{command[0]} said nothing or failed: {trouble.decode()[-2000:]}")
    now = os.times()
    return took, now.children_user + now.children_system - used.children_user - used.children_system


def memory(command: list[str]) -> tuple[float, float]:
    """(peak of resident, peak of private memory) in MB, read every 2 ms."""
    peak = private = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            read = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if "VmHWM" in read:  # a process that just ended has none
                peak = max(peak, int(read["VmHWM"].split()[0]))
                private = max(private, int(read["RssAnon"].split()[0]))
            time.sleep(0.002)
    return peak * 1024 / 1e6, private * 1024 / 1e6


def main(
    bundle: Path,
    llama: Annotated[Path | None, typer.Option(help="The peer's Q8_0 file.")] = None,
    llama_python: str = sys.executable,
    other: Annotated[Path | None, typer.Option(help="The tfm-cli of another version.")] = None,
    prompt: str = "Explain self-attention to a child.",
    new_tokens: int = 16,
    threads: int = 2,
    rounds: int = 5,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Measure in turn, print both, and exit 1 when a gate is missed."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    tfm = Path(sys.executable).with_name("tfm-cli")
    ours = [
        str(tfm),
        "generate",
        prompt,
        "--model",
        str(bundle),
        "--max-new-tokens",
        str(new_tokens),
        "--greedy",
    ]
    sides = {"tfm": [*ours, "--threads", str(threads)]}
    if other is not None:
        sides["other tfm"] = [str(other), *sides["tfm"][1:]]
    if llama is not None:
        sides["llama.cpp"] = [llama_python, "-c", LLAMA, str(llama), prompt, str(threads), str(new_tokens)]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, command in sides.items():
            figures = first_byte(command)
            if turn:
                times[name].append(figures)
    results = {}
    for name, command in sides.items():
        peak, private = (max(figures) for figures in zip(*(memory(command) for _ in range(2)), strict=True))
        took, used = ([*figures] for figures in zip(*times[name], strict=True))
        first, processor = statistics.median(took), statistics.median(used)
        results[name] = {
            "first_s": first, "min_s": min(took), "processor_s": processor,
            "peak_mb": peak, "private_mb": private,
        }  # fmt: skip
        typer.echo(
            f"{name:10} first text after {first:.3f} s (best {min(took):.3f}), "
            f"{processor:.3f} processor s in all, peak {peak:.0f} MB, private {private:.0f} MB"
        )
    weights = (bundle / "model.onnx.data").stat().st_size / 1e6
    typer.echo(
        f"weights of the bundle: {weights:.0f} MB; gates {GATES['first_s']} s and {GATES['peak_mb']:.0f} MB"
    )
    if json_out is not None:
        json_out.write_text(json.dumps(results | {"weights_mb": weights}, indent=1) + "\n")
    raise typer.Exit(0 if all(results["tfm"][name] <= most for name, most in GATES.items()) else 1)


if __name__ == "__main__":
    typer.run(main)
