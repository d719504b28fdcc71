"""kill -9 at random moments of an export over an existing bundle: the old or the new one verifies, each time.

    python tests/bench/kill.py CHECKPOINT [--kills 20] [--seed 0] [--between 1]

`--between` kills that many more exports on purpose between the two renames. Prints a line a kill.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfm.runtime.bundle.bundle import manifest_hash
from tfm.runtime.verification.verify import verify

EXPORT = """
import sys
from pathlib import Path
from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import open_checkpoint
export(open_checkpoint(sys.argv[1]), Path(sys.argv[2]), quant=sys.argv[3])
"""
BETWEEN = """
import os, signal
rename, seen = os.rename, []
def stop(a, b):
    if seen:
        os.kill(os.getpid(), signal.SIGKILL)
    seen.append(a)
    rename(a, b)
os.rename = stop
"""


def killed(command: list[str], after: float | None) -> bool:
    """Run the command and kill it after so many seconds; True if it hadn't ended before."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, error = child.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return True
    if child.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the export ended with {child.returncode}: {error.decode()[-500:]}")
    return child.returncode != 0


def survivor(out: Path, digests: dict[str, str], seconds: float) -> str:
    """Which of the known bundles stands there, verified; an error if none, or if something is left over."""
    report = verify(out, seconds=seconds)
    if report.failed:
        raise AssertionError(f"{report.failed[0].name}: {report.failed[0].note}")
    if left := [p.name for p in out.parent.iterdir() if ".tfm-" in p.name]:
        raise AssertionError(f"left over: {left}")
    return digests[manifest_hash(out)]


def main() -> None:
    """The runs, each over a bundle of the other quantization."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--between", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20, help="of each verify")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        out, digests, took = Path(folder) / "bundle", {}, 0.0
        command = lambda quant, before="": [  # noqa: E731
            sys.executable, "-c", before + EXPORT, str(options.checkpoint), str(out), quant,
        ]  # fmt: skip
        for quant in ("int4", "int8"):
            begun = time.monotonic()
            killed(command(quant), None)
            took = time.monotonic() - begun
            digests[manifest_hash(out)] = quant
        here = "int8"
        for i in range(options.kills + options.between):
            other = "int4" if here == "int8" else "int8"
            late = draw.uniform(0, took) if i < options.kills else None
            begun = time.monotonic()
            stopped = killed(command(other, BETWEEN if late is None else ""), late)
            if not stopped:
                took = min(took, time.monotonic() - begun)  # the first one was slower than the others
            before, here = here, survivor(out, digests, options.seconds)
            when = "between the renames" if late is None else f"after {late:.2f} of {took:.2f} s"
            what = "killed" if stopped else "ended"
            print(f"{i + 1}: {other} over {before}, {what} {when}: {here} verifies", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
