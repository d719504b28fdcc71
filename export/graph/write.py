"""The graph files of a bundle, for a large model by another process while this one computes.

Tracing takes seconds and needs no weight; calibration and golden outputs take seconds and need no graph.
Each holds the interpreter, so threads wouldn't help. `python -m tfm.export.graph.write` is that process: it
reads a line of JSON, writes the files, and ends with its parent, for its input ends then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from ...refimpl.config import Config, from_json, to_json
from ...refimpl.errors import ExportError, TfmError
from ...runtime.bundle import kernel_layout, manifest, operator_limits, targets, weight_layout
from ...runtime.bundle.graph_io import graphs
from ...runtime.bundle.manifest import DATA, SourceCheckpoint, Tensor
from ...runtime.bundle.targets import FloatType, Target
from ...runtime.bundle.weight_formats import WeightFormat
from ...runtime.bundle.weight_layout import Group

# Bytes of weights from which a second process, which imports torch once more, pays.
LARGE = 32 * 2**20


@dataclass(frozen=True)
class GraphFiles:
    """What the graphs of a bundle follow from, and the folder that they belong in.

    With a `half_cache` the graph over kernels keeps keys and values in float16. The graphs say in their
    properties what they are `about`.
    """

    config: Config
    target: Target
    groups: Mapping[str, Group]
    tensors: Mapping[str, Tensor]
    dtype: FloatType
    opset: int | None
    folder: Path
    half_cache: bool
    about: Mapping[str, str]

    def to_json(self) -> str:
        """One line, from which `from_json` makes an equal value: groups and tensors follow from formats."""
        formats = {leaf: group.format for group in self.groups.values() for leaf in group.leaves}
        schemes = {leaf: asdict(stored) for leaf, stored in formats.items() if stored is not None}
        value = {"config": to_json(self.config), "target": self.target.name, "schemes": schemes}
        value |= {"dtype": self.dtype, "opset": self.opset, "folder": str(self.folder)}
        return json.dumps(value | {"half_cache": self.half_cache, "about": self.about})

    @staticmethod
    def from_json(text: str) -> GraphFiles:
        value = json.loads(text)
        config, target, dtype = from_json(value["config"]), targets.find(value["target"]), value["dtype"]
        schemes = {leaf: WeightFormat(**stated) for leaf, stated in value["schemes"].items()}
        groups = weight_layout.stored(config, schemes, target)
        tensors = manifest.arrange(groups, dtype)
        opset, folder = value["opset"], Path(value["folder"])
        half_cache, about = value["half_cache"], value["about"]
        return GraphFiles(config, target, groups, tensors, dtype, opset, folder, half_cache, about)


def properties(source: SourceCheckpoint, quant: str, tfm: str) -> dict[str, str]:
    """Which model a graph is of, and what made it."""
    stated = {"model": source.name, "model_sha256": source.sha256, "quantization": quant}
    stated |= {"licence": source.licence, "tfm": tfm}
    return {name: text for name, text in stated.items() if text}


def write(files: GraphFiles) -> None:
    """Build the graphs and write them. Raises ExportError where a stored weight has no graph."""
    import onnx_ir  # it brings torch along, which a checkpoint with an error needn't wait for

    from .build import build
    from .kernels import over_kernels

    config, target = files.config, files.target
    kernel_tensors = manifest.arrange(files.groups, files.dtype, kernel_layout.specs)
    cache = operator_limits.cache(target, config)
    row_lengths = operator_limits.row_lengths(target, cache)
    parts = graphs(config, cache == "windowed", row_lengths=row_lengths)
    if stray := [name for name in files.tensors if not any(part.owns(name) for part in parts)]:
        raise ExportError(f"stored weights that no graph uses: {', '.join(stray[:5])}")
    for part in parts:
        model = build(
            config,
            part,
            files.groups,
            files.tensors,
            target,
            data=files.folder / DATA,
            about=files.about,
            dtype=files.dtype,
            opset=files.opset,
        )
        onnx_ir.save(model, files.folder / part.file)
        if kernel_layout.has_kernels(target, files.groups):
            groups = {name: group for name, group in files.groups.items() if part.owns(name)}
            places = {name: place for name, place in kernel_tensors.items() if part.owns(name)}
            graph = over_kernels(model, groups, places, files.folder, half_cache=files.half_cache)
            onnx_ir.save(graph, files.folder / kernel_layout.GRAPHS[part.file])


@contextmanager
def writing(files: GraphFiles) -> Iterator[Callable[[bool], None]]:
    """Begin with the graphs of a large model; the block calls what it is given to have them written, with
    whether they have a `half_cache`, which may be known late.

    Leaving the block before that stops the process. The call raises what `write` raises.
    """
    if manifest.size(files.tensors) < LARGE:
        yield lambda half_cache: write(replace(files, half_cache=half_cache))
        return
    command = [sys.executable, "-P", "-m", __name__]
    pipe = subprocess.PIPE
    # What libraries write to stderr has no end that is known, and a pipe that nobody reads would fill up.
    with (
        tempfile.TemporaryFile("w+", errors="replace") as notes,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=notes, text=True) as child,
    ):
        try:
            assert child.stdin is not None
            print(files.to_json(), file=child.stdin, flush=True)

            def finish(half_cache: bool) -> None:
                _finish(child, notes)
                if half_cache != files.half_cache:
                    write(replace(files, half_cache=half_cache))

            yield finish
        finally:
            child.kill()


def _finish(child: subprocess.Popen[str], notes: IO[str]) -> None:
    """Wait for the process. Raises ExportError where it ended with an error."""
    assert child.stdout is not None
    if error := child.stdout.read():
        raise ExportError(error)
    if code := child.wait():
        notes.seek(0)
        last = (notes.read().strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"building the graph ended with code {code} ({last:.200}): please report this")


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    line = sys.stdin.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        write(GraphFiles.from_json(line))
    except TfmError as error:
        sys.stdout.write(str(error))


if __name__ == "__main__":
    _main()
