"""What trainers and mergers leave in a directory: it is read as transformers reads it, and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.peft_oracle import with_adapter, write_adapter
from helpers.refused import refused
from safetensors.torch import load_file, save_file
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import CheckpointError, ConfigError, NumericError
from tfm.refimpl.params.tree import map_leaves

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32,
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(3, 50, (2, 12))


def write(model: transformers.PreTrainedModel, folder: Path) -> dict[str, torch.Tensor]:
    """A model with random weights, in a folder; its tensors."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise) * 0.3)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def llama(folder: Path, **keys: Any) -> dict[str, torch.Tensor]:
    return write(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES | keys)), folder)


def restate(folder: Path, **keys: Any) -> None:
    stated = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps({k: v for k, v in stated.items() if v is not ...}))


def error(
    checkpoint: Checkpoint, oracle: Any, folder: Path, adapter: Path | None = None, **given: Any
) -> float:
    """How far the specification is from transformers' class, which opens the same files, and from peft's
    where there is an adapter; in float64."""
    model = oracle.from_pretrained(folder, dtype=torch.float64).eval()
    if adapter is not None:
        model = with_adapter(model, adapter)
    with torch.no_grad():
        want = model(torch.from_numpy(TOKENS), **given).logits.numpy()
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    engine = NumpyEngine(checkpoint.config, params)
    if oracle is transformers.BertForMaskedLM:
        got = engine.predict(TOKENS)
    else:
        got = engine.step(TOKENS, engine.start(2), at=np.tile(np.arange(12), (2, 1)))[0]
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_another_output_table_than_a_tied_config_says(tmp_path):
    tensors = llama(tmp_path, tie_word_embeddings=True)
    table = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": table.clone()}, tmp_path / "model.safetensors")
    assert (open_checkpoint(tmp_path).config.head.tied, open_checkpoint(tmp_path).notes) == (True, ())
    save_file({**tensors, "lm_head.weight": table.flip(0).contiguous()}, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path)
    assert not opened.config.head.tied
    assert any("output table" in note for note in opened.notes)
    assert error(opened, transformers.LlamaForCausalLM, tmp_path) < 1e-5


# Settings of an adapter, and the tables that it changes.
ADAPTERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no table": ({"target_modules": ["v_proj"]}, set()),
    "output": ({"target_modules": ["lm_head"]}, {"head.table"}),
    "input": ({"target_modules": ["embed_tokens"]}, {"embedding.table"}),
    "both": (
        {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
        {"embedding.table", "head.table"},
    ),
    "output follows": (
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        {"embedding.table", "head.table"},
    ),
    "saved": ({"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]}, {"embedding.table"}),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_of_another_output_table_than_a_tied_config_says(tmp_path, case):
    settings, changed = ADAPTERS[case]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tensors = llama(base, tie_word_embeddings=True)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    write_adapter(transformers.LlamaForCausalLM.from_pretrained(base), adapter, r=3, **settings)
    opened = open_checkpoint(base, adapter)
    assert any("output table" in note for note in opened.notes)
    assert {name for name in opened.changed if name.endswith("table")} == changed
    assert error(opened, transformers.LlamaForCausalLM, base, adapter) < 1e-5


def test_another_output_table_of_an_encoder(tmp_path):
    tensors = write(transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)), tmp_path)
    table = tensors["bert.embeddings.word_embeddings.weight"].flip(0).contiguous()
    save_file({**tensors, "cls.predictions.decoder.weight": table}, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path)
    assert not opened.config.head.tied
    assert error(opened, transformers.BertForMaskedLM, tmp_path) < 1e-5


def test_an_output_table_of_another_shape_is_refused(tmp_path):
    tensors = llama(tmp_path, tie_word_embeddings=True)
    save_file({**tensors, "lm_head.weight": torch.zeros(49, 16)}, tmp_path / "model.safetensors")
    with refused(CheckpointError, "lm_head.weight", "embedding.table"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_names_that_wrappers_of_training_have_put_a_prefix_before(tmp_path, prefix):
    tensors = llama(tmp_path)
    plain = open_checkpoint(tmp_path)
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path)
    assert opened.config == plain.config
    assert any(f"'{prefix}'" in note for note in opened.notes)
    for name in plain.leaves.names:
        np.testing.assert_array_equal(opened.leaf(name), plain.leaf(name))
    some = dict(list(tensors.items())[1:])
    first = next(iter(tensors))
    save_file(
        {first: tensors[first], **{prefix + name: some[name] for name in some}},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)


def test_weights_in_float64(tmp_path):
    tensors = llama(tmp_path)
    save_file({name: tensor.double() / 3 for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path)
    assert opened.float_dtype == "F64"
    assert any("F64" in note for note in opened.notes)
    want = (tensors["model.norm.weight"].double() / 3).float().numpy()
    np.testing.assert_array_equal(opened.leaf("decoder.norm.weight"), want)
    assert error(opened, transformers.LlamaForCausalLM, tmp_path) < 1e-5
    save_file(
        {**tensors, "model.norm.weight": torch.full((16,), 1e300, dtype=torch.float64)},
        tmp_path / "model.safetensors",
    )
    with refused(NumericError, "decoder.norm.weight[0]", "finite", "inf"):
        open_checkpoint(tmp_path).leaf("decoder.norm.weight")


def test_frequencies_of_another_rotation(tmp_path):
    tensors = llama(tmp_path)
    names = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2)]
    left = dict.fromkeys(names, torch.tensor([1.0, 0.5]))
    save_file(
        {**tensors, **{name: tensor.clone() for name, tensor in left.items()}}, tmp_path / "model.safetensors"
    )
    opened = open_checkpoint(tmp_path)
    assert [note for note in opened.notes if names[0].removeprefix("model.") in note]
    assert error(opened, transformers.LlamaForCausalLM, tmp_path) < 1e-5


LINEAR = {"type": "linear", "factor": 2}


@pytest.mark.parametrize(
    ("old", "new", "theta"),
    [
        (LINEAR, {"rope_type": "linear", "factor": 2.0}, ...),
        (LINEAR, {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}, 500.0),
        (LINEAR, {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}, ...),
        ({**LINEAR, "rope_theta": 500.0}, {"rope_type": "linear", "factor": 2.0}, ...),
    ],
)
def test_rotations_stated_in_both_styles(tmp_path, old, new, theta):
    llama(tmp_path)
    restate(tmp_path, rope_scaling=old, rope_parameters=new, rope_theta=theta)
    assert error(open_checkpoint(tmp_path), transformers.LlamaForCausalLM, tmp_path) < 1e-5


@pytest.mark.parametrize(
    "new",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},  # transformers would take its default
        {"rope_type": "linear", "factor": 2.0, "original_max_position_embeddings": 16},
        {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5},
    ],
)
def test_rotations_stated_differently_are_refused(tmp_path, new):
    llama(tmp_path)
    restate(tmp_path, rope_scaling=LINEAR, rope_parameters=new, rope_theta=...)
    with refused(ConfigError, "rope_parameters", "rope_scaling"):
        open_checkpoint(tmp_path)
