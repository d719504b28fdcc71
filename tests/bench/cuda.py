"""Bundles for ort-cuda beside onnxruntime-genai, on a GPU. Not run so far: no GPU was at hand.

    tfm-cli export smollm2-135m DIR --quant int4 --target ort-cuda                        or int8, fp16
    pip install onnxruntime-genai-cuda onnx onnx-ir torch transformers      in an environment of its own
    BIN -m onnxruntime_genai.models.builder -m HF_DIR -o GENAI -p int4 -e cuda -c CACHE \\
        --extra_options hf_token=false int4_block_size=32 int4_is_symmetric=true
    python tests/bench/cuda.py --text FILE --tfm DIR --genai GENAI --genai-python BIN

prepare.py makes HF_DIR. Both sides have what makes them fast: steps captured as CUDA graphs
(enable_cuda_graph), and products of float16 with symmetric blocks of 32 (ORT_FPA_INTB_GEMM=1), whose weights
are packed when a model is loaded or, if the builder's release can, before. tfm is measured without capture
too, and must write the same tokens. Figures are tokens a second, median (lowest to highest).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from peers import row
from workers import Series, Worker, head, interleave, quiet, ratio

PHASES = ("prefill", "decode")


def main(
    text: Annotated[Path, typer.Option(help="The prompt is its first tokens.")],
    tfm: Annotated[Path, typer.Option(help="A bundle for ort-cuda.")],
    genai: Path | None = None,
    genai_python: str = sys.executable,
    prompt: int = 512,
    new: int = 128,
    rounds: int = 9,
    threads: int = 2,
) -> None:
    """Measure in turn; exit code 1 if a capture changed a token."""
    from tfm.runtime.bundle.bundle import open_bundle

    os.environ["ORT_FPA_INTB_GEMM"] = "1"  # for the workers
    ids = head(text, open_bundle(tfm).tokenizer, prompt)
    kinds = [("onnx-cuda", tfm, sys.executable), ("onnx-cuda-uncaptured", tfm, sys.executable)]
    if genai is not None:
        kinds.append(("genai-cuda", genai, genai_python))
    workers = [Worker(kind, model, python=python, threads=threads) for kind, model, python in kinds]
    pairs = [(worker, Series(prompt, new)) for worker in workers]
    for worker in workers:
        worker.measure(ids, new)  # kernels are loaded, and steps captured
    interleave(pairs, ids, rounds)
    for worker, series in pairs:
        typer.echo(row(worker.name, worker.hello["version"], series))
        worker.close()
    ours = pairs[0][1]
    for worker, series in pairs[1:]:
        figures = (f"{phase} {ratio(getattr(ours, phase), getattr(series, phase)):.2f}" for phase in PHASES)
        typer.echo(f"times as fast as {worker.name}: {', '.join(figures)}")
    typer.echo(quiet())
    captured, uncaptured = (series.replies[-1]["tokens"] for _, series in pairs[:2])
    if captured != uncaptured:
        typer.echo("captured steps write other tokens")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
