"""Jina's BERT (jina-embeddings-v2), for which transformers has no class, against one made of its parts.

BERT without positions, ALiBi in its additive mask, gated mlps: as Günther et al. 2023 and the code of
jinaai/jina-bert-implementation say.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from helpers import gguf_writer
from helpers.float64 import Float64
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import Alibi, Attention, Gated, LayerNorm, Pool
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import TfmError
from tfm.refimpl.params.tree import flatten, map_leaves

EPS = 2.0**-17  # GGUF holds it in float32
RENAMED = {
    "intermediate.gated_layers": "mlp.gated_layers",
    "output.dense": "mlp.wo",
    "output.LayerNorm": "mlp.layernorm",
}
CLASSES = {
    "JinaBertModel": transformers.BertModel,
    "JinaBertForMaskedLM": transformers.BertForMaskedLM,
    "JinaBertForSequenceClassification": transformers.BertForSequenceClassification,
}
FUNCTIONS = {"geglu": torch.nn.functional.gelu, "reglu": torch.nn.functional.relu}


class GatedUnit(torch.nn.Module):
    """What stands in the place of BERT's first linear map and its activation."""

    def __init__(self, config: Any, kind: str) -> None:
        super().__init__()
        self.gated_layers = torch.nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gated_layers(x).chunk(2, dim=-1)
        return FUNCTIONS[self.kind](gate) * up


def slopes(heads: int) -> list[float]:
    """Press et al.'s own rule: a geometric row, and for other numbers every other slope of twice as many."""
    power = 2 ** math.floor(math.log2(heads))
    row = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    return row if power == heads else row + slopes(2 * power)[::2][: heads - power]


def jina(name: str, heads: int, kind: str, seed: int) -> Any:
    config = transformers.BertConfig(
        vocab_size=61, hidden_size=8 * heads, num_attention_heads=heads, num_hidden_layers=2, num_labels=3,
        intermediate_size=20, layer_norm_eps=EPS, attn_implementation="eager", tie_word_embeddings=True,
    )  # fmt: skip
    model = CLASSES[name](config).eval()
    for layer in model.base_model.encoder.layer:
        layer.intermediate = GatedUnit(config, kind)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=noise)
            weight.copy_(1 + 0.3 * drawn if weight.ndim == 1 else drawn * weight.shape[1] ** -0.5)
        model.base_model.embeddings.position_embeddings.weight.zero_()
    return model


def saved(folder: Path, model: Any, name: str, kind: str, **more: Any) -> dict[str, torch.Tensor]:
    """Writes it as jina-embeddings-v2 lies on the hub; its tensors."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(key for key in tensors if "position_embeddings" in key)]
    for old, new in RENAMED.items():
        tensors = {re.sub(rf"(layer\.\d+)\.{old}", rf"\1.{new}", key): t for key, t in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    stated = json.loads((folder / "config.json").read_text())
    stated |= {
        "architectures": [name], "position_embedding_type": "alibi", "feed_forward_type": kind,
        "max_position_embeddings": 12, "attn_implementation": "torch", "model_max_length": 8192, **more,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(stated))
    return tensors


def outputs(model: Any, tokens: np.ndarray, types: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Vectors, and what the head says, in float64."""
    positions = torch.arange(tokens.shape[1])
    distances = (positions[:, None] - positions[None, :]).abs()
    row = torch.tensor(slopes(model.config.num_attention_heads), dtype=torch.float64)
    bias = -row[None, :, None, None] * distances
    hidden = positions[None, :] >= torch.from_numpy(lengths)[:, None]
    mask = bias.masked_fill(hidden[:, None, None, :], torch.finfo(torch.float64).min)
    with Float64(), torch.no_grad():
        got = model.double()(
            torch.from_numpy(tokens),
            attention_mask=mask,
            token_type_ids=torch.from_numpy(types),
            output_hidden_states=True,
        )
    predicted = got.pooler_output if "pooler_output" in got else got.logits
    return [got.hidden_states[-1].numpy(), predicted.numpy()]


@pytest.mark.parametrize("name", CLASSES)
@settings(max_examples=settings.default.max_examples // 10)
@given(heads=st.sampled_from([1, 2, 3, 6]), kind=st.sampled_from(sorted(FUNCTIONS)), data=st.data())
def test_equal_to_bert_with_alibi_and_gated_mlps(tmp_path_factory, name, heads, kind, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    lengths = np.array([12, data.draw(st.integers(1, 12), label="length")])
    tokens, types = rng.integers(0, 61, (2, 12)), rng.integers(0, 2, (2, 12))
    mean = name == "JinaBertModel" and data.draw(st.booleans(), label="mean")
    folder, model = tmp_path_factory.mktemp("jina"), jina(name, heads, kind, int(lengths[1]))
    saved(folder, model, name, kind, emb_pooler="mean" if mean else None)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.context == 12
    engine = NumpyEngine(
        checkpoint.config, map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    )
    states, predicted = outputs(model, tokens, types, lengths)
    real = np.arange(12) < lengths[:, None]
    if mean:
        predicted = np.stack([vectors[mask].mean(0) for vectors, mask in zip(states, real, strict=True)])
    compared = [
        (engine.encode(tokens, lengths, types)[real], states[real]),
        (engine.predict(tokens, lengths, types), predicted),
    ]
    for got, want in compared:
        by_token = want.shape[:2] == tokens.shape
        got, want = (got[real], want[real]) if by_token else (got, want)
        assert np.abs(got - want).max() <= 1e-9 * np.abs(want).max()


@pytest.mark.parametrize("fused", [False, True])
def test_in_gguf(tmp_path: Path, fused: bool):
    """Gate and up in one tensor, or in two as older converters wrote them."""
    model = jina("JinaBertModel", 3, "geglu", 1)
    tensors = saved(tmp_path, model, "JinaBertModel", "geglu", emb_pooler="mean")
    names: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if name.startswith("pooler."):
            continue
        if "gated_layers" in name and not fused:
            gate, up = tensor.numpy().reshape(2, 20, 24)
            names |= {name.replace("layers", "layers_w"): gate, name.replace("layers", "layers_v"): up}
        else:
            names[name] = tensor.numpy()
    metadata = {
        "block_count": 2, "context_length": 12, "embedding_length": 24, "feed_forward_length": 20,
        "attention.head_count": 3, "attention.layer_norm_epsilon": EPS, "attention.causal": False,
        "pooling_type": 1,
    }  # fmt: skip
    renamed = gguf_writer.renamed(gguf.MODEL_ARCH.JINA_BERT_V2, names)
    file = gguf_writer.write(tmp_path / "x.gguf", "jina-bert-v2", metadata, renamed)
    one, other = open_checkpoint(tmp_path), open_checkpoint(file)
    assert one.config == other.config
    assert one.config.head == Pool("mean")
    wanted = dict(flatten(one.params))
    assert wanted.keys() == dict(flatten(other.params)).keys()
    for name, leaf in flatten(other.params):
        assert np.array_equal(leaf, wanted[name]), name
    gguf_writer.write(file, "jina-bert-v2", {**metadata, "pooling_type": 4}, renamed)
    with refused(TfmError, "pooling_type", 1, 2, 3, 4):
        open_checkpoint(file)


CONFIG: dict[str, Any] = {
    "_name_or_path": "jinaai/jina-bert-implementation", "model_max_length": 8192,
    "architectures": ["JinaBertForMaskedLM"], "attention_probs_dropout_prob": 0.0, "classifier_dropout": None,
    "auto_map": {"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"},
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 8192, "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 12,
    "pad_token_id": 0, "position_embedding_type": "alibi", "torch_dtype": "float32",
    "transformers_version": "4.26.0", "type_vocab_size": 2, "use_cache": True, "vocab_size": 30528,
    "feed_forward_type": "geglu", "emb_pooler": "mean",
}  # fmt: skip


def test_a_published_config():
    """jina-embeddings-v2-base-en's, as tests of embedding servers quote it."""
    config, _ = read_config(CONFIG, task="pool")
    layer = config.stacks["encoder"].layers[0]
    assert (config.context, config.head) == (8192, Pool("mean"))
    assert isinstance(layer.attention, Attention)
    assert layer.attention.position == Alibi()
    assert layer.mlp == Gated(3072, "gelu", after=LayerNorm(1e-12), down_bias=True)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"feed_forward_type": "original"}, "feed_forward_type 'original'"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type"),
        ({"emb_pooler": "max"}, "emb_pooler"),
        ({"alibi_scaling": 2}, "'alibi_scaling'"),
    ],
)
def test_refused(keys: dict[str, Any], words: str):
    with refused(TfmError, *words.split()):
        read_config({**CONFIG, **keys})
