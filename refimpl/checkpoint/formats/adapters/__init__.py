"""Adapters: small files of tensors that change a model's weights, in the form of the peft library.

The input is adapter_model.safetensors, and the settings that `config_readers.adapter_config` reads. The
output is the low-rank updates and the replacing tensors of each module, which `weights.merge` applies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..model_directory import Directory

SETTINGS = "adapter_config.json"

# A directory with an adapter; False for the base alone; None for a base beside which no adapter may lie.
AdapterChoice = Path | str | Literal[False] | None


def lies_beside(base: Path) -> bool:
    """Return whether the directory of a model contains an adapter. `base` is the directory or a .gguf file in
    it.
    """
    return Directory(base if base.is_dir() else base.parent).find(SETTINGS) is not None
