"""Modules that predict further tokens, from the files of families that have them, against transformers.

transformers has `MtpModel` for checkpoints of DeepSeek's form; for Qwen's the oracle is its `MtpLayer` over
the family's own classes. Each is compared in float64, with all weights random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import ROWS
from helpers.float64 import Float64
from helpers.hf_oracle import in_float64, make_model
from helpers.refused import refused
from safetensors.torch import load_file, save_file
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.params.tree import map_leaves
from transformers.modeling_layers import MtpLayer, MtpModel

EQUAL = 1e-10  # float64 against float64, relative to the largest number
LENGTH = 9
SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "intermediate_size": 20,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
EXPERTS: dict[str, Any] = {
    "n_routed_experts": 6,
    "n_group": 3,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 7,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "experts_implementation": "eager",
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 10,
    "q_lora_rank": 11,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 6,
    "v_head_dim": 9,
}
DEEPSEEK_FORM: dict[str, dict[str, Any]] = {
    "deepseek_v3": {**SIZES, **EXPERTS, **LATENT},
    "kimi_k2": {**SIZES, **EXPERTS, **LATENT, "tie_word_embeddings": True},
    "glm4_moe": {**SIZES, **EXPERTS, "num_key_value_heads": 2, "head_dim": 8, "use_qk_norm": True},
}
DELTA: dict[str, Any] = {
    **SIZES,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "linear_conv_kernel_dim": 3,
    "linear_key_head_dim": 3,
    "linear_value_head_dim": 5,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "full_attention"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
}
CHOICE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7,
    "shared_expert_intermediate_size": 6,
    "experts_implementation": "eager",
}
QWEN_FORM: dict[str, dict[str, Any]] = {
    "qwen3_next": {**DELTA, **CHOICE, "norm_topk_prob": True},
    "qwen3_5_text": DELTA,
    "qwen3_5_moe_text": {**DELTA, **CHOICE},
}


def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A random weight; vectors have few digits, so that one is added to them exactly."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    vector = (noise * 0.3 + 1).mul(2**16).round() / 2**16
    return vector if len(shape) == 1 else noise * shape[1] ** -0.5


def save(name: str, keys: dict[str, Any], folder: Path) -> Any:
    """A model whose last layer becomes that of a module, saved as the checkpoints of its family are; returns
    the model."""
    model: Any = make_model(name, keys)
    model.save_pretrained(folder)
    ROWS[name].restate(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    last, d = SIZES["num_hidden_layers"] - 1, SIZES["hidden_size"]
    head = model.lm_head.weight.detach().clone()
    names = ("enorm", "hnorm", "eh_proj", "shared_head.norm")
    if name in QWEN_FORM:
        prefix = "model."
        tensors = {
            key.replace(f"{prefix}layers.{last}.", "mtp.layers.0."): value for key, value in tensors.items()
        }
        names = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "fc", "norm")
        start = "mtp."
    else:
        start = f"model.layers.{last}."
        tensors[f"{start}shared_head.head.weight"] = head
        tensors[f"{start}embed_tokens.weight"] = model.model.embed_tokens.weight.detach().clone()
    for i, part in enumerate(names):
        tensors[f"{start}{part}.weight"] = drawn((d, 2 * d) if i == 2 else (d,), i)
    save_file(tensors, path, metadata={"format": "pt"})
    stated = json.loads((folder / "config.json").read_text())
    stated["num_hidden_layers"] = last
    if name in QWEN_FORM:
        stated["layer_types"] = stated["layer_types"][:last]
        stated["mtp_num_hidden_layers"] = 1
        if name == "qwen3_next":
            del stated["mtp_num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(stated))
    return model


def expected(name: str, model: Any, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """transformers' logits of the model without its last layer, its vectors, and the module's logits and
    vectors of all pairs, the module applied once."""
    ids = torch.from_numpy(tokens)
    with Float64(), torch.no_grad():
        exact: Any = type(model)(in_float64(model.config)).double().eval()
        exact.load_state_dict(model.state_dict())
        ROWS[name].amend(exact)
        block = exact.model.layers[-1]
        exact.model.layers = exact.model.layers[:-1]
        exact.config.num_hidden_layers = len(exact.model.layers)
        hidden = exact.model(input_ids=ids, use_cache=False).last_hidden_state
        norm = type(exact.model.norm)
        if name in QWEN_FORM:
            layer = MtpLayer(exact.config, type(block), norm, SIZES["num_hidden_layers"] - 1)
        else:
            module = MtpModel(exact, 1)
            layer = module.layers[0]
        layer.double().mtp_block = block
        parts = (layer.enorm, layer.hnorm, layer.eh_proj, layer.post_norm)
        for i, part in enumerate(parts):
            part.weight.copy_(drawn(tuple(part.weight.shape), i).double())
        positions = torch.arange(1, LENGTH)[None]
        embedded = exact.model.embed_tokens(ids[:, 1:])
        states = layer(
            embedded,
            hidden[:, :-1],
            position_embeddings=exact.model.rotary_emb(embedded, positions),
            attention_mask=torch.full((LENGTH - 1, LENGTH - 1), -torch.inf).triu(1).double()[None, None],
            position_ids=positions,
            cache=None,
        )
        return hidden.numpy(), exact.lm_head(states).numpy(), states.numpy()


def opened(folder: Path) -> NumpyEngine:
    checkpoint = open_checkpoint(folder, mtp=True)
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    return NumpyEngine(checkpoint.config, params)


RARER = ("kimi_k2", "qwen3_5_moe_text")


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        pytest.param(name, keys, id=name, marks=[pytest.mark.long] * (name in RARER))
        for name, keys in (DEEPSEEK_FORM | QWEN_FORM).items()
    ],
)
def test_mtp_is_transformers(name: str, keys: dict[str, Any], tmp_path: Path):
    """Logits and vectors of the module, whole and pair by pair; without it the same files are the model."""
    model = save(name, keys, tmp_path)
    tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (1, LENGTH))
    hidden, logits, states = expected(name, model, tokens)
    engine = opened(tmp_path)
    _, own_hidden, _ = engine.step_with_hidden(tokens, engine.start(1))
    np.testing.assert_allclose(own_hidden, hidden, rtol=0, atol=EQUAL * np.abs(hidden).max())
    cache, got_logits, got_states = engine.start_mtp(), [], []
    for first, end in ((0, 3), (3, 4), (4, LENGTH - 1)):
        last, vectors, cache = engine.step_mtp(tokens[:, first + 1 : end + 1], hidden[:, first:end], cache)
        got_logits.append(last[:, -1])
        got_states.append(vectors)
    got = np.concatenate(got_states, 1)
    np.testing.assert_allclose(got, states, rtol=0, atol=EQUAL * np.abs(states).max())
    ends = logits[:, [2, 3, LENGTH - 2]]
    np.testing.assert_allclose(np.stack(got_logits, 1), ends, rtol=0, atol=EQUAL * np.abs(ends).max())
    plain = open_checkpoint(tmp_path)
    assert plain.config.mtp is None
    assert plain.left_out.keys() <= {"mtp", f"layers.{SIZES['num_hidden_layers'] - 1}"}
    assert plain.left_out, "the module's tensors are left out by name"


def change(folder: Path, tensors: dict[str, torch.Tensor], **stated: Any) -> None:
    """Replace tensors and keys of a saved model."""
    path, config = folder / "model.safetensors", folder / "config.json"
    save_file(load_file(path) | tensors, path, metadata={"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | stated))


def test_what_is_no_module_is_refused(tmp_path: Path):
    """A table that isn't the model's, a tensor that is missing, several modules, none."""
    save("glm4_moe", DEEPSEEK_FORM["glm4_moe"], tmp_path)
    table = torch.zeros(SIZES["vocab_size"], SIZES["hidden_size"])
    last = SIZES["num_hidden_layers"] - 1
    change(tmp_path, {f"model.layers.{last}.shared_head.head.weight": table})
    with refused(CheckpointError, "shared_head.head.weight'", "head.table"):
        open_checkpoint(tmp_path, mtp=True)
    assert open_checkpoint(tmp_path).left_out, "the model alone needs no table of the module"
    for count in (0, 2):
        change(tmp_path, {}, num_nextn_predict_layers=count, num_mtp_layers=count)
        with refused(ConfigError, "multi-token", "prediction"):
            open_checkpoint(tmp_path, mtp=True)
    with refused(ConfigError, "mtp", "no such module"):
        read_config({"model_type": "llama"} | SIZES, mtp=True)


def test_a_missing_tensor_is_named(tmp_path: Path):
    """What transformers saves has no module, though config.json states one."""
    keys = {**DEEPSEEK_FORM["glm4_moe"], "num_hidden_layers": 2}
    make_model("glm4_moe", keys).save_pretrained(tmp_path)
    with refused(CheckpointError, "missing", "mtp"):
        open_checkpoint(tmp_path, mtp=True)
