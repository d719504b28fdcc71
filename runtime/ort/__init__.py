"""The engine on ONNX Runtime: sessions, bound buffers, caches in the device's memory, packed weights.

In: a `Bundle`. Out: an engine with the protocol of `refimpl.engine.protocol`.

ONNX Runtime looks for devices while it is imported, and prints a warning if it can't read what it finds. No
setting stops that, so this package imports it first, with stderr silenced. Afterwards ONNX Runtime prints
nothing: errors are exceptions, and stderr belongs to the command line.
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
