"""`tfm-cli doctor`: what this machine offers, tried and not just listed."""

from __future__ import annotations

import contextlib
import io
from typing import Annotated, Any

import typer

from ..console import out, out_json, size

PACKAGES = (
    "tfm-cli", "numpy", "onnxruntime", "onnxruntime-gpu", "tokenizers", "minijinja",
    "torch", "onnx", "onnx-ir", "onnxscript", "huggingface_hub",
)  # fmt: skip

GROUP = "This machine"


def command(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Report versions, providers that really start, int8 instructions, memory, threads and the cache."""
    from ...refimpl.errors import DeviceError

    found = report()
    if as_json:
        out_json(found)
    else:
        for name, value in found.items():
            lines = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
            if isinstance(value, list):
                lines = [str(v) for v in value] or ["none"]
            out(f"{name:10} " + ("\n" + " " * 11).join(lines))
    if found["providers"].get("CPUExecutionProvider") != "starts":
        raise DeviceError("ONNX Runtime's CPU provider must start, it doesn't: reinstall onnxruntime")


def report() -> dict[str, Any]:
    """Everything that `doctor` knows."""
    import platform

    from ...runtime import hardware
    from ...runtime.hub import cache_dir
    from ...runtime.verification.report import INT8_FLAGS, int8_path

    versions, free = _versions(), hardware.memory()
    wheels = [name for name in versions if name.startswith("onnxruntime")]
    problems = []
    if len(wheels) > 1:
        problems.append(f"{' and '.join(wheels)} overwrite each other: pip uninstall both, then install one")
    flags = [flag for flag in INT8_FLAGS if flag in hardware.flags()]
    return {
        "versions": {"python": platform.python_version(), "platform": platform.platform(), **versions},
        "providers": _providers(),
        "int8": {
            "instructions": " ".join(flags) or "none known",
            "path": int8_path(),
        },
        "memory": "unknown" if free is None else f"{size(free)} free",
        "threads": hardware.threads(),
        "cache": {
            "at": str(cache_dir.cache_dir()),
            "holds": size(sum(c.bytes for c in cache_dir.cached())),
        },
        "problems": problems,
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _providers() -> dict[str, str]:
    """Provider -> "starts", or why it doesn't: ONNX Runtime lists providers that can't."""
    import onnxruntime as ort

    from ...runtime.ort.session import PROVIDERS, missing_for_cuda

    ort.set_default_logger_severity(4)
    found = {}
    for provider in ort.get_available_providers():
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            # Falling back, the Python binding prints; what comes out here is doctor's own finding.
            with contextlib.redirect_stdout(io.StringIO()):
                got = ort.InferenceSession(IDENTITY, options, providers=[provider]).get_providers()[0]
            found[provider] = "starts" if got == provider else f"falls back to {got}"
        except Exception as error:  # each provider has exceptions of its own
            found[provider] = f"fails: {' '.join(str(error).split()):.120}"
        if provider == PROVIDERS["cuda"] and found[provider] != "starts":
            found[provider] += (
                f", missing: {', '.join(missing_for_cuda()) or 'a GPU that this build supports'}"
            )
    return found


def _field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message, of fewer than 128 bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def _identity() -> bytes:
    """y = Identity(x) for one float, as a ModelProto: the least that a provider can be started with."""
    kind = _field(2, _field(1, _field(1, 1) + _field(2, _field(1, _field(1, 1)))))  # TypeProto: float [1]
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    graph = (
        _field(1, node)
        + _field(2, b"g")
        + _field(11, _field(1, b"x") + kind)
        + _field(12, _field(1, b"y") + kind)
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 17))


IDENTITY = _identity()
