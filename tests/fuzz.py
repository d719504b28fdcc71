"""Changes sound files at random and gives them to every reader: each must read them or refuse them.

    python tests/fuzz.py --minutes 1 [--seed S] [--reader NAME] [--out DIR]

A mutant may end in a TfmError of one line, whose class has an exit code of its own; within 5 s of CPU time,
and with no more memory than 64 MB and twice its size. Everything else is a failure: its bytes are written to
DIR, and belong into `tests/fuzz_cases/READER/`, which `tests/test_fuzz.py` replays. The seed is printed; with
it, mutants are the same again.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import hashlib
import multiprocessing
import os
import random
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from helpers.fuzz_readers import READERS, Reader, export, prepare
from tfm.refimpl.errors import TfmError

SECONDS = 5  # of CPU time a mutant
MEMORY = 64 * 2**20  # bytes beyond twice the mutant's size
BATCH = 100  # mutants of one reader in one process


@dataclass
class Tally:
    """What came of one reader's mutants."""

    outcomes: Counter[str] = field(default_factory=Counter)
    passed: int = 0  # whose outer form was read
    failures: list[tuple[int, str]] = field(default_factory=list)  # number of the mutant, and what is wrong


def mutant(name: str, sound: list[bytes], seed: int, index: int) -> bytes:
    """The mutant of this number, the same each time."""
    rng = random.Random(f"{seed} {name} {index}")
    return READERS[name].mutate(rng.choice(sound), rng)


def outcome(reader: Reader, folder: Path, data: bytes) -> tuple[str, bool, str]:
    """(what came of it, whether its outer form was read, what is wrong if anything is)."""
    passed = False

    def note() -> None:
        nonlocal passed
        passed = True

    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    before = _memory("VmRSS")
    wrong = ""
    try:
        reader.read(folder, data, note)
        ended = "read"
    except TfmError as error:
        ended = type(error).__name__
        if error.exit_code == TfmError.exit_code or "\n" in str(error):
            wrong = f"an error without an exit code or of several lines: {error!r:.300}"
    except BaseException as error:  # a Rust panic is no Exception
        ended = type(error).__name__
        wrong = f"{ended}: {error!s:.300}"
    grown = _memory("VmHWM") - before
    if not wrong and grown > MEMORY + 2 * len(data):
        wrong = f"{len(data)} bytes took {grown} bytes of memory"
    return ended, passed, wrong


def _memory(name: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


def _work(name: str, folder: Path, seed: int, first: int, reports: Connection) -> None:
    """A process that tries a batch of mutants, and says of each when it begins and what came of it."""
    # A session that is the parent's garbage would wait for its threads, which this process hasn't.
    gc.freeze()
    reader = READERS[name]
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print when they die
    own = Path(shutil.copytree(folder / "sound", folder / f"{os.getpid()}"))
    sound = reader.sound(own)
    for data in sound:  # what is loaded once isn't a mutant's
        reader.read(own, data, lambda: None)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, size + 2**30))
    for index in range(first, first + BATCH):
        data = mutant(name, sound, seed, index)
        reports.send(index)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process, also inside of a library
        result = outcome(reader, own, data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        reports.send(result)
    shutil.rmtree(own)


def run_batch(name: str, folder: Path, seed: int, first: int, tally: Tally) -> int:
    """Try a batch; gives the number of the first mutant that wasn't tried."""
    context = multiprocessing.get_context("fork")
    reports, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(name, folder, seed, first, theirs))
    process.start()
    theirs.close()
    following, begun = first, False
    with contextlib.suppress(EOFError):  # the process has ended
        while reports.poll(20 * SECONDS):
            message = reports.recv()
            begun = isinstance(message, int)
            if begun:
                following = message + 1
                continue
            ended, passed, wrong = message
            tally.outcomes[ended] += 1
            tally.passed += passed
            if wrong:
                tally.failures.append((following - 1, wrong))
    if process.is_alive() and reports.poll(0) is False:
        process.kill()
    process.join()
    if begun:
        tally.outcomes["died"] += 1
        code = process.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f"code {code}"
        cause = f"took longer than {SECONDS} s" if cause == "SIGPROF" else f"ended the process: {cause}"
        tally.failures.append((following - 1, cause))
    elif process.exitcode:
        raise RuntimeError(f"{name}: process ended with code {process.exitcode} before mutant {following}")
    return following


def run(names: list[str], seed: int, until: float, folder: Path) -> dict[str, Tally]:
    """Batches of all readers in turn until a time of `time.monotonic`; each has one batch at least."""
    tallies = {name: Tally() for name in names}
    following = dict.fromkeys(names, 0)
    while True:
        for name in names:
            following[name] = run_batch(name, folder, seed, following[name], tallies[name])
            if time.monotonic() > until and all(following.values()):
                return tallies


def table(tallies: dict[str, Tally]) -> str:
    """A line for each reader: mutants, the share whose outer form was read, and how they ended."""
    lines = [f"{'reader':<24} mutants  form read   read  failures  refused as"]
    for name, tally in tallies.items():
        count = sum(tally.outcomes.values())
        read = tally.outcomes["read"]
        refused = ", ".join(f"{kind} {n}" for kind, n in tally.outcomes.most_common() if kind != "read")
        share, failed = tally.passed / max(count, 1), len(tally.failures)
        lines.append(f"{name:<24} {count:7}  {share:9.0%}  {read:5}  {failed:8}  {refused}")
    return "\n".join(lines)


def save(tallies: dict[str, Tally], seed: int, sound: Path, out: Path) -> list[str]:
    """Write the files that failed; gives a line for each."""
    lines = []
    for name, tally in tallies.items():
        for index, wrong in tally.failures:
            data = mutant(name, READERS[name].sound(sound), seed, index)
            path = out / name / hashlib.sha256(data).hexdigest()[:12]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            lines.append(f"{path}: mutant {index} {wrong}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1, help="how long in all")
    parser.add_argument("--seed", type=int, default=None, help="another one each time unless it is given")
    parser.add_argument("--reader", choices=READERS, action="append", help="this one; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("fuzz_failures"), help="where failing files go")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder, "sound"))
        export(Path(folder, "sound"))
        tallies = run(options.reader or list(READERS), seed, until, Path(folder))
        failures = save(tallies, seed, Path(folder, "sound"), options.out)
    sys.stdout.write(table(tallies) + "\n")
    sys.stdout.writelines(f"{line}\n" for line in failures)
    count = sum(sum(tally.outcomes.values()) for tally in tallies.values())
    sys.stdout.write(f"{count} mutants, {len(failures)} failures, seed {seed}\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
