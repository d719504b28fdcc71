"""Encoders beside BERT in both dialects: their vectors and classifiers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import transformers
from helpers import gguf_writer, tiny_models
from helpers.float64 import randomize
from helpers.refused import refused
from safetensors.numpy import load_file, save_file
from tfm.refimpl.checkpoint.config_readers.gguf_heads import gguf_reading
from tfm.refimpl.checkpoint.config_readers.keys import Keys
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint
from tfm.refimpl.components import from_json
from tfm.refimpl.config import Classify, Config, Encoder, Learned, Pool, to_json
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import TfmError
from tfm.refimpl.params.tree import flatten, map_leaves

EPS = 2.0**-17  # GGUF holds it in float32
POOLINGS = {"mean": 1, "cls": 2, "lasttoken": 3}
PAD = 4
LABELS = ["bad", "good", "so so"]
Tensors = dict[str, np.ndarray]


def saved(folder: Path, model: Any, pooling: str | None = None) -> Tensors:
    """Writes a model as transformers does, with a pooling as sentence-transformers does; its tensors, without
    the prefix, the pooler and other heads than classifiers, as the converter takes them."""
    randomize(model, seed=3).float().save_pretrained(folder)
    if pooling is not None:
        steps = {"": "Transformer", "1_Pooling": "Pooling"}
        modules = [{"path": p, "type": f"sentence_transformers.models.{kind}"} for p, kind in steps.items()]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        made = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode": pooling}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(made))
    prefix = f"{model.base_model_prefix}."
    tensors = {k.removeprefix(prefix): v for k, v in load_file(folder / "model.safetensors").items()}
    return {k: v for k, v in tensors.items() if not k.startswith("pooler.")}


def outputs(checkpoint: Checkpoint, seed: int) -> Iterator[np.ndarray]:
    """Vectors of real tokens and what the head says of two rows, one of them padded, in float64."""
    config, rng = checkpoint.config, np.random.default_rng(seed)
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    engine, lengths = NumpyEngine(config, params), np.array([config.context, 5])
    tokens = rng.integers(PAD + 1, config.embedding.vocabulary, (2, config.context))
    types = rng.integers(0, config.embedding.token_types or 1, tokens.shape)
    given = (tokens, lengths, None if config.embedding.token_types is None else types)
    real = np.arange(config.context) < lengths[:, None]
    yield engine.encode(*given)[real]
    yield engine.predict(*given)


def same(one: Checkpoint, other: Checkpoint) -> None:
    """Equal leaves and outputs, but for the rows before the first position, which the second hasn't."""
    assert cut(one.config) == other.config
    want = dict(flatten(one.params))
    for name, leaf in flatten(other.params):
        wanted = want.pop(name)
        wanted = wanted[offset(one.config) :] if name == "encoder.positions" else wanted
        assert np.array_equal(leaf, wanted), name
    assert not want
    for got, wanted in zip(outputs(other, 1), outputs(one, 1), strict=True):
        assert np.array_equal(got, wanted)
        assert got.std() > 0


def offset(config: Config) -> int:
    positions = config.stacks["encoder"].positions
    return positions.offset if isinstance(positions, Learned) else 0


def cut(config: Config) -> Config:
    """The same with positions from row 0 on."""
    if not offset(config):
        return config
    assert isinstance(config, Encoder)
    assert isinstance(config.stack.positions, Learned)
    return replace(config, stack=replace(config.stack, positions=Learned(config.stack.positions.size)))


SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "layer_norm_eps": EPS,
}  # fmt: skip
WHOLE = {"vocab_size": 61, "max_position_embeddings": 17, "type_vocab_size": 1, "pad_token_id": PAD}
METADATA = {
    "block_count": 2, "context_length": 12, "embedding_length": 24, "feed_forward_length": 40,
    "attention.head_count": 3, "attention.layer_norm_epsilon": EPS, "attention.causal": False,
}  # fmt: skip
ROBERTAS = {"roberta": ("Roberta", 1), "xlm-roberta": ("XLMRoberta", 2)}


def roberta(name: str, end: str, **more: Any) -> Any:
    kin, types = ROBERTAS[name]
    config = getattr(transformers, f"{kin}Config")(**SIZES, **{**WHOLE, "type_vocab_size": types}, **more)
    return getattr(transformers, f"{kin}{end}")(config)


def chopped(tensors: Tensors) -> Tensors:
    """What the converter makes of RoBERTa's: rows of positions from the first on."""
    table = "embeddings.position_embeddings.weight"
    return gguf_writer.renamed(gguf.MODEL_ARCH.BERT, {**tensors, table: tensors[table][PAD + 1 :]})


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ROBERTAS)
def test_robertas_vectors(tmp_path: Path, name: str, pooling: str):
    tensors = chopped(saved(tmp_path, roberta(name, "Model"), pooling))
    metadata = {**METADATA, "pooling_type": POOLINGS[pooling]}
    gguf_writer.write(tmp_path / "x.gguf", "bert", metadata, tensors)
    one, other = open_checkpoint(tmp_path), open_checkpoint(tmp_path / "x.gguf")
    assert (offset(one.config), one.config.context) == (PAD + 1, 12)
    assert isinstance(other.config.head, Pool)
    same(one, other)


@pytest.mark.parametrize("labels", [LABELS, LABELS[:1]])
@pytest.mark.parametrize("name", ROBERTAS)
def test_robertas_classifiers(tmp_path: Path, name: str, labels: list[str]):
    """A table of one row, of labels or of types, may be a vector: so llama.cpp writes it when quantizing."""
    model = roberta(name, "ForSequenceClassification", id2label=dict(enumerate(labels)))
    tensors = chopped(saved(tmp_path, model))
    metadata = {**METADATA, "classifier.output_labels": labels}
    one = open_checkpoint(tmp_path)
    assert isinstance(one.config.head, Classify)
    one = replace(one, config=replace(one.config, head=replace(one.config.head, kind="regression")))
    for squeeze in (False, True):
        held = {k: v[0] if squeeze and v.ndim == 2 and len(v) == 1 else v for k, v in tensors.items()}
        gguf_writer.write(tmp_path / "x.gguf", "bert", metadata, held)
        other = open_checkpoint(tmp_path / "x.gguf")
        same(one, other)
        assert other.labels == tuple(labels)
    gguf_writer.write(tmp_path / "x.gguf", "bert", METADATA, tensors)
    assert open_checkpoint(tmp_path / "x.gguf").labels == tuple(f"LABEL_{i}" for i in range(len(labels)))


def test_a_classifier_whose_vectors_are_asked_for(tmp_path: Path):
    """A pooling that is stated counts, as in a directory that has one; the labels are then of no head."""
    model = roberta("roberta", "ForSequenceClassification", id2label=dict(enumerate(LABELS)))
    tensors = chopped(saved(tmp_path, model, "mean"))
    metadata = {**METADATA, "classifier.output_labels": LABELS, "pooling_type": 1}
    gguf_writer.write(tmp_path / "x.gguf", "bert", metadata, tensors)
    other = open_checkpoint(tmp_path / "x.gguf")
    same(open_checkpoint(tmp_path), other)
    assert other.labels == ()


def test_distilberts_vectors(tmp_path: Path):
    config = transformers.DistilBertConfig(
        vocab_size=61, dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=12
    )
    tensors = saved(tmp_path, transformers.DistilBertModel(config), "mean")
    metadata = {**METADATA, "attention.layer_norm_epsilon": 1e-12, "pooling_type": 1}
    gguf_writer.write(
        tmp_path / "x.gguf", "bert", metadata, gguf_writer.renamed(gguf.MODEL_ARCH.BERT, tensors)
    )
    one = open_checkpoint(tmp_path)
    held = json.dumps(to_json(one.config)).replace("1e-12", f"{np.float32(1e-12).item()}")
    same(replace(one, config=from_json(json.loads(held))), open_checkpoint(tmp_path / "x.gguf"))


NO_CLASSIFIER = ("cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias")


@pytest.mark.parametrize(
    ("metadata", "without", "words"),
    [
        ({"pooling_type": 0}, (), "pooling_type 1 2 3 4 0"),
        ({"pooling_type": 4}, NO_CLASSIFIER, "pooling_type 1 2 3 4"),
        ({}, NO_CLASSIFIER, "pooling_type missing"),
        ({}, ("cls.weight", "cls.bias"), "pooling_type 1 2 3 classifier 'cls.weight'"),
        ({}, ("token_types.weight",), "pooling_type 1 2 3 classifier 'token_types.weight'"),
        ({}, ("cls.output.bias",), "'cls.output.bias'"),
        ({"context_length": 17}, (), "'position_embd.weight' 17 24 12 24"),
        ({"classifier.output_labels": LABELS[:2]}, (), "classifier.output_labels"),
        ({"classifier.output_labels": "bad"}, (), "classifier.output_labels"),
        ({"classifier.output_labels": ["a", "b", "a"]}, (), "label"),
        ({"classifier.pooling_type": 1}, (), "'classifier.pooling_type'"),
    ],
)
def test_metadata_that_are_refused(tmp_path: Path, metadata: dict[str, Any], without: Any, words: str):
    model = roberta("roberta", "ForSequenceClassification", id2label=dict(enumerate(LABELS)))
    tensors = {k: v for k, v in chopped(saved(tmp_path, model)).items() if k not in without}
    gguf_writer.write(tmp_path / "x.gguf", "bert", METADATA | metadata, tensors)
    with refused(TfmError, *words.split()):
        open_checkpoint(tmp_path / "x.gguf")


MODERN = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 12, "norm_eps": EPS, "pad_token_id": PAD,
    "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
OWN = {
    "local_attention": 6, "global_attn_every_n_layers": 2, "global_rope_theta": 5e5, "local_rope_theta": 2e4,
    "hidden_activation": "silu",
}  # fmt: skip
BIASES = {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}
MODERN_METADATA = {
    **METADATA, "block_count": 5, ":tokenizer.ggml.add_bos_token": True, "attention.sliding_window": 128,
    "rope.freq_base": 160_000.0, "rope.scaling.type": "none", "vocab_size": 61,
    "attention.layer_norm_rms_epsilon": EPS,
}  # fmt: skip
OWN_METADATA = {
    "attention.sliding_window": 6, "attention.sliding_window_pattern": 2, "rope.freq_base": 5e5,
    "rope.freq_base_swa": 2e4, "hidden_activation": "silu",
}  # fmt: skip


def modernbert(end: str, **more: Any) -> Any:
    return getattr(transformers, f"ModernBert{end}")(transformers.ModernBertConfig(**{**MODERN, **more}))


def directly(tensors: Tensors) -> Tensors:
    """What the converter makes of ModernBERT's where labels have names: a row of names of its own."""
    names = {f"classifier.{end}": f"classifier.out_proj.{end}" for end in ("weight", "bias")}
    named = {names.get(name, name): array for name, array in tensors.items()}
    return gguf_writer.renamed(gguf.MODEL_ARCH.MODERN_BERT, named)


@pytest.mark.parametrize(
    ("keys", "metadata", "pooling"),
    [
        ({}, {}, "mean"),
        (OWN, OWN_METADATA, "cls"),
        (BIASES, {"classifier.pooling_type": 2, "classifier.output_labels": LABELS}, "lasttoken"),
    ],
)
def test_modernberts_vectors(tmp_path: Path, keys: Any, metadata: Any, pooling: str):
    tensors = directly(saved(tmp_path, modernbert("Model", **keys), pooling))
    metadata = {**MODERN_METADATA, "pooling_type": POOLINGS[pooling], **metadata}
    gguf_writer.write(tmp_path / "x.gguf", "modern-bert", metadata, tensors)
    same(open_checkpoint(tmp_path), open_checkpoint(tmp_path / "x.gguf"))


@pytest.mark.parametrize(
    ("keys", "pooling", "labels"), [({}, 2, LABELS), (BIASES, 1, LABELS), (OWN, 1, LABELS[:1])]
)
def test_modernberts_classifiers(tmp_path: Path, keys: Any, pooling: int, labels: list[str]):
    said = {1: "mean", 2: "cls"}[pooling]
    model = modernbert(
        "ForSequenceClassification", id2label=dict(enumerate(labels)), classifier_pooling=said, **keys
    )
    tensors = directly(saved(tmp_path, model))
    metadata = {**MODERN_METADATA, "classifier.pooling_type": pooling, "classifier.output_labels": labels}
    metadata |= OWN_METADATA if keys is OWN else {}
    gguf_writer.write(tmp_path / "x.gguf", "modern-bert", metadata, tensors)
    one, other = open_checkpoint(tmp_path), open_checkpoint(tmp_path / "x.gguf")
    assert isinstance(one.config.head, Classify)
    head = replace(one.config.head, kind="regression")
    same(replace(one, config=replace(one.config, head=head)), other)
    assert other.labels == tuple(labels)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"classifier.pooling_type": 3}, "classifier.pooling_type 1 2 3"),
        ({}, "classifier.pooling_type 1 2 None"),
        ({"attention.causal": True, "pooling_type": 1}, "attention.causal True"),
        ({"attention.layer_norm_rms_epsilon": 0.5}, "layer_norm_rms_epsilon attention.layer_norm_epsilon"),
        ({"hidden_activation": "geglu", "pooling_type": 1}, "hidden_activation"),
        ({"attention.sliding_window": 0, "pooling_type": 1}, "attention.sliding_window 1"),
        ({"attention.sliding_window_pattern": [True] * 5}, "sliding_window_pattern'"),
        ({"rope.freq_base_swa": 0.0, "pooling_type": 1}, "rope.freq_base_swa 0"),
        ({"vocab_size": 60}, "vocab_size token_embd.weight 61"),
        ({"attention.head_count_kv": 3, "pooling_type": 1}, "'attention.head_count_kv'"),
    ],
)
def test_modernberts_metadata_that_are_refused(tmp_path: Path, metadata: dict[str, Any], words: str):
    model = modernbert("ForSequenceClassification", id2label=dict(enumerate(LABELS)))
    tensors = directly(saved(tmp_path, model))
    gguf_writer.write(tmp_path / "x.gguf", "modern-bert", MODERN_METADATA | metadata, tensors)
    with refused(TfmError, *words.split()):
        open_checkpoint(tmp_path / "x.gguf")


def test_modernberts_first_layer_has_no_norm_of_its_own(tmp_path: Path):
    tensors = directly(saved(tmp_path, modernbert("Model"), "mean"))
    tensors["blk.0.attn_norm.weight"] = tensors["blk.1.attn_norm.weight"]
    metadata = {**MODERN_METADATA, "pooling_type": 1}
    gguf_writer.write(tmp_path / "x.gguf", "modern-bert", metadata, tensors)
    with refused(TfmError, "tensors", "blk.0.attn_norm.weight"):
        open_checkpoint(tmp_path / "x.gguf")


ROTARY = {**SIZES, "vocab_size": 61, "max_position_embeddings": 12, "type_vocab_size": 2}
ROTARIES = {
    "nomic-bert": (gguf.MODEL_ARCH.NOMIC_BERT, transformers.NomicBertModel, 1000.0),
    "jina-bert-v3": (gguf.MODEL_ARCH.JINA_BERT_V3, transformers.JinaEmbeddingsV3Model, 20_000.0),
}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ROTARIES)
def test_vectors_of_rotary_encoders(tmp_path: Path, name: str, pooling: str):
    arch, kind, theta = ROTARIES[name]
    tensors = saved(tmp_path, kind(kind.config_class(**ROTARY)), pooling)
    metadata = {**METADATA, "pooling_type": POOLINGS[pooling], "rope.freq_base": theta}
    gguf_writer.write(tmp_path / "x.gguf", name, metadata, gguf_writer.renamed(arch, tensors))
    same(open_checkpoint(tmp_path), open_checkpoint(tmp_path / "x.gguf"))


@pytest.mark.parametrize("name", ROTARIES)
@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"pooling_type": 4}, "pooling_type 1 2 3 4"),
        ({"attention.causal": True, "pooling_type": 1}, "attention.causal True"),
        ({"moe_every_n_layers": 2}, "'moe_every_n_layers'"),
        ({"rope.scaling.type": "yarn", "rope.scaling.attn_factor": 2.0}, "attn_factor 1"),
    ],
)
def test_metadata_of_rotary_encoders_that_are_refused(
    tmp_path: Path, name: str, metadata: dict[str, Any], words: str
):
    arch, kind, _ = ROTARIES[name]
    tensors = gguf_writer.renamed(arch, saved(tmp_path, kind(kind.config_class(**ROTARY))))
    gguf_writer.write(tmp_path / "x.gguf", name, {**METADATA, "pooling_type": 1, **metadata}, tensors)
    with refused(TfmError, *words.split()):
        open_checkpoint(tmp_path / "x.gguf")


LLAMAS = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 40, "max_position_embeddings": 12,
    "rms_norm_eps": EPS, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA_METADATA = {
    "block_count": 2, "context_length": 12, "embedding_length": 24, "feed_forward_length": 40,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 6,
    "attention.value_length": 6, "attention.layer_norm_rms_epsilon": EPS, "pooling_type": 3,
}  # fmt: skip


def named(arch: gguf.MODEL_ARCH, tensors: Tensors) -> Tensors:
    """The tensors of a model of Llama's form, whose names the converter begins with `model.`."""
    return gguf_writer.renamed(arch, {f"model.{k.removeprefix('model.')}": v for k, v in tensors.items()})


def test_euroberts_vectors(tmp_path: Path):
    model = transformers.EuroBertModel(transformers.EuroBertConfig(**LLAMAS))
    tensors = named(gguf.MODEL_ARCH.EUROBERT, saved(tmp_path, model, "lasttoken"))
    metadata = LLAMA_METADATA | {"rope.scaling.type": "none", "rope.freq_base": 10_000.0}
    file = tmp_path / "x.gguf"
    gguf_writer.write(file, "eurobert", {**metadata, "attention.causal": False}, tensors)
    same(open_checkpoint(tmp_path), open_checkpoint(file))
    gguf_writer.write(file, "eurobert", {**metadata, "attention.causal": True}, tensors)
    with refused(TfmError, "attention.causal", "false"):
        open_checkpoint(file)


@pytest.mark.parametrize("causal", [True, False])
def test_vectors_of_a_decoder(tmp_path: Path, causal: bool):
    """A pooling says that the file is of a model that reads (Qwen3-Embedding, gte-Qwen2)."""
    config = transformers.Qwen3Config(**LLAMAS, tie_word_embeddings=False, is_causal=causal)
    tensors = saved(tmp_path, transformers.Qwen3ForCausalLM(config), "lasttoken")
    output = tensors.pop("lm_head.weight")
    tensors = named(gguf.MODEL_ARCH.QWEN3, tensors) | {"output.weight": output}
    file, metadata = tmp_path / "x.gguf", {} if causal else {"attention.causal": False}
    gguf_writer.write(file, "qwen3", LLAMA_METADATA | metadata, tensors)
    same(open_checkpoint(tmp_path), open_checkpoint(file))
    gguf_writer.write(file, "qwen3", LLAMA_METADATA | {"pooling_type": 4}, tensors)
    with refused(TfmError, "pooling_type", 1, 2, 3, 4):
        open_checkpoint(file)
    writes = {k: v for k, v in LLAMA_METADATA.items() if k != "pooling_type"}
    gguf_writer.write(file, "qwen3", {**writes, "attention.causal": False}, tensors)
    with refused(TfmError, "attention.causal", "true"):
        open_checkpoint(file)


def test_a_window_in_both_directions_is_another_one_there():
    keys = {"pooling_type": 1, "attention.causal": False}
    assert isinstance(gguf_reading(tiny_models.llama(layers=1), Keys(keys, "x.gguf")), Encoder)
    with refused(TfmError, "attention.causal", "true", "layers"):
        gguf_reading(tiny_models.llama(layers=1, window=5), Keys(keys, "x.gguf"))


@pytest.mark.parametrize("widths", [(), (40, 24)])
def test_embedding_gemmas_vectors(tmp_path: Path, widths: tuple[int, ...]):
    """In both directions, half of the window on either side, then the Dense modules."""
    config = transformers.Gemma3TextConfig(
        **LLAMAS, sliding_window=6, query_pre_attn_scalar=6, use_bidirectional_attention=True,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    tensors = saved(tmp_path, transformers.Gemma3TextModel(config), "mean")
    tensors = {k: v + np.float32(1) if k.endswith("norm.weight") else v for k, v in tensors.items()}
    metadata = {
        "pooling_type": 1, "attention.sliding_window": 6, "attention.sliding_window_pattern": 2,
        "rope.freq_base": 1e6,
    }  # fmt: skip
    modules = json.loads((tmp_path / "modules.json").read_text())
    dense: Tensors = {}
    for i, (inputs, outputs) in enumerate(zip((24, *widths), widths, strict=False), start=2):
        weight = np.random.default_rng(i).normal(size=(outputs, inputs)).astype(np.float32)
        (tmp_path / f"{i}_Dense").mkdir()
        save_file({"linear.weight": weight}, tmp_path / f"{i}_Dense" / "model.safetensors")
        stated = {
            "in_features": inputs, "out_features": outputs, "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }  # fmt: skip
        (tmp_path / f"{i}_Dense" / "config.json").write_text(json.dumps(stated))
        modules.append({"path": f"{i}_Dense", "type": "sentence_transformers.models.Dense"})
        metadata |= {f"dense_{i}_feat_in": inputs, f"dense_{i}_feat_out": outputs}
        dense[f"dense_{i}.weight"] = weight
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    tensors = named(gguf.MODEL_ARCH.GEMMA_EMBEDDING, tensors) | dense
    file = gguf_writer.write(tmp_path / "x.gguf", "gemma-embedding", LLAMA_METADATA | metadata, tensors)
    one, other = open_checkpoint(tmp_path), open_checkpoint(file)
    assert isinstance(other.config, Encoder)
    assert [layer.attention.window for layer in other.config.stack.layers] == [4, None]
    same(one, other)
    refused = {"attention.causal": (True, r"attention.causal must be false")}
    if widths:
        refused["dense_2_feat_in"] = (
            25,
            r"dense_2_feat_in must be the output width of the step before \(24\)",
        )
        refused["dense_3_feat_out"] = (25, r"dense_3_feat_out must be the rows of dense_3.weight \(24\)")
    for key, (value, words) in refused.items():
        gguf_writer.write(file, "gemma-embedding", LLAMA_METADATA | metadata | {key: value}, tensors)
        with pytest.raises(TfmError, match=words):
            open_checkpoint(file)
