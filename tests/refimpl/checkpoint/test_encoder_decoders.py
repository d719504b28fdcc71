"""Encoder-decoders as the hub has them: copies of tables, stored positions, keys of older versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import ROWS
from helpers.refused import refused
from safetensors.torch import save_file
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.errors import CheckpointError, ConfigError

BART = ("bart", "marian", "mbart", "pegasus")
PAIRS = (*BART, "t5", "mt5")


def keys(name: str) -> dict[str, Any]:
    """A config of the smallest sizes, with what the class writes."""
    small = {key: 12 if key == "d_model" else 4 if "heads" in key else 2 for key in ROWS[name].sizes}
    small |= {"vocab_size": 31, "max_position_embeddings": 40} if name in BART else {"vocab_size": 31}
    special = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return ROWS[name].config(**small, **special).to_dict()


def tensors(name: str, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor of the class under its own name, copies and all, as the .bin files of old had them."""
    row = ROWS[name]
    model = row.models[0](row.config(**config)).eval()
    with torch.no_grad():
        row.amend(model)
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def write(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", PAIRS)
def test_every_copy_that_a_file_holds_is_checked(tmp_path: Path, name: str):
    config = keys(name)
    whole = tensors(name, config)
    copies = [key for key in whole if key.endswith(("embed_tokens.weight", "shared.weight"))]
    stored = [key for key in whole if "embed_positions" in key and name in ("marian", "pegasus")]
    assert len(copies) >= 3
    assert len(stored) == (2 if name in ("marian", "pegasus") else 0)
    assert open_checkpoint(write(tmp_path, config, whole)).leaves.unused == ()
    for key in [*copies, *stored]:
        wrong = whole[key].clone()
        wrong[-1, -1] += 1e-2
        with pytest.raises(CheckpointError, match=r"(embedding.table|waves)"):
            open_checkpoint(write(tmp_path, config, {**whole, key: wrong}))


@pytest.mark.parametrize("name", PAIRS)
def test_an_output_table_of_its_own_counts_as_in_transformers(tmp_path: Path, name: str):
    config = keys(name)
    whole = tensors(name, config)
    own = whole["lm_head.weight"].flip(0).contiguous()
    opened = open_checkpoint(write(tmp_path, config, {**whole, "lm_head.weight": own}))
    theirs = ROWS[name].models[0].from_pretrained(tmp_path)
    assert not opened.config.head.tied
    for leaf, table in {
        "embedding.table": theirs.get_input_embeddings(),
        "head.table": theirs.lm_head,
    }.items():
        assert np.array_equal(opened.leaf(leaf), table.weight.detach().numpy())


@pytest.mark.parametrize("name", PAIRS)
def test_any_one_copy_is_enough(tmp_path: Path, name: str):
    """Which one of several equal tensors a file keeps has changed over the years."""
    config = keys(name)
    whole = tensors(name, config)
    copies = [key for key in whole if key.endswith(("embed_tokens.weight", "shared.weight"))]
    rest = {key: tensor for key, tensor in whole.items() if key not in (*copies, "lm_head.weight")}
    for key in copies:
        opened = open_checkpoint(write(tmp_path, config, {**rest, key: whole[key]}))
        assert np.array_equal(opened.leaf("embedding.table"), whole[key].numpy())
        assert opened.config.head.tied


@pytest.mark.parametrize("name", BART)
def test_a_trunk_has_no_bias_of_its_own(tmp_path: Path, name: str):
    """facebook/bart-base is a BartModel: names without a prefix, no head, so the table's and no bias."""
    config = keys(name)
    whole = tensors(name, config)
    trunk = {key.removeprefix("model."): tensor for key, tensor in whole.items() if key.startswith("model.")}
    opened = open_checkpoint(write(tmp_path, config, trunk))
    assert (opened.config.head.tied, opened.config.head.bias) == (True, False)
    bias = open_checkpoint(write(tmp_path, config, whole)).leaf("head.bias")
    assert np.array_equal(bias, whole["final_logits_bias"].numpy()[0])
    assert np.abs(bias).max() > 0.1
    flat = {**whole, "final_logits_bias": whole["final_logits_bias"][0]}
    with refused(CheckpointError, "'final_logits_bias'", "[1, 31]", "[31]"):
        open_checkpoint(write(tmp_path, config, flat))


def test_tensors_that_were_never_used(tmp_path: Path):
    table = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    more = {"t5": {table: torch.ones(32, 4)}, "bart": {"encoder.version": torch.ones(1)}}
    for name, unused in more.items():
        opened = open_checkpoint(write(tmp_path, keys(name), tensors(name, keys(name)) | unused))
        assert opened.leaves.unused == tuple(unused)


def test_a_table_of_its_own_scales_nothing():
    """T5 says it in one of two ways; and tensors decide where transformers 5 wrote the config."""
    told = keys("t5")
    old = {key: value for key, value in told.items() if key != "scale_decoder_outputs"}
    head = lambda config, names=None: read_config(config, "c", names)[0].head  # noqa: E731
    for config, names, wanted in (
        (old, None, (True, 12**-0.5)),
        ({**old, "tie_word_embeddings": False}, None, (False, None)),
        ({**old, "tie_word_embeddings": False}, ["lm_head.weight"], (False, None)),
        ({**old, "tie_word_embeddings": False}, [], (True, None)),
        ({**told, "scale_decoder_outputs": False}, ["lm_head.weight"], (False, None)),
        ({**told, "scale_decoder_outputs": False}, [], (True, None)),
        (told, ["lm_head.weight"], (True, 12**-0.5)),
    ):
        found = head(config, names)
        assert (found.tied, found.scale) == wanted


# Keys that versions 2 to 4 of transformers wrote into a config.json, and no class reads.
OLD: dict[str, dict[str, Any]] = {
    "bart": {"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False,
             "static_position_embeddings": False, "extra_pos_embeddings": 2},
    "marian": {"normalize_before": False, "normalize_embedding": False, "add_final_layer_norm": False,
               "static_position_embeddings": True, "extra_pos_embeddings": 58101},
    "mbart": {"normalize_before": True, "normalize_embedding": True, "add_final_layer_norm": True,
              "static_position_embeddings": False, "extra_pos_embeddings": 2},
    "pegasus": {"normalize_before": True, "normalize_embedding": False, "add_final_layer_norm": True,
                "static_position_embeddings": True, "extra_pos_embeddings": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", BART)
def test_old_keys_say_what_the_class_does(name: str):
    config = keys(name)
    common = {"add_bias_logits": False, "classif_dropout": 0.0, "gradient_checkpointing": False}
    assert read_config({**config, **common, **OLD[name]})[0] == read_config(config)[0]
    for key, value in OLD[name].items():
        wrong = not value if isinstance(value, bool) else 5
        if key != "extra_pos_embeddings" or name in ("bart", "mbart"):
            with refused(ConfigError, key):
                read_config({**config, key: wrong})


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("t5", {"num_hidden_layers": 3}, "num_hidden_layers num_layers 2"),
        ("t5", {"dense_act_fn": "silu"}, "dense_act_fn feed_forward_proj"),
        ("t5", {"is_gated_act": True}, "is_gated_act false feed_forward_proj"),
        ("t5", {"feed_forward_proj": "gated-selu"}, "feed_forward_proj"),
        ("t5", {"architectures": ["T5Model"]}, "architectures"),
        ("t5", {"is_encoder_decoder": False}, "is_encoder_decoder true t5"),
        ("bart", {"num_hidden_layers": 3}, "num_hidden_layers encoder_layers 2"),
        ("bart", {"encoder_attention_heads": 5}, "d_model encoder_attention_heads 5"),
        ("bart", {"architectures": ["BartForCausalLM"]}, "architectures"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings"),
        ("marian", {"decoder_vocab_size": 30}, "decoder_vocab_size vocab_size 31"),
    ],
)
def test_refused(name: str, more: dict[str, Any], words: str):
    with refused(ConfigError, *words.split()):
        read_config({**keys(name), **more})
