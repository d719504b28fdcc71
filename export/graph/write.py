"""Write the graph files of a bundle. For a large model, another process writes the graphs while this process
computes.

Tracing takes seconds and needs no weights. Calibration and golden outputs take seconds and need no graph.
Both hold Python's interpreter lock, so threads wouldn't help.

`python -m tfm.export.graph.write` is the other process. This process reads a line of JSON and builds the
graphs. Then it reads the facts about the weights' values that the kernels' graphs need, and writes these
graphs. The process ends when its parent ends, because its input ends then.
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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from ...refimpl.components import from_json
from ...refimpl.config import Sinusoidal, to_json
from ...refimpl.errors import ExportError, TfmError
from ...refimpl.params.parameter_shapes import ParameterShapes
from ...runtime.bundle import kernel_storage, targets
from ...runtime.bundle.kernel_storage import InKernels, KernelForm
from ...runtime.bundle.manifest import DATA, SourceCheckpoint
from ...runtime.bundle.plan import Plan
from ...runtime.bundle.weight_formats import WeightFormat

# Bytes of weights from which a second process, which imports torch once more, pays.
LARGE = 32 * 2**20


@dataclass(frozen=True)
class GraphFiles:
    """The data from which the graphs of a bundle are built, and the folder to which they are written.

    `about` contains the graphs' properties, which say which model the graphs belong to.
    """

    plan: Plan
    opset: int | None
    folder: Path
    about: Mapping[str, str]

    def to_json(self) -> str:
        """Return this object as one line of JSON. `from_json` makes an equal object from the line."""
        plan = self.plan
        value = {"config": to_json(plan.config), "target": plan.target.name, "dtype": plan.dtype}
        value["formats"] = {leaf: asdict(form) for leaf, form in plan.formats.items()}
        return json.dumps(value | {"opset": self.opset, "folder": str(self.folder), "about": self.about})

    @staticmethod
    def from_json(text: str) -> GraphFiles:
        value = json.loads(text)
        formats = {leaf: WeightFormat(**stated) for leaf, stated in value["formats"].items()}
        shapes, target = ParameterShapes(from_json(value["config"])), targets.find(value["target"])
        plan = Plan(shapes, target, value["dtype"], formats)
        return GraphFiles(plan, value["opset"], Path(value["folder"]), value["about"])


def properties(source: SourceCheckpoint, quant: str, tfm: str) -> dict[str, str]:
    """Return a graph's properties: which model the graph belongs to, and which version of tfm made it."""
    stated = {"model": source.name, "model_sha256": source.sha256, "quantization": quant}
    stated |= {"licence": source.licence, "tfm": tfm}
    return {name: text for name, text in stated.items() if text}


def write(files: GraphFiles, in_kernels: Callable[[], InKernels] = InKernels) -> None:
    """Build all graphs of a bundle and write them. Raises ExportError if a stored weight isn't used by any
    graph.

    The function `in_kernels` returns the facts about the weights' values that the kernels' graphs need.
    `in_kernels` is called after all other graphs have been written.
    """
    import onnx_ir  # it brings torch along, which a checkpoint with an error needn't wait for

    from .build import build
    from .kernels import over_kernels
    from .shared_tables import read_once

    plan, models = files.plan, {}
    parts = plan.graphs(plan.cache)
    if stray := [name for name in plan.tensors if not any(part.owns(name) for part in parts)]:
        raise ExportError(f"no graph uses these stored weights: {', '.join(stray[:5])}")
    for part in parts:
        models[part] = model = build(
            plan, part, data=files.folder / DATA, about=files.about, opset=files.opset
        )
        if plan.target.device == "cpu":  # on a GPU the operator is one launch, and WebGPU gathers no bytes
            model = read_once(model, plan.groups, plan.tensors)
        onnx_ir.save(model, files.folder / part.file)
    if not plan.has_kernels:
        return
    halved, forms = in_kernels()
    places = plan.kernel_tensors(forms)
    positions = (stack.positions for stack in plan.config.stacks.values())
    thetas = {one.theta for one in positions if isinstance(one, Sinusoidal)}
    for part, model in models.items():
        groups, tensors = part.owned(plan.groups), part.owned(places)
        graph = over_kernels(model, groups, forms, tensors, files.folder, halved=halved, thetas=thetas)
        onnx_ir.save(graph, files.folder / kernel_storage.GRAPHS[part.file])


@contextmanager
def writing(files: GraphFiles) -> Iterator[Callable[[InKernels], None]]:
    """During a `with` block, build the graphs of a large model in another process. The block gets a function,
    and calls it to finish and write the graphs.

    The function takes the facts about the weights' values that the kernels' graphs need, and raises the
    errors of `write`. If the block ends without calling the function, the process is stopped. A small model's
    graphs are built only when the function is called.
    """
    if files.plan.size < LARGE:
        yield lambda in_kernels: write(files, lambda: in_kernels)
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

            def finish(in_kernels: InKernels) -> None:
                forms = {name: asdict(form) for name, form in in_kernels.forms.items()}
                with suppress(BrokenPipeError):  # it has ended, and says why
                    print(json.dumps([in_kernels.halved, forms]), file=child.stdin, flush=True)
                _finish(child, notes)

            yield finish
        finally:
            child.kill()


def _finish(child: subprocess.Popen[str], notes: IO[str]) -> None:
    """Wait for the process that writes the graphs. Raises ExportError if the process failed."""
    assert child.stdout is not None
    if error := child.stdout.read():
        raise ExportError(error)
    if code := child.wait():
        notes.seek(0)
        last = (notes.read().strip().splitlines() or ["no message"])[-1]
        raise ExportError(
            f"the process that builds the graph ended with code {code} ({last:.200}): please report this"
        )


def _follow_parent(lines: SimpleQueue[str]) -> None:
    """Put each line that the parent process sends into the queue. End this process when the parent ends."""
    # The file itself: a thread that waits in sys.stdin would hold the interpreter's end up.
    file, rest = sys.stdin.fileno(), b""
    while part := os.read(file, 2**16):
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            lines.put(line.decode())
    os._exit(1)


def _in_kernels(text: str) -> InKernels:
    halved, forms = json.loads(text)
    return InKernels(halved, {name: KernelForm(**stated) for name, stated in forms.items()})


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_follow_parent, args=(lines,), daemon=True).start()
    try:
        write(GraphFiles.from_json(lines.get()), lambda: _in_kernels(lines.get()))
    except TfmError as error:
        sys.stdout.write(str(error))


if __name__ == "__main__":
    _main()
