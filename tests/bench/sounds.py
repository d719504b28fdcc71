"""Whisper in int8 beside faster-whisper or whisper.cpp, from the same weights: time, words, memory.

    pip install faster-whisper pywhispercpp               in an environment of its own
    python tests/bench/sounds.py BUNDLE CT2 FILE... --python BIN --pairs 15
    python tests/bench/sounds.py BUNDLE Q8_0.bin FILE... --python BIN --pairs 15

BUNDLE was exported from the directory CT2, and `whisper_cpp.py` makes Q8_0.bin of it. Both programs write
greedily, draw nothing again, and don't read what they wrote before; models are loaded, and the processes take
turns. A figure is how many times as fast tfm is, the ratio of medians, by the clock and by processor time (of
all threads), with the interval that holds it with 95 %. Words are compared without case and punctuation: how
many must change, by those of the other program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from tfm.runtime.verification.checks.words import changes, words_of
from workers import quiet, ratio, ratio_interval

OURS = """
import tfm
model = tfm.load(sys.argv[1])
def heard(file):
    return model.transcribe(file, temperatures=(0.0,), language=sys.argv[2] or None, batch=batch)
"""
THEIRS = """
from faster_whisper import BatchedInferencePipeline, WhisperModel
model, how = WhisperModel(sys.argv[1], device="cpu", compute_type="int8", cpu_threads=2), {}
if batch > 1:
    model, how = BatchedInferencePipeline(model), {"batch_size": batch, "without_timestamps": False}
def heard(file):
    asked = {"beam_size": 1, "temperature": 0, "condition_on_previous_text": False}
    return model.transcribe(file, language=sys.argv[2] or "en", **asked, **how)[0]
"""
WHISPER_CPP = """
from pywhispercpp.model import Model
quietly = {"print_progress": False, "redirect_whispercpp_logs_to": None}
asked = {"language": sys.argv[2] or "en", "temperature_inc": 0.0, "no_context": True}
model = Model(sys.argv[1], n_threads=2, greedy={"best_of": 1}, **quietly, **asked)
heard = model.transcribe
"""
LOOP = """
for line in sys.stdin:
    clock, processor = time.perf_counter(), time.process_time()
    text = " ".join(one.text.strip() for one in heard(line.strip()))
    took = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
    print(json.dumps({**took, "text": text}), flush=True)
"""


class Worker:
    """A process that hears what it is told to."""

    def __init__(self, python: str, code: str, model: Path, language: str, batch: int) -> None:
        program = f"import json, sys, time\nbatch = int(sys.argv[3])\n{code}{LOOP}"
        command = [python, "-c", program, str(model), language, str(batch)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self, file: Path) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{file}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def peak(self) -> str:
        """The most memory that it has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return f"{int(status.split('VmHWM:')[1].split()[0]) / 1000:.0f} MB"


def main(
    bundle: Path,
    peer: Path,
    files: list[Path],
    python: Annotated[str, typer.Option(help="The Python that has the other program.")],
    language: Annotated[str, typer.Option(help="What is spoken, for a model of several languages.")] = "",
    batch: Annotated[int, typer.Option(help="How many parts of a sound are heard at once.")] = 1,
    pairs: int = 15,
) -> None:
    """Measure, and print a table in Markdown."""
    typer.echo(quiet(), nl=bool(quiet()))
    ours = Worker(sys.executable, OURS, bundle, language, batch)
    name, code = ("faster-whisper", THEIRS) if peer.is_dir() else ("whisper.cpp", WHISPER_CPP)
    if batch > 1 and code is WHISPER_CPP:
        raise typer.BadParameter("whisper.cpp hears one part of a sound at a time: leave out batch")
    theirs = Worker(python, code, peer, language, batch)
    typer.echo("| sound | clock | processor | seconds | words that differ |\n|---|---|---|---|---|")
    for file in files:
        got: list[list[dict[str, Any]]] = [[], []]
        for turn in range(pairs + 1):
            for i in (0, 1) if turn % 2 else (1, 0):
                reply = (ours, theirs)[i].hear(file)
                if turn:  # the first run pages weights in
                    got[i].append(reply)
        cells = []
        for time in ("clock", "processor"):
            mine, other = ([reply[time] for reply in replies] for replies in got)
            low, high = ratio_interval(other, mine)
            cells.append(f"{ratio(other, mine):.2f} ({low:.2f} to {high:.2f})")
        seconds = sorted(reply["clock"] for reply in got[0])[pairs // 2]
        said, wanted = (words_of(replies[0]["text"]) for replies in got)
        differ = f"{changes(said, wanted)} of {len(wanted)}"
        typer.echo(f"| {file.name} | {' | '.join(cells)} | {seconds:.2f} | {differ} |")
    typer.echo(f"\npeak memory: tfm {ours.peak()}, {name} {theirs.peak()}")


if __name__ == "__main__":
    typer.run(main)
