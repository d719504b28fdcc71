"""Workers side by side: models stay loaded while measurements take turns, and one computes at a time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = Path(__file__).with_name("engines.py")
WEB_ENGINES = Path(__file__).with_name("engines.mjs")
# OpenMP threads go on spinning for up to 0.2 s when their work is done; the next engine waits for that.
PAUSE = 0.3
IDLE = 0.1  # of a processor: an engine that uses more while others are measured spoils their figures


class Worker:
    """engines.py in a process of its own, running in the Python `python`; engines.mjs where `node` is given.

    That is a folder with its packages.
    """

    def __init__(
        self,
        kind: str,
        model: Path | str,
        *,
        python: str = sys.executable,
        node: Path | None = None,
        threads: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"{kind} {Path(model).name}"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        engine = [python, "-P", ENGINES] if node is None else ["node", WEB_ENGINES, str(node)]
        self.process = subprocess.Popen(
            [*engine, kind, str(model), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            bufsize=1,
            env={**os.environ, **counts, **(environment or {})},
        )
        self.hello = self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"{self.name} ended:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def measure(self, prompt: Sequence[int], new: int, rows: int | None = None) -> dict[str, Any]:
        """Greedy text after `prompt`, or `rows` side by side; engines.py says what the reply holds."""
        return self.ask({"prompt": list(prompt), "new": new} | ({} if rows is None else {"rows": rows}))

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to any request, when all others have come to rest."""
        time.sleep(PAUSE)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        return self._reply()

    @property
    def peak_mb(self) -> float:
        """The most memory that was resident, weights that are mapped included."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Series:
    """The measurements of one engine in one comparison, as tokens a second; of `rows` texts side by side."""

    def __init__(self, prompt: int, new: int, rows: int = 1) -> None:
        self.prompt, self.new, self.rows = prompt, new, rows
        self.replies: list[dict[str, Any]] = []

    def add(self, reply: dict[str, Any]) -> None:
        self.replies.append(reply)

    @property
    def prefill(self) -> list[float]:
        return [self.rows * self.prompt / r["prefill_s"] for r in self.replies]

    @property
    def decode(self) -> list[float]:
        return [self.rows * (self.new - 1) / r["decode_s"] for r in self.replies]

    def to_json(self) -> dict[str, Any]:
        spread = lambda a: {"median": statistics.median(a), "min": min(a), "max": max(a)}  # noqa: E731
        return {
            "prefill_tokens_per_s": spread(self.prefill),
            "decode_tokens_per_s": spread(self.decode),
            "idle_cpu": idle(self.replies),
            "tokens": self.replies[-1]["tokens"],
        }


def interleave(pairs: Sequence[tuple[Worker, Series]], ids: Sequence[int], rounds: int) -> None:
    """Let the engines take turns, `rounds` times; who goes first changes, so that a drift hits all alike."""
    for turn in range(rounds):
        for worker, series in pairs if turn % 2 == 0 else pairs[::-1]:
            series.add(worker.measure(ids, series.new, None if series.rows == 1 else series.rows))


def idle(replies: Sequence[Mapping[str, Any]]) -> float:
    """The largest share of a processor that an engine used while others were measured."""
    waits = [r for r in replies if r["idle_s"] > 2 * PAUSE]
    return max((r["idle_cpu_s"] / r["idle_s"] for r in waits), default=0.0)


def quiet() -> str:
    """A warning when others use this machine: whoever spins at barriers suffers most from company."""
    load = os.getloadavg()[0]
    return f"WARNING: load average {load:.1f}, these figures mean nothing" if load > 0.5 else ""


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast: the ratio of medians."""
    return statistics.median(ours) / statistics.median(theirs)


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Where that ratio lies in 95 of 100 series of pairs that are drawn from these."""
    pairs = np.random.default_rng(0).integers(len(ours), size=(10_000, len(ours)))
    ratios = np.median(np.array(ours)[pairs], axis=1) / np.median(np.array(theirs)[pairs], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def head(text: Path, tokenizer: Any, count: int) -> list[int]:
    """The first `count` token ids of a text."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_str(tokenizer) if isinstance(tokenizer, str) else tokenizer
    # A token is a byte at least, and twenty at most in all but strange texts: that is far enough to read.
    with text.open(encoding="utf-8") as file:
        ids = loaded.encode(file.read(20 * count), add_special_tokens=False).ids[:count]
    if len(ids) < count:
        sys.exit(f"{text} must hold {count} tokens, has {len(ids)}")
    return ids
