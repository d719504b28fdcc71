"""Runs exported models with ONNX Runtime: in comes a bundle, out comes a Model with a method for each task.

`load(path)` is the public way in. Needs neither torch nor onnx.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tasks import Model

__all__ = ["load"]


def load(path: Path | str, device: str = "cpu", threads: int | None = None) -> Model:
    """The model of a bundle, on `cpu`, on `cuda`, or with `auto` on CUDA where it starts.

    Raises BundleError if the bundle is damaged or was made for another device, DeviceError if the device
    can't be used.
    """
    from .tasks import load as load_model  # importing the package costs nothing

    return load_model(path, device, threads)
