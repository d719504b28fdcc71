"""Random models in the shapes of families, each beside llama.cpp on the same Q8_0 file: prompt and decode.

    python tests/bench/shapes.py OUT mamba2 lfm2 --llama-source DIR --llama-python BIN > TABLE.md

DIR is llama.cpp's source, whose own converter writes the files; BIN a Python that has llama-cpp-python. Each
family has the proportions of a published small model, with fewer layers and a smaller vocabulary, so that no
file is above 0.6 GB. OUT/FAMILY/model.gguf and a bundle of it, which keeps its blocks of 8 bits, are written
unless they are there; with `--remove` they are deleted when they were measured. Processes take turns, and
figures are medians in tokens a second with the ratio of medians.

Of qwen3_5, mamba, deepseek_v2, gemma3n and gemma4 there are no figures of this version. llama.cpp reads
DeepSeek's attention without a latent of queries only where there are 26, 27 or 48 layers, so that shape has
one; version 0.3.36 of llama-cpp-python aborts on it. Its converter fails on the shape of Gemma 4.

Greedy tokens of both are compared too, and few are equal. That is no defect: random weights give near ties,
and both engines round the inputs of products with blocks of 8 bits, each in its own way. With the numbers of
the Qwen 3.5 file stored as floats, which are multiplied as they are, llama.cpp's logits were within 0.0011 of
the specification's at six places of a text of 512 tokens, and the best tokens were the same. With its blocks
they differ by 0.07 to 0.15 (root mean square, the logits' deviation is 1), as much as the specification's own
do where it rounds inputs to 8 bits, 0.07 to 0.17; at three of the six places the best logit
is less than that above the second.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from workers import Series, Worker, interleave, quiet, ratio, ratio_interval

VOCABULARY = 16_384
COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NEMOTRON_LAYERS = "M-M-M-M*-M-M-M-M*-M-M-M-"  # M a state, - an mlp, * attention
# What both shapes of Granite have.
GRANITE = {
    "hidden_size": 768, "num_attention_heads": 12, "num_key_value_heads": 4, "mamba_n_heads": 48,
    "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_expand": 2,
    "position_embedding_type": "nope", "embedding_multiplier": 12.0,
}  # fmt: skip

# Name: (transformers' class without its ending, whose model it has the proportions of, the config's keys).
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3_5": ("Qwen3_5", "Qwen 3.5 0.8B", {
        "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 16, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 256, "linear_num_key_heads": 16, "linear_num_value_heads": 16,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "tie_word_embeddings": True,
    }),
    "mamba": ("Mamba", "Mamba 130M", {"hidden_size": 768, "num_hidden_layers": 24, "time_step_rank": 48}),
    "mamba2": ("Mamba2", "Mamba 2 130M", {
        "hidden_size": 768, "num_hidden_layers": 24, "num_heads": 24, "head_dim": 64, "state_size": 128,
        "n_groups": 1, "tie_word_embeddings": True,
    }),
    "falcon_h1": ("FalconH1", "Falcon-H1 0.5B", {
        "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "mamba_d_ssm": 1536, "mamba_n_heads": 24,
        "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_rms_norm": False,
        "mlp_multipliers": [0.9, 0.8], "ssm_multipliers": [0.9, 0.8, 0.7, 0.6, 0.5],
    }),
    "nemotron_h": ("NemotronH", "Nemotron Nano 2, a third as wide", {
        "hidden_size": 1024, "intermediate_size": 4096, "hybrid_override_pattern": NEMOTRON_LAYERS,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 32,
        "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128,
    }),
    "granite_hybrid": ("GraniteMoeHybrid", "Granite 4.0 H 350M", {
        **GRANITE,
        "intermediate_size": 2048, "shared_intermediate_size": 2048, "num_hidden_layers": 24,
        "num_local_experts": 0, "num_experts_per_tok": 0, "attention_multiplier": 0.015625,
        "layer_types": ["attention" if i in (10, 13, 17) else "mamba" for i in range(24)],
        "residual_multiplier": 0.246, "logits_scaling": 3.0,
    }),
    "granite_hybrid_moe": ("GraniteMoeHybrid", "Granite 4.0 H Tiny, half as wide, 6 of 16 experts", {
        **GRANITE,
        "intermediate_size": 512, "shared_intermediate_size": 1024, "num_hidden_layers": 6,
        "num_local_experts": 16, "num_experts_per_tok": 6, "attention_multiplier": 0.0078125,
        "layer_types": ["attention" if i == 5 else "mamba" for i in range(6)],
        "residual_multiplier": 0.22, "logits_scaling": 6.0,
    }),
    "lfm2": ("Lfm2", "LFM2 350M", {
        "hidden_size": 1024, "intermediate_size": 4608, "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 8, "conv_L_cache": 3,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    }),
    "jamba": ("Jamba", "Jamba Reasoning 3B, 0.4 times as wide", {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 14, "num_attention_heads": 8,
        "num_key_value_heads": 1, "num_experts": 1, "num_experts_per_tok": 1, "attn_layer_period": 7,
        "attn_layer_offset": 3, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_dt_rank": 64,
    }),
    "deepseek_v2": ("DeepseekV2", "DeepSeek-V2 Lite, half as wide, 6 of 8 experts, a latent of queries", {
        "hidden_size": 1024, "intermediate_size": 5472, "moe_intermediate_size": 704, "num_hidden_layers": 3,
        "num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512, "q_lora_rank": 768,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 8,
        "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1, "topk_method": "greedy", "routed_scaling_factor": 1.0, "norm_topk_prob": False,
    }),
    "gpt_oss": ("GptOss", "gpt-oss 20B, half as wide, 4 of 8 experts", {
        "hidden_size": 1440, "intermediate_size": 1440, "num_hidden_layers": 2, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 64, "num_local_experts": 8, "num_experts_per_tok": 4,
        "sliding_window": 128, "tie_word_embeddings": False,
    }),
    "gemma3n": ("Gemma3n", "Gemma 3n E2B, 0.4 times as wide", {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 30, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "num_kv_shared_layers": 10, "laurel_rank": 64,
        "hidden_size_per_layer_input": 128, "vocab_size_per_layer_input": VOCABULARY,
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
    }),
    "gemma4": ("Gemma4", "Gemma 4 E2B, half as wide", {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 20, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512, "num_kv_shared_layers": 10,
        "hidden_size_per_layer_input": 128, "vocab_size_per_layer_input": VOCABULARY,
    }),
    "qwen3_moe": ("Qwen3Moe", "Qwen3 30B-A3B, half as wide, 8 of 32 experts", {
        "hidden_size": 1024, "intermediate_size": 3072, "moe_intermediate_size": 768, "num_hidden_layers": 4,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "num_experts": 32,
        "num_experts_per_tok": 8, "norm_topk_prob": True, "decoder_sparse_step": 1,
    }),
}  # fmt: skip

# In a Python of its own, for the converter has a gguf of its own: SOURCE MODEL FILE.
CONVERT = """
import json, sys
from pathlib import Path
source, model, file = sys.argv[1:]
sys.path[:0] = [source + "/gguf-py", source]
import conversion, gguf
from conversion.base import ModelBase

hparams = json.loads((Path(model) / "config.json").read_text())
converter = conversion.get_model_class(hparams["architectures"][0])

def set_vocab(self):
    self.gguf_writer.add_tokenizer_model("no_vocab")
    if "vocab_size" not in {key.rpartition(".")[2] for part in self.gguf_writer.kv_data for key in part}:
        self.gguf_writer.add_vocab_size(hparams["vocab_size"])

converter.set_vocab = set_vocab
converter(Path(model), gguf.LlamaFileType.MOSTLY_Q8_0, Path(file), hparams=hparams).write()
"""


def write(family: str, file: Path, llama_source: Path) -> None:
    """A file of random weights, by llama.cpp's converter from a checkpoint, which is deleted then."""
    import torch
    import transformers

    name, _, keys = SHAPES[family]
    of_text = getattr(transformers, f"{name}TextConfig", None)
    config_class = of_text or getattr(transformers, f"{name}Config")
    config = config_class(**COMMON | keys)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    checkpoint = file.parent / "checkpoint"
    model.save_pretrained(checkpoint, max_shard_size="10GB")
    _as_published(family, checkpoint)
    converter = [sys.executable, "-c", CONVERT, llama_source, checkpoint, file]
    if (done := subprocess.run(converter, capture_output=True, text=True)).returncode:
        sys.exit(done.stderr)
    shutil.rmtree(checkpoint)


def _as_published(family: str, checkpoint: Path) -> None:
    """Undo what transformers writes in another way than the models that the converter knows."""
    from safetensors.torch import load_file, save_file

    path = checkpoint / "config.json"
    keys = json.loads(path.read_text())
    if family.startswith("granite"):
        keys["layer_types"] = SHAPES[family][2]["layer_types"]
    if family == "nemotron_h":
        of_mixtures = ("expert", "moe", "mtp", "n_group", "topk", "layers_block", "layer_types", "nextn")
        keys = {key: value for key, value in keys.items() if not any(part in key for part in of_mixtures)}
        keys |= {"hybrid_override_pattern": NEMOTRON_LAYERS, "num_hidden_layers": len(NEMOTRON_LAYERS)}
        keys["n_groups"] = SHAPES[family][2]["n_groups"]
        tensors = load_file(checkpoint / "model.safetensors")
        renamed = {name.replace("model.", "backbone."): tensor for name, tensor in tensors.items()}
        save_file(renamed, checkpoint / "model.safetensors")
    path.write_text(json.dumps(keys))


def measure(
    bundle: Path, file: Path, llama_python: str, threads: int, pairs: int, new_tokens: int, context: int
) -> tuple[list[Series], str]:
    """Both engines by turns, after a turn that pages weights in; and what they call themselves."""
    ids = np.random.default_rng(1).integers(VOCABULARY, size=context).tolist()
    workers = [Worker("onnx", bundle, threads=threads)]
    workers.append(Worker("llama", file, python=llama_python, threads=threads))
    series = [Series(context, new_tokens) for _ in workers]
    sides = list(zip(workers, series, strict=True))
    interleave(sides, ids, 1)
    for one in series:
        one.replies.clear()
    interleave(sides, ids, pairs)
    for worker in workers:
        worker.close()
    return series, "; ".join(worker.hello["version"] for worker in workers)


def row(family: str, series: Sequence[Series]) -> str:
    """The family's row of the table."""
    cells = [family, SHAPES[family][1], str(series[0].prompt)]
    for phase in ("prefill", "decode"):
        ours, theirs = (getattr(one, phase) for one in series)
        low, high = ratio_interval(ours, theirs)
        cells += [f"{statistics.median(rates):.0f}" for rates in (ours, theirs)]
        cells.append(f"{ratio(ours, theirs):.2f} ({low:.2f} to {high:.2f})")
    tokens = [one.replies[-1]["tokens"] for one in series]
    cells.append(f"{sum(a == b for a, b in zip(*tokens, strict=True))} of {series[0].new}")
    return f"| {' | '.join(cells)} |"


def main(
    out: Path,
    families: Annotated[list[str], typer.Argument(help=", ".join(SHAPES))],
    llama_source: Annotated[Path, typer.Option(help="llama.cpp's source, with its converter.")],
    llama_python: Annotated[str, typer.Option(help="A Python that has llama-cpp-python.")] = sys.executable,
    context: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    new_tokens: int = 48,
    pairs: int = 5,
    threads: int = 2,
    quant: Annotated[str, typer.Option(help="The bundle's quantization.")] = "keep",
    only_write: Annotated[bool, typer.Option("--only-write", help="Measure nothing.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete what was measured.")] = False,
) -> None:
    """Write what isn't there, measure, and print a row for each family."""
    from tfm.export.bundle_writer import export
    from tfm.refimpl.checkpoint.open import open_checkpoint

    if unknown := set(families) - set(SHAPES):
        sys.exit(f"families must be of {', '.join(SHAPES)}, got {', '.join(sorted(unknown))}")
    if not only_write:
        typer.echo(quiet(), err=True, nl=bool(quiet()))
        typer.echo(
            "| family | shape | tokens | prefill, tfm | llama.cpp | times | decode, tfm | llama.cpp | times "
            f"| equal tokens |\n|{'---|' * 10}"
        )
    versions = ""
    for family in families:
        file, bundle = out / family / "model.gguf", out / family / quant
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write(family, file, llama_source)
        if not bundle.exists():
            export(open_checkpoint(file), bundle, target="ort-cpu", quant=quant, verify=False)
        if not only_write:
            series, versions = measure(bundle, file, llama_python, threads, pairs, new_tokens, context)
            typer.echo(row(family, series))
            if remove:
                shutil.rmtree(out / family)
    if not only_write:
        typer.echo(f"\n{quant}, {threads} threads, {pairs} pairs; {versions}")


if __name__ == "__main__":
    typer.run(main)
