"""Sentences a second and fidelity of a sentence encoder, beside transformers and `quantize_dynamic`.

    python tests/bench/embed.py CHECKPOINT --text FILE

All engines run in one process, in turns, and the best of the rounds counts; tokenizing isn't measured.
Cosines are to the fp32 bundle. `quantize_dynamic`, ONNX Runtime's own path, works on the same fp32
graph, with ONNX Runtime's own fusions and once more without `SLOW_FUSIONS`, as our sessions are.
Sentences are words of the text, one after the other: for speed all of one length, for fidelity of 4 to
40 words.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
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
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.ort.session import open_session, options
from tfm.runtime.tasks import read_tokenizer

Texts = tuple[np.ndarray, np.ndarray]


def sentences(text: str, lengths: list[int]) -> list[str]:
    """So many words each, from the beginning of the text and again."""
    words, results, at = text.split(), [], 0
    for length in lengths:
        results.append(" ".join(words[(at + i) % len(words)] for i in range(length)))
        at += length
    return results


def padded(rows: list[list[int]]) -> Texts:
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, lengths


def dynamic(path: Path, threads: int, *, ours: bool) -> Callable[[Texts], np.ndarray]:
    """A graph of `quantize_dynamic`, in a session as ours are or with all fusions."""
    if ours:
        session = open_session(path, "cpu", options(threads))
    else:
        session = ort.InferenceSession(path, options(threads), providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}

    def run(texts: Texts) -> np.ndarray:
        inputs = {"tokens": texts[0], "lengths": texts[1], "token_types": np.zeros_like(texts[0])}
        return np.asarray(session.run(None, {n: inputs[n] for n in names})[0])

    return run


def original(path: Path, threads: int) -> Callable[[Texts], np.ndarray]:
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


def main(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    text: Annotated[Path, typer.Option()],
    threads: int = 2,
    batch: int = 32,
    words: int = 32,
    rounds: int = 5,
    count: Annotated[int, typer.Option("--sentences")] = 1000,
) -> None:
    checkpoint, told = open_checkpoint(source), text.read_text(encoding="utf-8")
    tokenizer = read_tokenizer(checkpoint, checkpoint.config)
    assert tokenizer is not None
    encode = lambda lines: padded([tokenizer.encode(line, add_special_tokens=True) for line in lines])  # noqa: E731
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        runs: dict[str, Callable[[Texts], np.ndarray]] = {"transformers": original(source, threads)}
        for quant in ("fp32", "int8", "int8-dynamic"):
            export(checkpoint, folder / quant, quant=quant, verify=False)
            engine = OrtEngine(open_bundle(folder / quant), threads=threads)
            runs[quant] = lambda texts, engine=engine: engine.predict(*texts)
        quantize_dynamic(folder / "fp32" / "model.onnx", folder / "dynamic.onnx")
        runs["quantize_dynamic"] = dynamic(folder / "dynamic.onnx", threads, ours=False)
        runs["quantize_dynamic, our session"] = dynamic(folder / "dynamic.onnx", threads, ours=True)
        inputs = encode(sentences(told, [words] * batch))
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(rounds):
            for name, run in runs.items():
                run(inputs)
                start = time.perf_counter()
                run(inputs)
                best[name] = min(best[name], time.perf_counter() - start)
        lines = sentences(told, np.random.default_rng(0).integers(4, 41, count).tolist())
        lines.sort(key=len)
        parts = [encode(lines[i : i + batch]) for i in range(0, count, batch)]
        vectors = {name: np.concatenate([run(part) for part in parts]) for name, run in runs.items()}
    for name, ours in vectors.items():
        cosine = (ours * vectors["fp32"]).sum(-1, dtype=np.float64)
        figures = {
            "tokens": int(inputs[1].sum()),
            "sentences_per_s": round(batch / best[name], 1),
            "times_transformers": round(best["transformers"] / best[name], 2),
            "mean_cosine": round(float(cosine.mean()), 5),
            "lowest_cosine": round(float(cosine.min()), 5),
        }
        typer.echo(json.dumps({"engine": name, **figures}))


if __name__ == "__main__":
    typer.run(main)
