"""A sentence encoder beside transformers: texts a second for batches and lengths, and fidelity.

    python tests/bench/embed.py CHECKPOINT --text FILE > TABLE.md

All engines run in one process, in turns, over the same ids; tokenizing isn't measured. A figure is how many
times as fast as transformers an engine is: the median over pairs, and the lowest and the highest. Cosines are
to the fp32 bundle, over 1000 sentences of 4 to 40 words. `kernels` is the default of tfm, `operators` the
same bundle over ONNX Runtime's, and `quantize_dynamic` ONNX Runtime's own path from the same fp32 graph.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import torch
import transformers
import typer
from onnxruntime.quantization import quantize_dynamic
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort import kernel_path
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.ort.session import options
from tfm.runtime.tasks import read_tokenizer
from workers import PAUSE, quiet

Texts = tuple[np.ndarray, np.ndarray]  # ids [B, T] and lengths [B]
Engine = Callable[[Texts], np.ndarray]
SENTENCES = 1000


def padded(rows: list[list[int]]) -> Texts:
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, lengths


def of_one_length(ids: list[int], batch: int, tokens: int) -> Texts:
    """Texts of that many tokens: parts of the ids, between their first and last one."""
    inner = tokens - 2
    if len(ids) < batch * inner + 2:
        sys.exit(f"the text must have {batch * inner + 2} tokens, it has {len(ids)}")
    return padded([[ids[0], *ids[1 + i * inner : 1 + (i + 1) * inner], ids[-1]] for i in range(batch)])


def sentences(text: str) -> list[str]:
    """Of 4 to 40 words each, one after the other, the shortest first."""
    words, results, at = text.split(), [], 0
    for length in np.random.default_rng(0).integers(4, 41, SENTENCES):
        results.append(" ".join(words[(at + i) % len(words)] for i in range(length)))
        at += length
    return sorted(results, key=len)


def dynamic(path: Path, threads: int) -> Engine:
    """A graph of `quantize_dynamic`."""
    session = ort.InferenceSession(path, options(threads), providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}

    def run(texts: Texts) -> np.ndarray:
        inputs = {"tokens": texts[0], "lengths": texts[1], "token_types": np.zeros_like(texts[0])}
        return np.asarray(session.run(None, {n: inputs[n] for n in names})[0])

    return run


def original(path: Path, threads: int) -> Engine:
    """transformers on torch, mean over the real tokens, length 1."""
    torch.set_num_threads(threads)
    model = transformers.AutoModel.from_pretrained(path).eval()

    @torch.inference_mode()
    def run(texts: Texts) -> np.ndarray:
        ids, lengths = map(torch.from_numpy, texts)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        states = model(ids, attention_mask=mask).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / lengths[:, None]
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    return run


def seconds(run: Engine, texts: Texts) -> float:
    time.sleep(PAUSE)  # torch's threads spin when they have computed
    begin = time.perf_counter()
    run(texts)
    return time.perf_counter() - begin


def interleaved(engines: Mapping[str, Engine], texts: Texts, pairs: int) -> dict[str, list[float]]:
    """Seconds of each engine, taking turns in one order and then in the other."""
    taken = {name: [] for name in engines}
    for turn in range(-1, pairs):
        for name in list(engines)[:: 1 if turn % 2 else -1]:
            spent = seconds(engines[name], texts)
            if turn >= 0:
                taken[name].append(spent)
    return taken


def times(ours: list[float], theirs: list[float]) -> str:
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    text: Annotated[Path, typer.Option()],
    threads: int = 2,
    pairs: int = 15,
    batch: list[int] = [1, 8, 32],  # noqa: B006
    tokens: list[int] = [16, 64, 256],  # noqa: B006
) -> None:
    typer.echo(quiet(), err=True, nl=bool(quiet()))
    checkpoint, told = open_checkpoint(source), text.read_text(encoding="utf-8")
    tokenizer = read_tokenizer(checkpoint, checkpoint.config)
    assert tokenizer is not None
    encode = lambda line: tokenizer.encode(line, add_special_tokens=True)  # noqa: E731
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        engines: dict[str, Engine] = {"transformers": original(source, threads)}

        def add(name: str, quant: str, *, kernels: bool) -> None:
            if not (folder / quant).exists():
                export(checkpoint, folder / quant, quant=quant, verify=False)
            bundle = open_bundle(folder / quant)
            over = kernel_path.choose(bundle) if kernels else None
            if isinstance(over, str):
                sys.exit(f"kernels aren't used: {over}")
            engine = OrtEngine(bundle, threads=threads, kernels=over)
            engines[name] = lambda texts: engine.predict(*texts)

        add("int8-dynamic, kernels", "int8-dynamic", kernels=True)
        add("int8-dynamic, operators", "int8-dynamic", kernels=False)
        add("int8, kernels", "int8", kernels=True)
        add("fp32", "fp32", kernels=False)
        quantize_dynamic(folder / "fp32" / "model.onnx", folder / "dynamic.onnx")
        engines["quantize_dynamic"] = dynamic(folder / "dynamic.onnx", threads)
        ids = encode(told[: 8 * max(batch) * max(tokens)])
        others = [name for name in engines if name != "transformers"]
        typer.echo(f"{threads} threads, {pairs} interleaved pairs, times as fast as transformers\n")
        typer.echo(f"| batch | tokens | transformers, texts/s | {' | '.join(others)} |")
        typer.echo("|---" * (3 + len(others)) + "|")
        for count in batch:
            for length in tokens:
                taken = interleaved(engines, of_one_length(ids, count, length), pairs)
                rate = count / statistics.median(taken["transformers"])
                cells = [times(taken[name], taken["transformers"]) for name in others]
                typer.echo(f"| {count} | {length} | {rate:.1f} | {' | '.join(cells)} |")
        lines = sentences(told)
        parts = [padded([encode(line) for line in lines[i : i + 32]]) for i in range(0, len(lines), 32)]
        vectors = {name: np.concatenate([run(part) for part in parts]) for name, run in engines.items()}
    typer.echo("\n| engine | mean cosine to fp32 | lowest |\n|---|---|---|")
    for name, ours in vectors.items():
        cosine = (ours * vectors["fp32"]).sum(-1, dtype=np.float64)
        typer.echo(f"| {name} | {cosine.mean():.5f} | {cosine.min():.5f} |")


if __name__ == "__main__":
    typer.run(main)
