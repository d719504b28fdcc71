"""Write and read a bundle's certificate: the report of `verify`, with the machine and the package versions on
which the checks ran.

The certificate is written only if no check failed. A finished check need not be repeated while the manifest,
the machine and the versions stay the same. So an interrupted full run continues where it stopped.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...refimpl.checkpoint.formats.file_bytes import read_file
from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.errors import BundleError
from .. import hardware
from ..bundle.bundle import LIMITS, manifest_hash
from ..bundle.manifest import CERTIFICATE
from .report import CheckResult, Report

# 2: rows name their check, and counts have `of`.
FORMAT = 2
# Processor features that decide which kernel multiplies small integers.
INT8_FLAGS = ("avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def int8_path() -> str:
    """Return the name of the kind of instructions with which this machine multiplies 8-bit integers."""
    available = hardware.flags()
    if hardware.saturates():
        return "x86 without VNNI: x64quantprecision=1, so that sums of 16 bits don't saturate"
    if available & {"avx512_vnni", "avx_vnni"}:
        return "VNNI"
    return "dot product" if available & {"asimddp", "i8mm"} else "generic"


def machine() -> dict[str, Any]:
    """Return the properties of this machine that can change results."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": hardware.processor(),
        "flags": [flag for flag in INT8_FLAGS if flag in hardware.flags()],
        "int8": int8_path(),
        "threads": hardware.threads(),
    }


def versions() -> dict[str, str]:
    """Return the versions of tfm and of the packages that it computes with."""
    import onnxruntime

    return {
        "tfm": version("tfm-cli"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": onnxruntime.__version__,
    }


def certify(bundle: Path, report: Report) -> dict[str, object]:
    """Write certificate.json into the bundle, atomically, and return its content."""
    content = {
        "format": FORMAT,
        "manifest": manifest_hash(bundle),
        **report.to_json(),
        "not_checked": [f"{row.name}: {row.note or row.missing}" for row in report.unchecked],
        "machine": machine(),
        "versions": versions(),
    }
    temporary = bundle / f".{CERTIFICATE}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, bundle / CERTIFICATE)
    finally:
        temporary.unlink(missing_ok=True)
    return content


def read(bundle: Path) -> dict[str, Any] | None:
    """Return the content of a bundle's certificate. Return None if the bundle has no valid certificate."""
    path = bundle / CERTIFICATE
    if not path.exists():
        return None
    try:
        content = parse(read_file(path, LIMITS[CERTIFICATE], BundleError), str(path), BundleError)
    except BundleError:
        return None
    return content if isinstance(content, dict) else None


def recorded(bundle: Path) -> Report | None:
    """Return the report in a bundle's certificate.

    Return None if the certificate is missing or damaged, or if it is for another manifest or has another
    format.
    """
    content = read(bundle)
    if content is None or content.get("ok") is None:
        return None
    if (content.get("format"), content.get("manifest")) != (FORMAT, manifest_hash(bundle)):
        return None
    try:
        return Report.from_json(content)
    except (KeyError, TypeError, ValueError):
        return None


def finished_here(bundle: Path) -> dict[str, CheckResult]:
    """Return the finished checks of a bundle's certificate, by name. The result is empty if the certificate
    was made on another machine or with other versions.
    """
    content, report = read(bundle), recorded(bundle)
    if content is None or report is None:
        return {}
    if (content.get("machine"), content.get("versions")) != (machine(), versions()):
        return {}
    return {check.name: check for check in report.checks if check.finished}
