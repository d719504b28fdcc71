"""Compare a bundle with the specification, quickly or in full.

The specification's outputs on a few tokens are stored in the bundle, so that a device needs neither torch nor
the source. The quick checks compare files, weights and these outputs. The long checks compare predictions
over a text, and greedily generated texts. If the source is given, the long checks also compare weights and
predictions with the source's. `python -m tfm.runtime.verification.verify BUNDLE` prints the report as
JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from ...refimpl.checkpoint.custom_code import describe
from ...refimpl.checkpoint.formats.adapters import AdapterChoice
from ...refimpl.config import has_mtp
from ...refimpl.errors import BundleError, CheckpointError, DeviceError, TfmError, VerifyError
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.manifest import MANIFEST, OtherFormatError
from ..progress import Progress, silent
from .certificate import certify, finished_here
from .checks.context import Check, VerifyContext
from .checks.table import CHECKS
from .report import NOT_REACHED, NOT_YET, Basis, CheckResult, Report, Row
from .streamed_reference import SEED

if TYPE_CHECKING:
    from ...refimpl.checkpoint.open import Checkpoint

QUICK_STAGE = "checking the bundle"
LARGEST_TEXT = 16 * 2**20  # bytes


# Products are rounded otherwise when BLAS's threads share them. The checks have threads of their own.
@threadpool_limits.wrap(limits=1, user_api="blas")
def verify(
    bundle: Path | str,
    source: Path | str | None = None,
    text: Path | str | None = None,
    seconds: float = math.inf,
    progress: Progress = silent,
    *,
    full: bool = False,
    device: str = "auto",
    threads: int | None = None,
    adapter: AdapterChoice = None,
) -> Report:
    """Run the quick checks, or with `full` all checks. If none fails, write a certificate into the bundle.

    A `source` or a `text` is used only by the long checks, so giving either makes the run a full one. A full
    run continues an interrupted one: checks that were finished on this machine, with the same source and
    text, aren't repeated.

    If a check is impossible on this machine, isn't reached within `seconds`, or is left to a full run, the
    report has a row that says so. If a check fails, the report has a row with `ok` False. `adapter` is merged
    into the source's weights, because the bundle's weights include it too. During the checks, NumPy's
    products run in one thread each, in the whole process.

    Raises BundleError if the path has no bundle, or a bundle of another format. Raises CheckpointError for a
    source that can't be read or has another config or adapter. Raises VerifyError for a text that can't be
    used.
    """
    start = time.monotonic()
    path = Path(bundle)
    try:
        opened = open_bundle(path)
    except OtherFormatError:
        raise
    except BundleError as error:
        if not (path / MANIFEST).is_file():
            raise
        damaged = CheckResult("files", (Row("files", "damaged", ok=False, note=str(error)),))
        return Report((damaged,), time.monotonic() - start, device, SEED)
    context = VerifyContext(
        bundle=opened,
        source=None if source is None else _open_source(source, adapter, opened),
        text=None if text is None else _read(Path(text)),
        until=start + seconds,
        device=device,
        threads=threads,
    )
    full = full or source is not None or text is not None
    results: list[CheckResult] = []

    def report(*later: CheckResult) -> Report:
        return Report(
            checks=(*results, *later),
            seconds=round(time.monotonic() - start, 3),
            device=device,
            seed=SEED,
            model=opened.manifest.source.name,
            quant=opened.quant,
            target=opened.target,
            notes=_notes(opened),
        )

    for result in _run_checks(context, full, seconds, progress):
        results.append(result)
        if full and CHECKS[result.name].full and not report().failed:
            names = list(_checks_of(opened))
            later = names[names.index(result.name) + 1 :]
            certify(path, report(*map(_not_yet, later)))  # an interrupted run goes on from here
    final = report()
    if not final.failed:
        certify(path, final)
    return final


def _notes(bundle: Bundle) -> tuple[str, ...]:
    """Return notes for the user about the model: that the repository's own code was replaced, and which keys
    were ignored.
    """
    source = bundle.manifest.source
    code = (describe(source.code_replaced_by),) if source.code_replaced_by else ()
    keys = ", ".join(source.ignored_keys)
    return (
        *code,
        *((f"the export ignored keys of the model's files that tfm doesn't know: {keys}",) if keys else ()),
    )


def _open_source(source: Path | str, adapter: AdapterChoice, bundle: Bundle) -> Checkpoint:
    """Open the checkpoint that the bundle was made from. Raises CheckpointError if the config or the adapter
    differs.
    """
    from ...refimpl.checkpoint.open import open_checkpoint  # imports all families

    merged = bundle.manifest.adapter
    if merged is not None and not adapter:
        raise CheckpointError(
            f"{bundle.path}: the bundle's weights contain the adapter {merged.name!r:.200}, so the source "
            "needs this adapter: add adapter=DIR"
        )
    mtp, ignored = has_mtp(bundle.config), bundle.manifest.source.ignored_keys
    checkpoint = open_checkpoint(source, adapter, mtp=mtp, ignore_keys=ignored)
    checkpoint = checkpoint.for_context(bundle.config.context)
    if checkpoint.config.with_kv("float") != bundle.config.with_kv("float"):
        raise CheckpointError(
            f"{source}: must be the checkpoint from which {bundle.path} was exported, but the configs differ"
        )
    return checkpoint


def _checks_of(bundle: Bundle) -> dict[str, Check]:
    """Return the checks that apply to a bundle, by name."""
    return {name: check for name, check in CHECKS.items() if check.applies(bundle)}


def _run_checks(
    context: VerifyContext, full: bool, seconds: float, progress: Progress
) -> Iterator[CheckResult]:
    """Yield the results of all checks in order. Results that an earlier run already found come from its
    certificate.
    """
    basis = _basis(context) if full else Basis()
    known = _known_results(context.bundle, basis if full else None)
    checks = _checks_of(context.bundle)
    quick = [name for name, check in checks.items() if not check.full]
    for name, check in checks.items():
        if name in known:
            yield known[name]
        elif check.full and not full:
            yield _not_yet(name)
        elif context.out_of_time():
            row = Row(check.subject, note=f"in {seconds:g} s", missing=NOT_REACHED)
            yield CheckResult(name, (row,), finished=False, basis=basis)
        else:
            if check.full:
                stage = _LongStage(check.subject, progress)
                context.advance = stage.advance
                result = _run_check(name, context, basis)
                stage.end()
            else:  # they are one stage together
                progress(QUICK_STAGE, quick.index(name), len(quick))
                result = _run_check(name, context, basis)
                progress(QUICK_STAGE, quick.index(name) + 1, len(quick))
            yield result
            if name == "files" and result.rows[-1].ok is False:
                return  # these are other bytes than were exported: no other check says anything of the export


class _LongStage:
    """Reports the progress of one long check as a stage of its own."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress, self._total = name, progress, 1
        self.advance(0, 1)

    def advance(self, done: int, total: int) -> None:
        """Show the progress of the current check."""
        self._total = total
        self._progress(self._name, done, total)

    def end(self) -> None:
        """Record that the current check has ended."""
        self._progress(self._name, self._total, self._total)


def _run_check(name: str, context: VerifyContext, basis: Basis) -> CheckResult:
    rows: list[Row] = []
    finished, subject = True, CHECKS[name].subject
    try:
        # Numbers that aren't finite show in the figures; warnings on the way say nothing more.
        with np.errstate(all="ignore"):
            for row in CHECKS[name].run(context):
                rows.append(row)
                if context.out_of_time():
                    finished = False
                    break
    except DeviceError as error:
        rows.append(Row(subject, note=str(error)))
        finished = False
    except TfmError as error:
        rows.append(Row(subject, type(error).__name__, ok=False, note=str(error)))
    return CheckResult(name, tuple(rows), finished, basis)


def _not_yet(name: str) -> CheckResult:
    check = CHECKS[name]
    row = Row(check.subject, note=f"{check.asked_by} checks it", missing=NOT_YET)
    return CheckResult(name, (row,), finished=False)


def _known_results(bundle: Bundle, basis: Basis | None) -> dict[str, CheckResult]:
    """Return the results of long checks in the certificate that need not be computed again, by name.

    With a basis, only results with this basis count. If every long check has such a result, the dict is
    empty: a user who asks for a full run after a complete one wants it computed again. Without a basis, all
    results count.
    """
    finished = finished_here(bundle.path)
    long = [name for name, check in _checks_of(bundle).items() if check.full]
    known = {name: finished[name] for name in long if name in finished}
    if basis is None:
        return known
    same = {name: result for name, result in known.items() if result.basis == basis}
    return {} if len(same) == len(long) else same


def _basis(context: VerifyContext) -> Basis:
    """Return the hashes of the source and the text that the long checks compare the bundle with."""
    source, text = context.source, context.text
    parts = [] if source is None else [source.source, source.adapter_source]
    hashes = [part["sha256"] for part in parts if part is not None]
    return Basis(
        "+".join(hashes) or None,
        None if text is None else hashlib.sha256(text.encode()).hexdigest(),
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)  # not by its size: a device has none, and no end
        if len(data) > LARGEST_TEXT:
            raise VerifyError(f"{path}: a text may have at most {LARGEST_TEXT} bytes, but it has more")
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except (OSError, UnicodeDecodeError) as error:
        raise VerifyError(f"{path}: can't be read as UTF-8 text: {error}") from None
    if not text.strip():
        raise VerifyError(f"{path}: the text for the comparison must not be blank")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Verify a bundle in the process that `export` starts, and print the report as JSON. Return an exit code
    as tfm-cli does.
    """
    parser = argparse.ArgumentParser(prog="python -m tfm.runtime.verification.verify")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seconds", type=float, default=math.inf)
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
