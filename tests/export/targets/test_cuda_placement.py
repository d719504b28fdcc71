"""Graphs for ort-cuda run on the GPU, node by node, as ONNX Runtime's CUDA provider itself says.

No number is computed: the provider starts over stubs of CUDA's libraries (`helpers.cuda_stubs`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from families import ROWS
from helpers import cuda_stubs as stubs
from helpers import tiny_models
from helpers.cuda_placement import PROVIDER, SIZES, Placement, place, write_graphs
from helpers.hf_oracle import draw_keys
from tfm.refimpl.config import Classify, Config, Pool, QuestionAnswering, Tag
from tfm.refimpl.families import read_config
from tfm.runtime.bundle import operator_limits, targets

# Its sizes suit fast products of blocks, in 4 bits too.
LLAMA = tiny_models.llama(vocabulary=128, width=64, heads=8, kv_heads=4, mlp=96)
MODELS = {
    "norms of heads": tiny_models.llama(qk_norm=True, bias=True, tied=False),
    "layer norms": tiny_models.llama(plain=True, kind="gelu"),
    "windows": tiny_models.mixed_windows(),
    "added positions": tiny_models.added_positions(),
    "a mixture": tiny_models.mixture(),
    "rare options": tiny_models.rare(),
    "a block-sparse mask": tiny_models.block_sparse(),
    "an adaptive softmax": tiny_models.adaptive(),
    "an encoder and a decoder": tiny_models.encoder_decoder(layers=1),
    "rotary, an encoder and a decoder": tiny_models.rotary_encoder_decoder(),
    "a decoder that reads": tiny_models.reading_decoder(),
    "masked": tiny_models.encoder(layers=1),
    "classify": tiny_models.encoder(layers=1, head=Classify(3)),
    "tag": tiny_models.encoder(layers=1, head=Tag(3)),
    "answer": tiny_models.encoder(layers=1, head=QuestionAnswering()),
    "pool": tiny_models.encoder(layers=1, head=Pool()),
    "blocks of a long text": tiny_models.in_blocks(),
    "sinks": tiny_models.sinks(),
    "keys of another layer": tiny_models.shared_kv(),
    "latents": tiny_models.latents(),
    "convolutions": tiny_models.convolutions(),
    "disentangled": tiny_models.distant(),
}

# Families whose graphs have what those above haven't.
FAMILIES = (
    "apertus", "big_bird", "bloom", "cohere2", "exaone4", "gemma3_text", "gpt_bigcode", "gptj",
    "jina_embeddings_v3", "llama4_text", "modernbert-decoder", "mpt", "phi", "roformer", "umt5",
    "gemma3n_text",
)  # fmt: skip
STATE, CHOICE = "a recurrence adds up its rounding", "an indexer's scores are too near"
REFUSED = {
    "mamba": STATE,
    "falcon_mamba": STATE,
    "mamba2": STATE,
    "qwen3_next": STATE,
    "qwen3_5": STATE,
    "olmo_hybrid": STATE,
    "deepseek_v32": CHOICE,
    "glm_moe_dsa": CHOICE,
    "longformer": "Longformer's attention copies two sizes",
    "longt5": "LongT5's attention was never tried",
    "led": "Longformer's attention copies two sizes",
    "xlnet": "XLNet's attention was never tried",
    "bitnet": "a norm of what attention's heads give was never tried",
}
TARGET = targets.find("ort-cuda")


def check(config: Config, quant: str, folder: Path, cuda_stubs: Path) -> list[Placement]:
    """Nothing is copied between GPU and CPU, which only computes sizes, and a step can be captured."""
    placements = [place(graph, cuda_stubs) for graph in write_graphs(config, quant, folder)]
    for placement in placements:
        assert not placement.copied
        assert set(placement.on_cpu) <= SIZES
        assert not placement.capture
    return placements


@pytest.mark.parametrize("quant", ["int8", pytest.param("int4", marks=pytest.mark.long)])
def test_a_usual_decoder_is_on_the_gpu_alone(tmp_path: Path, cuda_stubs: Path, quant: str) -> None:
    """Its products are the fast ones: their weights are arranged by kernels when the session is opened."""
    (placement,) = check(LLAMA, quant, tmp_path, cuda_stubs)
    assert not placement.on_cpu
    assert placement.launches
    assert operator_limits.capture(LLAMA) is None


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_other_models(tmp_path: Path, cuda_stubs: Path, name: str) -> None:
    check(MODELS[name], "fp16", tmp_path, cuda_stubs)


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_families(tmp_path: Path, cuda_stubs: Path, name: str) -> None:
    row = ROWS[name]
    config, _ = read_config(
        row.config(**draw_keys(name, 1)[0], architectures=[row.models[0].__name__]).to_dict()
    )
    assert operator_limits.untried(TARGET, config) is None
    check(config, "fp16", tmp_path, cuda_stubs)


@pytest.mark.parametrize("name", REFUSED)
def test_families_without_a_bundle(name: str) -> None:
    """Each config that is drawn of them is refused by name, before anything is exported."""
    row = ROWS[name]
    for keys in draw_keys(name, 3):
        config, _ = read_config(row.config(**keys, architectures=[row.models[0].__name__]).to_dict())
        reasons = (
            operator_limits.recurrence(TARGET, config, "float16"),
            operator_limits.selection(config, "float16"),
            operator_limits.untried(TARGET, config),
        )
        assert any(REFUSED[name] in (reason or "") for reason in reasons)


@pytest.mark.long
def test_lengths_computed_in_the_graph_are_copied(
    tmp_path: Path, cuda_stubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check sees copies: without the inputs for them there are four, and a step can't be captured."""
    monkeypatch.setattr(operator_limits, "row_lengths", lambda *_: False)
    (graph,) = write_graphs(LLAMA, "fp16", tmp_path)
    placement = place(graph, cuda_stubs)
    assert len(placement.copied) == 4
    assert placement.on_cpu == ["Squeeze", "Sub", "Add", "Cast"]
    assert not placement.launches
    assert "have not been partitioned to the CUDAExecutionProvider" in placement.capture


def test_stubs_have_what_the_provider_takes(cuda_stubs: Path) -> None:
    taken = stubs.undefined(PROVIDER)
    assert {"libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"} <= set(taken)
    assert set(stubs.FUNCTIONS) <= set(taken["libcudart.so.13"]), "a function that isn't taken"
