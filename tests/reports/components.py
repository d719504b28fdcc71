"""The table of components, with what each has beside its specification.

    PYTHONPATH=tests python -m reports.components [--json]

A component is a file of refimpl/ops: its functions, their bodies in PyTorch, graphs and laws are found, not
listed.
What can't be found is stated here: a test with a name of its own that holds a component against somebody
else's code, and components that are no functions of arrays. A cell without a yes has its reason.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import ast
import functools
import importlib
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from helpers.mirror import over_both, variants_of
from rich.console import Console
from rich.table import Column, Table
from tfm.export.torch_bodies import TORCH
from tfm.refimpl import laws, ops
from tfm.refimpl.laws.kit.checking import EQUALS
from tfm.refimpl.laws.kit.declare import modules, public, specified

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).parents[1]
NONE = "none: "

# Component -> the tests that hold it against others' code, or why there is none. Those that are named
# test_COMPONENT_is_… are found, see `oracle_of`.
ORACLES: dict[str, tuple[str, ...] | str] = {
    "activation": ("refimpl/ops/test_oracles.py::test_activations_are_torchs", "Gelu", "Swish"),
    "attention": (
        "refimpl/ops/test_oracles.py::test_attend_is_torchs",
        "refimpl/ops/test_oracles_attention.py::test_sinks_are_gpt_oss",
        "Attention",
        "Softmax",
    ),
    "bias": (
        "refimpl/ops/test_oracles_positions.py::test_slopes_are_blooms_and_mpts",
        "refimpl/ops/test_oracles_positions.py::test_buckets_are_t5s",
    ),
    "block": ("refimpl/checkpoint/families/test_families.py::test_outputs_equal_transformers",),
    "cache": ("refimpl/ops/test_oracles_cache.py::test_growing_is_the_operators_present", "TensorScatter"),
    "cross_attention": ("refimpl/ops/test_oracles_models.py::test_decoder_layer_is_torchs",),
    "delta": ("LinearAttention",),
    "embedding": f"{NONE}a row of a table, and a product with it; whole models are held to transformers'",
    "encoder": (
        "refimpl/ops/test_oracles_models.py::test_encoder_layer_is_torchs",
        "refimpl/ops/test_oracles_models.py::test_bert_is_transformers",
    ),
    "per_layer": (
        "refimpl/ops/test_oracles_gemma.py::test_per_layer_inputs_are_gemma4s",
        "refimpl/ops/test_oracles_gemma.py::test_per_layer_updates_are_gemma4s",
    ),
    "flash": (
        "refimpl/ops/test_oracles_attention.py::test_flash_is_torchs_kernel",
        "refimpl/ops/test_oracles_attention.py::test_flash_backward_is_autograds",
    ),
    "head": ("refimpl/ops/test_oracles_models.py::test_bert_is_transformers",),
    "hyper_connections": ("refimpl/ops/test_oracles_streams.py::test_mix_streams_is_qwen4s",),
    "pooled_attention": ("refimpl/ops/test_oracles_streams.py::test_pooled_attention_is_qwen4s",),
    "linear": f"{NONE}one product of matrices, the numbers of a library underneath",
    "linear_attention": (
        "refimpl/ops/test_oracles_attention.py::test_linear_attention_is_its_quadratic_form",
        "refimpl/ops/test_oracles_attention.py::test_random_features_estimate_softmax_attention",
    ),
    "lstm": (
        "refimpl/ops/test_oracles_recurrence.py::test_layer_is_torchs",
        "refimpl/ops/test_oracles_recurrence.py::test_sublayer_is_torchs",
        "LSTM",
    ),
    "moe": ("refimpl/ops/test_oracles_moe.py::test_mixtral",),
    "mask": (
        "refimpl/ops/test_oracles_positions.py::test_masks_are_transformers",
        "refimpl/ops/test_oracles_attention.py::test_block_sparse_attention_is_dense_attention_with_a_mask",
    ),
    "mlp": (
        "refimpl/ops/test_oracles.py::test_mlps_are_torchs",
        "refimpl/ops/test_oracles_moe.py::test_swiglu_oai_is_gpt_oss",
    ),
    "model": ("refimpl/checkpoint/families/test_families.py::test_outputs_equal_transformers",),
    "mtp": ("refimpl/checkpoint/families/test_mtp.py::test_mtp_is_transformers",),
    "ngram_memory": ("refimpl/ops/test_oracles_streams.py::test_ngram_memory_is_qwen4s",),
    "norm": (
        "refimpl/ops/test_oracles.py::test_norms_are_torchs",
        "RMSNormalization",
        "LayerNormalization",
    ),
    "position": (
        "refimpl/ops/test_oracles_positions.py::test_sinusoids_are_marians_and_distilberts",
        "RotaryEmbedding",
    ),
    "position_tables": ("refimpl/ops/test_oracles_positions.py::test_rotary_scalings_are_transformers",),
    "quant": (
        "refimpl/ops/test_oracles_quant.py::test_linear_blocks_is_the_kernel",
        "DynamicQuantizeLinear",
    ),
    "quantized_cache": ("refimpl/ops/test_oracles_cache.py::test_codes_by_channel",),
    "rope_scaling": ("refimpl/ops/test_oracles_positions.py::test_rotary_scalings_are_transformers",),
    "self_attention": ("refimpl/ops/test_oracles_models.py::test_attention_is_torchs",),
    "shared_block": ("refimpl/checkpoint/families/test_families.py::test_outputs_equal_transformers",),
    "sparse": (
        "refimpl/ops/test_oracles_attention.py::test_bigbird_is_flex_attention",
        "refimpl/ops/test_oracles_attention.py::test_sparse_is_longformer",
    ),
    "static_quant": ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "QLinearMatMul"),
}
# Components of functions over whole trees: where their graphs are exported and run, if they are, and laws.
TARGETS = "export/targets/test_targets.py::test_a_target_computes_the_spec"
FAMILY = "export/test_families.py::test_exports_equal_transformers"
ENCODERS = "export/test_end_to_end_text.py::test_exported_bundles_pass_verify"
WHOLE = {
    "block": (TARGETS, "refimpl/laws/test_model.py"),
    "encoder": (ENCODERS, "refimpl/laws/test_encoder.py"),
    "model": (TARGETS, "refimpl/laws/test_model.py"),
    "moonshine_stem": (ENCODERS, "refimpl/laws/test_model.py"),
    "ngram_memory": (FAMILY, "refimpl/laws/test_model.py"),
    "position_tables": (None, "refimpl/laws/test_model.py"),
    "shared_block": (FAMILY, "refimpl/laws/test_model.py"),
    "wave_stem": (TARGETS, "refimpl/laws/test_model.py"),
}
LOOP = f"{NONE}it chooses tokens outside the graph, and every engine uses this code"
TEXT = f"{NONE}it works on text, not on arrays"
ONE_TEXT = f"{NONE}composites, which are written once"
ALONE = f"{NONE}nothing runs it over tensors: it is specified in NumPy, with laws and an oracle"
ONCE = f"{NONE}it runs once, before an export, and its result is in the weights"


@dataclass(frozen=True)
class Other:
    """A component that isn't functions of arrays: its files, why PyTorch doesn't compute it, its tests."""

    files: tuple[str, ...]
    unported: str
    laws: str
    oracle: tuple[str, ...] | str


OTHERS = {
    "samplers": Other(
        ("decoding/options.py", "decoding/sampler.py", "decoding/sampling.py", "decoding/filters.py"), LOOP,
        "refimpl/decoding/test_sampling.py",
        ("refimpl/decoding/test_sampling.py::test_filters_are_transformers", "TopK"),
    ),
    "penalties": Other(
        ("decoding/penalties.py",), LOOP, "refimpl/decoding/test_penalties.py",
        ("refimpl/decoding/test_penalties.py::test_the_chain",),
    ),
    "constraints": Other(
        ("decoding/constraint.py",), LOOP, "runtime/text/test_constraints.py",
        ("runtime/text/test_constraints.py::test_a_complete_text_is_a_document_of_its_schema",),
    ),
    "log-probabilities": Other(
        ("decoding/logprobs.py",), LOOP, "refimpl/decoding/test_logprobs.py",
        ("refimpl/decoding/test_logprobs.py::test_they_are_those_of_torch",),
    ),
    "generation": Other(
        ("decoding/loop.py", "decoding/stop.py"), LOOP, "refimpl/decoding/test_loop.py",
        f"{NONE}the loop is held to whole passes; beam search, built on it, to transformers' own",
    ),
    "beam search": Other(
        ("decoding/beam.py",), LOOP, "refimpl/decoding/test_beam.py",
        ("refimpl/decoding/test_beam.py::test_hypotheses_are_transformers",),
    ),
    "speculative decoding": Other(
        ("decoding/speculative.py", "decoding/mtp.py"), LOOP, "refimpl/decoding/test_speculative.py",
        f"{NONE}each text is compared with the one that the loop writes without drafts",
    ),
    "rules of speech": Other(
        ("decoding/speech.py",), LOOP, "refimpl/decoding/test_speech.py",
        ("refimpl/decoding/test_speech.py::test_timestamp_rules_are_transformers",),
    ),
    "words of likeliest letters": Other(
        ("decoding/ctc.py",), LOOP, "refimpl/decoding/test_ctc.py",
        ("refimpl/decoding/test_ctc.py::test_words_and_their_positions_are_transformers",),
    ),
    "times of words": Other(
        ("decoding/word_times.py",), LOOP, "refimpl/decoding/test_word_times.py",
        ("refimpl/decoding/test_word_times.py::test_the_path_is_transformers",),
    ),
    "tokenizers": Other(
        ("checkpoint/tokenizers",), TEXT, "refimpl/checkpoint/tokenizers/test_oracles.py",
        ("refimpl/checkpoint/tokenizers/test_oracles.py::test_models",),
    ),
    "calibration": Other(
        ("calibrate",), ONCE, "refimpl/calibrate/test_ranges.py",
        ("refimpl/calibrate/test_ranges.py::test_onnxruntime_cuts_the_same_percentiles",),
    ),
    "attention maps": Other(
        ("engine/attention_maps.py",), f"{NONE}it shows the weights of `attention`, which has one",
        "refimpl/engine/test_attention_maps.py",
        ("refimpl/engine/test_attention_maps.py::test_weights_are_those_of_transformers",),
    ),
}  # fmt: skip
# Rooms of refimpl whose files are all listed one by one.
MIXED = ("decoding",)
# What is no component: configs, weights, files, and the engine that runs the model.
PLUMBING = {
    "axes.py", "checkpoint", "components.py", "config", "engine",
    "error_budget.py", "errors.py", "laws", "ops", "params",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    component: str
    spec: str
    pytorch: str
    export: str
    runtime: str
    laws: str
    oracle: str


def rows() -> list[Row]:
    """All components, those of refimpl/ops first."""
    return [_row(name) for name in ops_files()] + [
        Row(
            name,
            ", ".join(f"refimpl/{f}" for f in other.files),
            *[other.unported] * 3,
            f"tests/{other.laws}: {tests_in(other.laws)}",
            _oracle(other.oracle),
        )
        for name, other in OTHERS.items()
    ]


def ops_files() -> dict[str, ModuleType]:
    """The files of refimpl/ops with public functions, by name."""
    return {m.__name__.rsplit(".", 1)[-1]: m for m in modules(ops) if public(m)}


def _row(name: str) -> Row:
    there = public(importlib.import_module(f"{ops.__name__}.{name}"))
    drawn, bodies = [f for f in there if f"{name}.{f}" in specified()], len(TORCH.keys() & there)
    counted = graphs()
    graphs_made = sum(counted[f"{name}.{f}"] for f in drawn)
    export, law = [f"{graphs_made} graphs"] if graphs_made else [], [str(own_laws(drawn))] if drawn else []
    if name in WHOLE:
        if WHOLE[name][0] is not None:
            export.append(f"in whole models: tests/{WHOLE[name][0]}")
        law.append(f"tests/{WHOLE[name][1]}: {tests_in(WHOLE[name][1])}")
    return Row(
        name,
        f"refimpl/ops/{name}.py: {len(there)}",
        f"export/ops/{name}.py: {bodies}" if bodies else ONE_TEXT if export else ALONE,
        ", ".join(export) or ALONE,
        "each graph, " + ("drawn inputs" if drawn else "drawn models") if export else ALONE,
        ", ".join(law),
        _oracle(oracle_of(name)),
    )


@functools.cache
def graphs() -> Counter[str]:
    """How many graphs of each function are exported by itself, at opsets 21 and 23 in turns."""
    counts = Counter({name: len(variants_of(name)) for name in over_both()})
    return Counter({name: max(count, 2) for name, count in counts.items()})


def own_laws(functions: list[str]) -> int:
    """The laws of these functions, without equality with the specification."""
    return len({(law, f) for f in functions for law in laws.names()[f] if law != EQUALS})


def tests_in(file: str) -> int:
    """How many test functions a file has."""
    return sum(name.startswith("test_") for name in functions_of(file))


def functions_of(file: str) -> set[str]:
    """The names of a test file's functions."""
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def oracle_of(component: str) -> tuple[str, ...] | str:
    """What `ORACLES` says of a component, or the tests whose names say that it is somebody else's."""
    if component in ORACLES:
        return ORACLES[component]
    files = sorted((TESTS / "refimpl" / "ops").glob("test_oracles*.py"))
    named = [(f"refimpl/ops/{file.name}", test) for file in files for test in sorted(functions_of(str(file)))]
    return tuple(f"{file}::{test}" for file, test in named if test.startswith(f"test_{component}_is_"))


def _oracle(oracle: tuple[str, ...] | str) -> str:
    if isinstance(oracle, str):
        return oracle
    return ", ".join(f"tests/{o}" if "::" in o else f"ONNX's cases of {o}" for o in oracle)


def main(arguments: list[str]) -> None:
    if "--json" in arguments:
        print(json.dumps([asdict(row) for row in rows()], indent=2))
    else:
        printed_table = Table(
            *(Column(name, overflow="fold") for name in Row.__dataclass_fields__), show_lines=True
        )
        for row in rows():
            printed_table.add_row(*asdict(row).values())
        Console().print(printed_table)


if __name__ == "__main__":
    main(sys.argv[1:])
