"""A bundle is compared with the specification by all checks that this machine allows.

The specification's outputs on a few tokens travel in the bundle, so that a device needs neither torch nor
the source. With the source, weights and predictions are compared with it too.
`python -m tfm.runtime.verification.verify BUNDLE` prints the report as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np

from ...refimpl.checkpoint.open import open_checkpoint
from ...refimpl.errors import BundleError, CheckpointError, DeviceError, TfmError, VerifyError
from ...refimpl.formats.adapters import AdapterChoice
from ..bundle.bundle import open_bundle
from ..bundle.manifest import MANIFEST, OtherFormatError
from ..progress import Progress, silent
from .checks import caches, files, greedy, logits, text, weights
from .checks.context import Check, VerifyContext
from .report import Report, Row, certify
from .streamed_reference import SEED

LARGEST_TEXT = 16 * 2**20  # bytes
# In this order: the cheap ones first, and those whose failure explains later ones.
CHECKS: dict[str, Check] = {
    "files": files.check_hashes,
    "weights": weights.check_digests,
    "session": logits.check_session,
    "sharp": logits.check_float_products,
    "numbers": logits.check_golden_outputs,
    "greedy": greedy.check_greedy_tokens,
    "windows": caches.check_window_caches,
    "source": weights.check_source,
    "text": text.check_text,
    "cache": caches.check_quantized_cache,
}


def verify(
    bundle: Path | str,
    source: Path | str | None = None,
    text: Path | str | None = None,
    seconds: float = 60,
    progress: Progress = silent,
    *,
    device: str = "auto",
    threads: int | None = None,
    adapter: AdapterChoice = None,
) -> Report:
    """Runs all checks, and writes a certificate into the bundle if none failed.

    A check that can't run on this machine, or isn't reached in `seconds`, is a row that says so; one that
    fails is a row whose `ok` is False. `adapter` is merged into the source's weights, as into the bundle's.
    Raises BundleError if there is no bundle at all, or one of another format; CheckpointError for a source
    that can't be read or has another config or adapter, VerifyError for a text that can't be used.
    """
    start = time.monotonic()
    path = Path(bundle)
    rows: list[Row] = []
    try:
        opened = open_bundle(path)
    except OtherFormatError:
        raise
    except BundleError as error:
        if not (path / MANIFEST).is_file():
            raise
        rows.append(Row("files", "damaged", ok=False, note=str(error)))
        return Report(tuple(rows), time.monotonic() - start, device, SEED)
    merged = opened.manifest.adapter
    if source is not None and merged is not None and not adapter:
        raise CheckpointError(
            f"{path}: the adapter {merged.name!r:.200} is merged into its weights: name it with adapter=DIR"
        )
    context = VerifyContext(
        bundle=opened,
        source=None
        if source is None
        else open_checkpoint(source, adapter).for_context(opened.config.context),
        text=None if text is None else _read(Path(text)),
        until=start + seconds,
        device=device,
        threads=threads,
    )
    expected_config = opened.config.with_kv("float")
    if context.source is not None and context.source.config.with_kv("float") != expected_config:
        raise CheckpointError(f"{source}: must be the source of {path}, its config is another one")
    for done, (name, check) in enumerate(CHECKS.items()):
        if context.out_of_time():
            rows.append(Row(name, note=f"not reached in {seconds:g} s"))
            continue
        progress("checking the bundle", done, len(CHECKS))
        try:
            # Numbers that aren't finite show in the figures; warnings on the way say nothing more.
            with np.errstate(all="ignore"):
                for row in check(context):
                    rows.append(row)
                    if context.out_of_time():
                        break
        except DeviceError as error:
            rows.append(Row(name, note=str(error)))
        except TfmError as error:
            rows.append(Row(name, type(error).__name__, ok=False, note=str(error)))
        if name == "files" and rows[-1].ok is False:
            break  # these are other bytes than were exported: no other check says anything of the export
    progress("checking the bundle", len(CHECKS), len(CHECKS))
    report = Report(tuple(rows), time.monotonic() - start, device, SEED)
    if not report.failed:
        certify(path, report)
    return report


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)  # not by its size: a device has none, and no end
        if len(data) > LARGEST_TEXT:
            raise VerifyError(f"{path}: a text may have {LARGEST_TEXT} bytes, it has more")
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except (OSError, UnicodeDecodeError) as error:
        raise VerifyError(f"{path}: can't be read as UTF-8 text: {error}") from None
    if not text.strip():
        raise VerifyError(f"{path}: must hold a text to compare over, it is blank")
    return text


def main(arguments: list[str] | None = None) -> int:
    """The process that `export` starts: prints the report as JSON; exit codes are the CLI's."""
    parser = argparse.ArgumentParser(prog="python -m tfm.runtime.verification.verify")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--no-adapter", dest="adapter", action="store_false")
    options = parser.parse_args(arguments)
    try:
        report = verify(**vars(options))
    except TfmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(report.to_json(), allow_nan=False) + "\n")
    return VerifyError.exit_code if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
