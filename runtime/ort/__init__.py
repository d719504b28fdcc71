"""The engine on ONNX Runtime: sessions, bound buffers, caches in the device's memory, packed weights.

The package makes an engine from a `Bundle`. The engine has the protocol of `refimpl.engine.protocol`.

ONNX Runtime looks for devices while Python imports it, and prints a warning if it can't read information
about a device. No setting prevents the warning. So this package imports ONNX Runtime first, with stderr
silenced. Afterwards ONNX Runtime prints nothing, and its errors are exceptions.
"""

from __future__ import annotations

from ...refimpl.errors import DeviceError
from ..silence import silent_stderr

try:
    with silent_stderr():
        import onnxruntime

    onnxruntime.set_default_logger_severity(4)
except (ImportError, AttributeError) as error:
    # The latter where both builds were there and one was uninstalled: pip takes the other one to be whole.
    first = "" if isinstance(error, ImportError) else "pip uninstall onnxruntime onnxruntime-gpu, then "
    raise DeviceError(
        f"ONNX Runtime can't be imported ({error!s:.80}): {first}pip install 'tfm-cli[cpu]', or "
        "'tfm-cli[cuda]' for an NVIDIA GPU, but not both"
    ) from None
