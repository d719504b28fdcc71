"""The report of `verify`, one row per figure, and the certificate that stores it in the bundle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import secrets
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from .. import hardware
from ..bundle.manifest import CERTIFICATE, MANIFEST

# Processor features that decide which kernel multiplies small integers.
INT8_FLAGS = ("avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True)
class Row:
    """One figure. `ok` is None where it has no budget, or where nothing could be measured."""

    name: str
    figure: float | int | str | None = None
    budget: float | None = None
    unit: str = ""
    ok: bool | None = None
    note: str = ""

    @property
    def result(self) -> str:
        """The verdict in a word."""
        if self.ok is None:
            return "not checked" if self.figure is None else "measured"
        return "ok" if self.ok else "OUT"


def judged(name: str, figure: float, budget: float, unit: str = "", note: str = "") -> Row:
    """A row that is ok if the figure is within the budget; NaN is not."""
    return Row(name, figure, budget, unit, bool(figure <= budget), note)


@dataclass(frozen=True)
class Report:
    """All rows in the order of the checks, and what they ran on."""

    rows: tuple[Row, ...]
    seconds: float
    device: str
    seed: int

    @property
    def failed(self) -> list[Row]:
        """The rows that are not ok."""
        return [row for row in self.rows if row.ok is False]

    @property
    def unchecked(self) -> list[Row]:
        """The rows that couldn't be measured; the note has the reason."""
        return [row for row in self.rows if row.ok is None and row.figure is None]

    def to_json(self) -> dict[str, object]:
        """The report for `json.dumps`; infinities and NaN are written as strings."""
        rows = [{name: _finite_or_text(value) for name, value in asdict(row).items()} for row in self.rows]
        return {
            "ok": not self.failed,
            "seconds": round(self.seconds, 3),
            "device": self.device,
            "seed": self.seed,
            "rows": rows,
        }


def _finite_or_text(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def int8_path() -> str:
    """Which instructions multiply 8-bit integers on this machine."""
    available = hardware.flags()
    if hardware.saturates():
        return "x86 without VNNI: x64quantprecision=1, so that sums of 16 bits don't saturate"
    if available & {"avx512_vnni", "avx_vnni"}:
        return "VNNI"
    return "dot product" if available & {"asimddp", "i8mm"} else "generic"


def processor() -> str:
    """The processor's name; without /proc/cpuinfo the name of its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def certify(bundle: Path, report: Report) -> dict[str, object]:
    """Writes certificate.json into the bundle, atomically, and returns its content."""
    import onnxruntime

    content = {
        "format": 1,
        "manifest": manifest_hash(bundle),
        **report.to_json(),
        "not_checked": [f"{row.name}: {row.note}" for row in report.unchecked],
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(),
            "flags": [flag for flag in INT8_FLAGS if flag in hardware.flags()],
            "int8": int8_path(),
            "threads": hardware.threads(),
        },
        "versions": {
            "tfm": version("tfm-cli"),
            "python": platform.python_version(),
            "numpy": version("numpy"),
            "onnxruntime": onnxruntime.__version__,
        },
    }
    temporary = bundle / f".{CERTIFICATE}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, bundle / CERTIFICATE)
    finally:
        temporary.unlink(missing_ok=True)
    return content


def manifest_hash(bundle: Path) -> str:
    """SHA-256 of tfm.json, which holds the hashes of all other files."""
    return hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
