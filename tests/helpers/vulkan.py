"""Mesa's Vulkan driver that computes on the processor, where it is installed."""

from __future__ import annotations

import os
from pathlib import Path

DRIVERS = Path("/usr/share/vulkan/icd.d")


def driver() -> Path | None:
    """The driver's description; None where there is none."""
    return next(iter(sorted(DRIVERS.glob("lvp_icd*.json"))), None)


def environment() -> dict[str, str]:
    """Of a process whose Vulkan is that driver alone; ONNX Runtime's WebGPU provider may use it."""
    found = driver()
    assert found is not None, "apt-get install mesa-vulkan-drivers"
    return {**os.environ, "VK_ICD_FILENAMES": str(found), "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1"}
