"""A bundle against the specification: the ladder of equivalence, as far as this machine allows.

Each rung of `runtime.rungs` is a generator of rows. The golden inputs of the bundle stand for the
specification, so that a device needs neither torch nor the source; with the source, weights and
predictions are compared with it too. `python -m tfm.runtime.verification.verify BUNDLE` prints the report as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ...refimpl.checkpoint.open import open_checkpoint
from ...refimpl.errors import BundleError, CheckpointError, DeviceError, TfmError, VerifyError
from ..bundle.bundle import open_bundle
from ..bundle.manifest import MANIFEST
from .checks import caches, files, greedy, logits, text, weights
from .checks.context import VerifyContext
from .report import Report, Row, certify
from .streamed_reference import SEED

LARGEST_TEXT = 16 * 2**20
# In the order of the climb.
RUNGS: dict[str, Callable[[VerifyContext], Iterator[Row]]] = {
    "files": files.files,
    "weights": weights.weights,
    "session": logits.session,
    "sharp": logits.sharp,
    "numbers": logits.numbers,
    "greedy": greedy.greedy,
    "windows": caches.forgetting,
    "source": weights.source,
    "text": text.prose,
    "cache": caches.kept,
}


def verify(
    bundle: Path | str,
    source: Path | str | None = None,
    text: Path | str | None = None,
    seconds: float = 60,
    progress: Callable[[str], None] | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> Report:
    """Climb the ladder, and leave a certificate in the bundle if it held.

    A rung that can't be tried on this machine, or isn't reached in time, is a row that says so; one
    that breaks is a row whose `ok` is False. Raises BundleError where there is no bundle at all,
    CheckpointError for a source that can't be read or has another config.
    """
    begun = time.monotonic()
    path = Path(bundle)
    rows: list[Row] = []
    try:
        opened = open_bundle(path)
    except BundleError as error:
        if not (path / MANIFEST).is_file():
            raise
        rows.append(Row("files", "damaged", ok=False, note=str(error)))
        return Report(tuple(rows), time.monotonic() - begun, device, SEED)
    climb = VerifyContext(
        bundle=opened,
        source=None if source is None else open_checkpoint(source).for_context(opened.config.context),
        text=None if text is None else _read(Path(text)),
        until=begun + seconds,
        device=device,
        threads=threads,
    )
    if climb.source is not None and climb.source.config.keeping("float") != opened.config.keeping("float"):
        raise CheckpointError(f"{source}: must be the source of {path}, its config is another one")
    for name, rung in RUNGS.items():
        if climb.late():
            rows.append(Row(name, note=f"not reached in {seconds:g} s"))
            continue
        if progress is not None:
            progress(f"verify: {name}")
        try:
            # What isn't finite is to show in the figures, not on the way to them.
            with np.errstate(all="ignore"):
                for row in rung(climb):
                    rows.append(row)
                    if climb.late():
                        break
        except DeviceError as error:
            rows.append(Row(name, note=str(error)))
        except TfmError as error:
            rows.append(Row(name, type(error).__name__, ok=False, note=str(error)))
        if name == "files" and rows[-1].ok is False:
            break  # of other bytes than those exported, nothing else need be known
    report = Report(tuple(rows), time.monotonic() - begun, device, SEED)
    if not report.failed:
        certify(path, report)
    return report


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise VerifyError(f"{path}: a text may have {LARGEST_TEXT} bytes, it has {path.stat().st_size}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VerifyError(f"{path}: can't be read as UTF-8 text: {error}") from None
    if not text.strip():
        raise VerifyError(f"{path}: must hold a text to compare over, it is blank")
    return text


def main(arguments: list[str] | None = None) -> int:
    """The process that `export` starts: the report as JSON on stdout, an exit code as the CLI's."""
    parser = argparse.ArgumentParser(prog="python -m tfm.runtime.verification.verify")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    try:
        report = verify(**vars(given))
    except TfmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(report.to_json(), allow_nan=False) + "\n")
    return VerifyError.exit_code if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
