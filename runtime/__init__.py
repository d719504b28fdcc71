"""Runs exported models with ONNX Runtime: in comes a bundle, out comes a Model with a method for each task.

`load(path)` is the public way in, and needs neither torch nor onnx. `tfm.load`, above this room, takes names
and checkpoints too, and exports them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tasks import Model

__all__ = ["load"]


def load(path: Path | str, device: str = "cpu", threads: int | None = None) -> Model:
    """The model of a bundle, on `cpu`, on `cuda`, or with `auto` on CUDA where it starts.

    Raises BundleError if the bundle is damaged, was made for another device, or is no bundle but what one is
    made of; DeviceError if the device can't be used.
    """
    from ..refimpl.errors import BundleError
    from .hub.locate import kind_of
    from .hub.model_names import CATALOGUE, is_fetched
    from .tasks import load as load_model  # importing the package costs nothing

    named = str(path) in CATALOGUE or is_fetched(str(path))
    if named or kind_of(Path(path)) in ("checkpoint", "config"):
        raise BundleError(f"{path} is no bundle: tfm.load takes names and checkpoints too, and exports them")
    return load_model(path, device, threads)
