"""The certificate: the report of `verify` as it stands in a bundle, with what it was made on.

It holds what passed. A check that is finished need not be computed again while the manifest, the machine and
the versions are the same, so that an interrupted full run goes on where it was.
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
    """Which instructions multiply 8-bit integers on this machine."""
    available = hardware.flags()
    if hardware.saturates():
        return "x86 without VNNI: x64quantprecision=1, so that sums of 16 bits don't saturate"
    if available & {"avx512_vnni", "avx_vnni"}:
        return "VNNI"
    return "dot product" if available & {"asimddp", "i8mm"} else "generic"


def machine() -> dict[str, Any]:
    """What of this machine results depend on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": hardware.processor(),
        "flags": [flag for flag in INT8_FLAGS if flag in hardware.flags()],
        "int8": int8_path(),
        "threads": hardware.threads(),
    }


def versions() -> dict[str, str]:
    """The versions of tfm and of what it computes with."""
    import onnxruntime

    return {
        "tfm": version("tfm-cli"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": onnxruntime.__version__,
    }


def certify(bundle: Path, report: Report) -> dict[str, object]:
    """Writes certificate.json into the bundle, atomically, and returns its content."""
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
    """The content of a bundle's certificate; None if there is none, or if it is no certificate."""
    path = bundle / CERTIFICATE
    if not path.exists():
        return None
    try:
        content = parse(read_file(path, LIMITS[CERTIFICATE], BundleError), str(path), BundleError)
    except BundleError:
        return None
    return content if isinstance(content, dict) else None


def recorded(bundle: Path) -> Report | None:
    """The report in a bundle's certificate; None where it has none, of this manifest and format."""
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
    """The finished checks of the certificate, if this machine made it with these versions."""
    content, report = read(bundle), recorded(bundle)
    if content is None or report is None:
        return {}
    if (content.get("machine"), content.get("versions")) != (machine(), versions()):
        return {}
    return {check.name: check for check in report.checks if check.finished}
