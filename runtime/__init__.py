"""Runs exported models with ONNX Runtime: `load(path)` gives a Model. No torch, no onnx."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tasks import Model

__all__ = ["load"]


def load(path: Path | str, device: str = "cpu", threads: int | None = None) -> Model:
    """The model of a bundle, on the CPU, on CUDA or on what there is (`auto`).

    Raises BundleError if the bundle is damaged or made for another device, DeviceError if the device
    can't be used.
    """
    from .tasks import load as load_model  # importing the package costs nothing

    return load_model(path, device, threads)
