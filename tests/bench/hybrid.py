"""A random model of Qwen 3.5's shape beside llama.cpp on the same file: prompt and decode at a context.

    python tests/bench/hybrid.py OUT --llama-python BIN > TABLE.md

OUT/model.gguf is written first, by gguf's own writer in blocks of 8 bits, unless it is there; then a bundle
of it beside it, which keeps these blocks. Processes take turns, and figures are medians in tokens a second
with the ratio of medians.

Greedy tokens of both are compared too, and few are equal. That is no defect: random weights give near ties,
and both engines round the inputs of products with blocks of 8 bits, each in its own way. With the numbers of
the default file stored as floats, which are multiplied as they are, llama.cpp's logits were within 0.0011 of
the specification's at six places of a text of 512 tokens, and the best tokens were the same. With its blocks
they differ by 0.07 to 0.15 (root mean square, the logits' deviation is 1), as much as the specification's own
do where it rounds inputs to 8 bits, 0.07 to 0.17; at three of the six places the best logit
is less than that above the second.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Annotated

import gguf
import numpy as np
import typer
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint
from workers import Series, Worker, interleave, quiet, ratio, ratio_interval

HEAD, STATE = 256, 128  # numbers of a head of attention, and of a row and a column of a state
KERNEL, EVERY = 4, 4  # tokens of a convolution; of so many layers one attends


def write(path: Path, layers: int, width: int, vocabulary: int) -> None:
    """A file of random weights, in the proportions of Qwen 3.5 0.8B."""
    rng, writer = np.random.default_rng(0), gguf.GGUFWriter(path, "qwen35")
    keys, states = width // 64, width // 64
    heads, mlp = width // 128, 7 * width // 2
    numbers = {
        "context_length": 32_768, "embedding_length": width, "feed_forward_length": mlp,
        "block_count": layers, "attention.head_count": heads, "attention.head_count_kv": 2,
        "attention.key_length": HEAD, "attention.value_length": HEAD, "rope.dimension_count": HEAD // 4,
        "ssm.conv_kernel": KERNEL, "ssm.state_size": STATE, "ssm.group_count": keys,
        "ssm.time_step_rank": states, "ssm.inner_size": states * STATE, "full_attention_interval": EVERY,
    }  # fmt: skip
    for key, number in numbers.items():
        writer.add_uint32(f"qwen35.{key}", number)
    writer.add_float32("qwen35.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32("qwen35.rope.freq_base", 1e7)
    writer.add_array("qwen35.rope.dimension_sections", [HEAD // 8 - 10, 5, 5, 0])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(vocabulary)

    def matrix(name: str, rows: int, columns: int) -> None:
        kind = gguf.GGMLQuantizationType.Q8_0
        drawn = rng.standard_normal((rows, columns), np.float32) * columns**-0.5
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(drawn, kind), raw_dtype=kind)

    def vector(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))

    matrix("token_embd", vocabulary, width)
    vector("output_norm", width)
    mixed = 2 * keys * STATE + states * STATE
    for i in range(layers):
        at = f"blk.{i}"
        vector(f"{at}.attn_norm", width)
        vector(f"{at}.post_attention_norm", width)
        if (i + 1) % EVERY == 0:
            matrix(f"{at}.attn_q", 2 * heads * HEAD, width)
            matrix(f"{at}.attn_k", 2 * HEAD, width)
            matrix(f"{at}.attn_v", 2 * HEAD, width)
            matrix(f"{at}.attn_output", width, heads * HEAD)
            vector(f"{at}.attn_q_norm", HEAD)
            vector(f"{at}.attn_k_norm", HEAD)
        else:
            matrix(f"{at}.attn_qkv", mixed, width)
            matrix(f"{at}.attn_gate", states * STATE, width)
            matrix(f"{at}.ssm_beta", states, width)
            matrix(f"{at}.ssm_alpha", states, width)
            matrix(f"{at}.ssm_out", width, states * STATE)
            vector(f"{at}.ssm_norm", STATE)
            writer.add_tensor(f"{at}.ssm_conv1d.weight", rng.standard_normal((mixed, KERNEL), np.float32) / 2)
            writer.add_tensor(f"{at}.ssm_a", -np.exp(rng.uniform(-2, 2, states)).astype(np.float32))
            writer.add_tensor(f"{at}.ssm_dt.bias", rng.uniform(-4, -2, states).astype(np.float32))
        matrix(f"{at}.ffn_gate", mlp, width)
        matrix(f"{at}.ffn_up", mlp, width)
        matrix(f"{at}.ffn_down", width, mlp)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(
    out: Path,
    llama_python: Annotated[str, typer.Option(help="A Python that has llama-cpp-python.")] = sys.executable,
    context: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 2048,
    new_tokens: int = 64,
    pairs: int = 5,
    threads: int = 2,
    layers: int = 24,
    width: int = 1024,
    vocabulary: int = 32_000,
    quant: Annotated[str, typer.Option(help="The bundle's quantization.")] = "keep",
) -> None:
    """Write what isn't there, measure, and print a row."""
    out.mkdir(parents=True, exist_ok=True)
    file, bundle = out / "model.gguf", out / quant
    if not file.exists():
        write(file, layers, width, vocabulary)
    if not bundle.exists():
        export(open_checkpoint(file), bundle, target="ort-cpu", quant=quant, verify=False)
    typer.echo(quiet(), err=True, nl=bool(quiet()))
    ids = np.random.default_rng(1).integers(vocabulary, size=context).tolist()
    workers = [Worker("onnx", bundle, threads=threads)]
    workers.append(Worker("llama", file, python=llama_python, threads=threads))
    series = [Series(context, new_tokens) for _ in workers]
    sides = list(zip(workers, series, strict=True))
    interleave(sides, ids, 1)
    for one in series:
        one.replies.clear()  # the first one pages weights in
    interleave(sides, ids, pairs)
    typer.echo("| tokens | phase | tfm, tokens/s | llama.cpp | times |\n|---|---|---|---|---|")
    for phase in ("prefill", "decode"):
        ours, theirs = (getattr(one, phase) for one in series)
        low, high = ratio_interval(ours, theirs)
        medians = [f"{statistics.median(rates):.1f}" for rates in (ours, theirs)]
        times = f"{ratio(ours, theirs):.2f} ({low:.2f} to {high:.2f})"
        typer.echo(f"| {context} | {phase} | {medians[0]} | {medians[1]} | {times} |")
    tokens = [one.replies[-1]["tokens"] for one in series]
    alike = sum(a == b for a, b in zip(*tokens, strict=True))
    versions = "; ".join(worker.hello["version"] for worker in workers)
    typer.echo(
        f"\n{quant}, {threads} threads, {pairs} pairs; {alike} of {new_tokens} tokens equal; {versions}"
    )
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    typer.run(main)
