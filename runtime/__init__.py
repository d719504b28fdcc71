"""Run exported models with ONNX Runtime: load a bundle and get a Model with a method for each task.

`load(path)` is the public entry point. It needs neither torch nor onnx. `tfm.load`, outside of this package,
also accepts names of models and checkpoints, and exports them first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tasks import Model

__all__ = ["load"]


def load(path: Path | str, device: str = "cpu", threads: int | None = None) -> Model:
    """Open a bundle and return its model. `device` is "cpu", "cuda" or "auto".

    "auto" means CUDA if ONNX Runtime can start it, otherwise the CPU. Raises BundleError if the bundle is
    damaged or was made for another device, or if `path` is a model's name, a checkpoint or a config instead
    of a bundle. Raises DeviceError if the device can't be used.
    """
    from ..refimpl.errors import BundleError
    from .hub.locate import kind_of
    from .hub.model_names import CATALOGUE, is_fetched
    from .tasks import load as load_model  # importing the package costs nothing

    named = str(path) in CATALOGUE or is_fetched(str(path))
    if named or kind_of(Path(path)) in ("checkpoint", "config"):
        raise BundleError(
            f"{path} must be a bundle: use tfm.load to open a checkpoint or a model by its name"
        )
    return load_model(path, device, threads)
