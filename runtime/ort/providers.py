"""Find out which execution providers of ONNX Runtime work on this machine, by starting each provider."""

from __future__ import annotations

import contextlib
import io

import onnxruntime as ort

from ...refimpl.errors import DeviceError
from ..bundle.targets import Device
from .session import PROVIDERS, missing_for_cuda

STARTS = "starts"


def providers() -> dict[str, str]:
    """Return a dict from each execution provider's name to "starts", or to the reason why it doesn't start.

    ONNX Runtime's own list also contains providers that can't start.
    """
    return {provider: _try(provider) for provider in ort.get_available_providers()}


def startable(device: str) -> Device:
    """Return the device on which models can run here. `auto` means CUDA if CUDA starts, otherwise the CPU.

    The function starts a session as a test, because CUDA's libraries may be installed on a machine without
    a GPU. Raises DeviceError if `device` is `cuda` and CUDA doesn't start.
    """
    if device == "cpu":
        return "cpu"
    cuda = PROVIDERS["cuda"]
    if lacking := missing_for_cuda():
        problem = f"missing: {', '.join(lacking)}"
    elif (result := _try(cuda)) == STARTS:
        return "cuda"
    else:
        problem = f"ONNX Runtime's CUDA provider {result}"
    if device == "cuda":
        raise DeviceError(f"CUDA can't start on this machine ({problem}): use device=cpu")
    return "cpu"


def _try(provider: str) -> str:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        # The Python binding prints when it falls back; here that is the result.
        with contextlib.redirect_stdout(io.StringIO()):
            session = ort.InferenceSession(IDENTITY, options, providers=[provider])
    except Exception as error:  # each provider has exceptions of its own
        result = f"fails: {' '.join(str(error).split()):.120}"
    else:
        started = session.get_providers()[0]
        if started == provider:
            return STARTS
        result = f"falls back to {started}"
    if provider == PROVIDERS["cuda"]:
        missing = ", ".join(missing_for_cuda()) or "a GPU that this build supports"
        return f"{result}, missing: {missing}"
    return result


def _field(number: int, value: bytes | int) -> bytes:
    """Return the bytes of one field of a protobuf message, shorter than 128 bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def _identity() -> bytes:
    """Return the graph y = Identity(x) for one float as a ModelProto. It is the smallest graph with which a
    provider can start.
    """
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
