"""Adapters that peft writes, with random tensors, and what peft computes with them in float64."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from families import ROWS
from tfm.refimpl.checkpoint.open import Checkpoint
from tfm.refimpl.config import Decoder, Tag
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import TRIES, ULP, error_terms, largest_difference, moved
from tfm.refimpl.params.tree import Tree, map_leaves

from helpers.float64 import Float64, in_float64
from helpers.hf_oracle import make_inputs, specification_outputs


def write_adapter(model: torch.nn.Module, folder: Path, seed: int = 0, **settings: Any) -> None:
    """peft's adapter of a model with random A, B, magnitudes, biases and saved modules."""
    noise = torch.Generator().manual_seed(seed)
    biases = {"all": (".bias",), "lora_only": (".base_layer.bias",)}.get(settings.get("bias", "none"), ())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tied tables, and of Conv1D
        adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
        for name, weight in adapted.named_parameters():
            drawn = torch.randn(weight.shape, generator=noise)
            if "lora_magnitude" in name:
                weight.mul_(1 + 0.3 * drawn)
            elif "lora_" in name:
                weight.copy_(drawn * weight.shape[-1] ** -0.5)
            elif "modules_to_save" in name or name.endswith(biases):
                weight.add_(drawn * 0.1)
        adapted.save_pretrained(folder)


def peft_logits(model: Any, folder: Path, arguments: dict[str, np.ndarray]) -> np.ndarray:
    """What peft computes with the adapter on the model, in float64, nothing merged."""
    with Float64(), torch.no_grad():
        exact = type(model)(model.config).double().eval()
        exact.load_state_dict(model.state_dict())
        ROWS[model.config.model_type].amend(exact)
    inputs = {name: torch.from_numpy(value) for name, value in arguments.items()}
    return in_float64(with_adapter(exact, folder), **inputs).logits.numpy()


def with_adapter(exact: Any, folder: Path) -> Any:
    """A model in float64 with peft's adapter on it, nothing merged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(exact, str(folder), autocast_adapter_dtype=False)
    return adapted.double().eval()


def compare_with_peft(model: Any, folder: Path, checkpoint: Checkpoint, seed: int = 0) -> float:
    """The specification's error on the merged weights as a share of its budget, which may be 1 at most."""
    config = checkpoint.config
    arguments = make_inputs(model, config, seed, 7)
    if isinstance(config, Decoder):
        arguments.pop("attention_mask", None)
    real: Any = ...
    if isinstance(config.head, Tag):  # what a model says of padding means nothing
        real = arguments["attention_mask"] == 1
    expected = peft_logits(model, folder, arguments)[real]

    def logits(params: Tree) -> np.ndarray:
        return specification_outputs(NumpyEngine(config, params), arguments, vectors=False)[0][real]

    params = map_leaves(lambda _, leaf: leaf, checkpoint.params)
    exact = map_leaves(lambda _, leaf: leaf.astype(np.float64), params)
    rng = np.random.default_rng(0)
    moves = [logits(map_leaves(lambda _, leaf: moved(leaf, ULP, rng), exact)) for _ in range(TRIES)]
    specified = logits(exact)
    # From the specification alone: a budget that knew what is expected would forgive any error.
    budget = error_terms(specified, logits(params), moves).budget
    return largest_difference(specified, expected) / budget


def change_settings(folder: Path, **changes: Any) -> None:
    """Change keys of an adapter's adapter_config.json; None stands for null, `...` removes a key."""
    path = folder / "adapter_config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))
