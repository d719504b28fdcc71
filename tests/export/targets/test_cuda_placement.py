"""Graphs for ort-cuda run on the GPU, node by node, as ONNX Runtime's CUDA provider itself says.

No number is computed: the provider starts over stubs of CUDA's libraries (`helpers.cuda_stubs`). There is a
model for each kind of part; `reports.cuda_runs` has the families.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers import cuda_stubs as stubs
from helpers import tiny_models
from helpers.cuda_placement import PROVIDER, Placement, place, place_all, problems, write_graphs
from tfm.refimpl.config import (
    LM,
    XIELU,
    Activation,
    Chunked,
    Classify,
    Config,
    Decoder,
    Dense,
    EncoderDecoder,
    ExpertGroups,
    FirstToken,
    Gated,
    LayerNorm,
    MoE,
    NoMlp,
    Plain,
    Pool,
    QuestionAnswering,
    QuestionTokens,
    ReadingHead,
    RMSNorm,
    Scaling,
    Sinusoidal,
    SparseMixer,
    Tag,
    TokenDropout,
)
from tfm.refimpl.config.record import Record
from tfm.runtime.bundle import operator_limits, targets
from tfm.runtime.bundle.graph_io import GRAPH

# Its sizes suit fast products of blocks, in 4 bits too.
LLAMA = tiny_models.llama(vocabulary=128, width=64, heads=8, kv_heads=4, mlp=96)


def activations() -> Decoder:
    """A decoder with a layer of each activation, some in an mlp without gates."""
    base = tiny_models.llama(layers=1, kv_heads=6)
    (layer,) = base.layers
    mlps = [Gated(24, kind) for kind in get_args(Activation)]
    layers = tuple(replace(layer, mlp=mlp) for mlp in (*mlps, Plain(24, "gelu"), Plain(24, XIELU())))
    return replace(base, stack=replace(base.stack, layers=layers))


def gates() -> Decoder:
    """A decoder with gates of attention's output, a bounded output, and numbers that multiply what an mlp's
    maps read and give."""
    base = tiny_models.llama(layers=1, tied=False)
    (layer,) = base.layers
    assert isinstance(layer.mlp, Gated)
    mlp = replace(layer.mlp, gate_scale=0.75, scale=1.5, down_bias=True, post=RMSNorm(1e-5))
    attention = replace(layer.attention, output_gate=True, head_gate=True)
    layers = (replace(layer, attention=attention, mlp=mlp), replace(layer, mlp=NoMlp()))
    stack = replace(base.stack, layers=layers)
    return replace(base, stack=stack, head=LM(False, softcap=9.0))


def mixtures() -> Decoder:
    """A decoder with experts that are chosen one by one, that have a latent and no gates, and that have norms
    of their own, in chunks that don't see each other."""
    base = tiny_models.llama(layers=1, width=40)
    (layer,), norm = base.layers, RMSNorm(1e-5)
    kinds = (
        MoE(4, 2, 24, "silu", SparseMixer(), False, pre=norm),
        MoE(6, 2, 24, "relu_squared", "sigmoid", groups=ExpertGroups(3, 2, "max"), shared=28, pre=norm,
            gated=False, latent=20, shared_bias=True, sum_eps=1e-6),
        MoE(3, 1, 24, "silu", "sigmoid", shared=28, own_norms=norm, expert_scale=True),
        MoE(3, 1, 24, "silu", "sigmoid", weighs="input", pre=norm),
    )  # fmt: skip
    attention = replace(layer.attention, mask=Chunked(4))
    layers = tuple(replace(layer, attention=attention, mlp=kind) for kind in kinds)
    return replace(base, stack=replace(base.stack, layers=layers))


def in_parts() -> EncoderDecoder:
    """An encoder and a decoder without ONNX Runtime's operators: a soft cap here, shared heads there; their
    positions are sines."""
    base = tiny_models.encoder_decoder(layers=1)
    (layer, *_), (reading,) = base.encoder.layers, base.decoder.layers
    capped = replace(layer.attention, softcap=4.0)
    narrow = replace(reading.cross, kv_heads=2)
    encoder = replace(base.encoder, layers=(replace(layer, attention=capped),), positions=Sinusoidal())
    decoder = replace(base.decoder, layers=(replace(reading, cross=narrow),), positions=Sinusoidal(offset=2))
    return replace(base, encoder=encoder, decoder=decoder)


def encoder(head: ReadingHead) -> Config:
    return tiny_models.encoder(layers=1, head=head)


DENSE = Dense("gelu", norm=LayerNorm(1e-5), width=20)
MODELS = {
    "windows": tiny_models.mixed_windows(),
    "added positions": tiny_models.added_positions(),
    "a mixture": tiny_models.mixture(),
    "rare options": tiny_models.rare(),
    "a block-sparse mask": tiny_models.block_sparse(),
    "an adaptive softmax": tiny_models.adaptive(),
    "rotary, an encoder and a decoder": tiny_models.rotary_encoder_decoder(),
    "one softmax over two texts": tiny_models.merging(),
    "a decoder that reads": tiny_models.reading_decoder(),
    "tag": encoder(Tag(3)),
    "blocks of a long text": tiny_models.in_blocks(),
    "sinks": tiny_models.sinks(),
    "keys of another layer": tiny_models.shared_kv(),
    "latents": tiny_models.latents(),
    "convolutions": tiny_models.convolutions(),
    "disentangled": tiny_models.distant(),
    "norms of outputs": tiny_models.normed_outputs(),
    "a window and the first token": tiny_models.windowed(spread=FirstToken()),
    "a window and a question": tiny_models.windowed(spread=QuestionTokens(5)),
    "distances and segments": tiny_models.relative(clamp=5),
    "summaries": tiny_models.summarized(),
    "kernels of a token's own": tiny_models.near_and_far(),
    "a bottleneck": tiny_models.narrow(),
    "streams": tiny_models.altup(),
    "a sound": tiny_models.hearing(),
    "a waveform": tiny_models.spelling(),
    "samples": tiny_models.writing(),
    "activations": activations(),
    "gates": gates(),
    "mixtures in chunks": mixtures(),
    "attention in parts": in_parts(),
    "classify late": encoder(Classify(3, "max", DENSE, kind="multi", late=True)),
    "answer by an mlp": encoder(QuestionAnswering(mlp=Plain(24, "gelu", after=LayerNorm(1e-5)))),
    "tokens dropped": replace(
        encoder(Tag(3)), embedding=replace(encoder(Tag(3)).embedding, token_dropout=TokenDropout(4))
    ),
    "pool and project": encoder(Pool("last", DENSE, unit=True, projections=(Dense("tanh", width=12),))),
}

STATE, CHOICE = "the rounding errors of a recurrence", "an indexer's scores are too near"
REFUSED = {
    "linear attention and an LSTM": (tiny_models.recurrent(), STATE),
    "gated deltas": (tiny_models.gated_deltas(), STATE),
    "Kimi's deltas": (tiny_models.kimi(), STATE),
    "Mamba": (tiny_models.selective_scans(), STATE),
    "Mamba 2": (tiny_models.state_spaces(), STATE),
    "linear recurrent units": (tiny_models.linear_units(), STATE),
    "shared blocks": (tiny_models.shared_blocks(), STATE),
    "time mixing": (tiny_models.time_mixes(), STATE),
    "a memory of n-grams": (tiny_models.hyper_connected(), "kept as numbers, for which float16 has too few"),
    "lightning": (tiny_models.ling(), STATE),
    "an indexer": (tiny_models.indexed(), CHOICE),
    "an indexer of blocks": (tiny_models.indexed_blocks(), CHOICE),
    "a module for drafts": (tiny_models.MODULES["attention"](), "drafts (mtp) was never tested on a GPU"),
}
TARGET = targets.find("ort-cuda")


def check(config: Config, quant: str, folder: Path, cuda_stubs: Path) -> dict[str, Placement]:
    """Nothing is copied between GPU and CPU, which only computes sizes, and a step is captured as the bundle
    says."""
    assert operator_limits.no_bundle(TARGET, config, "float16") is None
    placements = place_all(config, quant, folder, cuda_stubs)
    assert problems(config, placements) == []
    return placements


def records(value: Any) -> Iterator[type]:
    """The classes of what a Config consists of."""
    if is_dataclass(value):
        yield type(value)
        yield from (kind for field in fields(value) for kind in records(getattr(value, field.name)))
    elif isinstance(value, tuple | list | Mapping):
        yield from (
            kind for one in (value.values() if isinstance(value, Mapping) else value) for kind in records(one)
        )


def subclasses(kind: type) -> Iterator[type]:
    for sub in kind.__subclasses__():
        yield from (sub, *subclasses(sub))


def test_every_kind_of_part_is_placed_or_refused() -> None:
    """A new mixer, mask, head and so on needs a model here. Scaled rotary tables are inputs of a graph."""
    exist = {
        kind
        for kind in subclasses(Record)
        if kind.__module__.startswith("tfm.") and not kind.__subclasses__()
    }
    placed = {kind for config in (LLAMA, *MODELS.values()) for kind in records(config)}
    refused = {kind for config, _ in REFUSED.values() for kind in records(config)}
    assert exist - placed - refused - set(get_args(Scaling)) == set()
    # With ONNX Runtime's operators for attention, and in parts.
    decoders = [config for config in MODELS.values() if "decoder" in config.stacks]
    assert {bool(operator_limits.group_query(config)) for config in decoders} == {True, False}
    readers = [config for config in MODELS.values() if "encoder" in config.stacks]
    assert {bool(operator_limits.multi_head(config)) for config in readers} == {True, False}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why(name: str) -> None:
    config, reason = REFUSED[name]
    assert reason in (operator_limits.no_bundle(TARGET, config, "float16") or "")


def test_problems_are_told() -> None:
    """What waits for numbers matters where a step is to be captured."""
    step = Placement(["Cast", "Gelu"], ["NonZero"], ["tokens"], "a device is missing", 0)
    told = problems(LLAMA, {GRAPH: step})
    assert all(fact in line for fact, line in zip(("(1)", "Gelu", "NonZero", "missing"), told, strict=True))
    assert problems(MODELS["a mixture"], {GRAPH: replace(step, on_cpu=["Cast"], copied=[])}) == []


@pytest.mark.parametrize("quant", ["int8", pytest.param("int4", marks=pytest.mark.long)])
def test_a_usual_decoder_is_on_the_gpu_alone(tmp_path: Path, cuda_stubs: Path, quant: str) -> None:
    """Its products are the fast ones: their weights are arranged by kernels when the session is opened."""
    placement = check(LLAMA, quant, tmp_path, cuda_stubs)[GRAPH]
    assert not placement.on_cpu
    assert placement.launches
    assert operator_limits.capture(LLAMA) is None


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_other_models(tmp_path: Path, cuda_stubs: Path, name: str) -> None:
    check(MODELS[name], "fp16", tmp_path, cuda_stubs)


@pytest.mark.long
def test_lengths_computed_in_the_graph_are_copied(
    tmp_path: Path, cuda_stubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check sees copies: without the inputs for them there are four, and a step can't be captured."""
    monkeypatch.setitem(targets.TARGETS, "ort-cuda", replace(TARGET, row_lengths=False))
    (graph,) = write_graphs(LLAMA, "fp16", tmp_path)
    placement = place(graph, cuda_stubs)
    assert len(placement.copied) == 4
    assert placement.on_cpu == ["Squeeze", "Sub", "Add", "Cast"]
    assert not placement.launches
    assert "CUDAExecutionProvider" in placement.capture


def test_stubs_have_what_the_provider_takes(cuda_stubs: Path) -> None:
    taken = stubs.undefined(PROVIDER)
    assert {"libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"} <= set(taken)
    assert set(stubs.FUNCTIONS) <= set(taken["libcudart.so.13"]), "a function that isn't taken"
