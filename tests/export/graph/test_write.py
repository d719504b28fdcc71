"""Graphs that a process of its own writes are those that this one writes, and it ends with its use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.export.graph import write as graph_write
from tfm.export.graph.write import GraphFiles
from tfm.refimpl.errors import ExportError
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.runtime.bundle import targets
from tfm.runtime.bundle.kernel_storage import InKernels, KernelForm
from tfm.runtime.bundle.plan import Plan
from tfm.runtime.bundle.weight_formats import WeightFormat

INT8 = WeightFormat(bits=8, block=32, activations="block")
LATE = InKernels(True, {"decoder.layers.0.attn.wq": KernelForm(5, "float16")})


@pytest.fixture
def files(tmp_path: Path) -> GraphFiles:
    schemes = {"decoder.layers.0.attn.wq": INT8, "decoder.layers.0.mlp.down": replace(INT8, symmetric=False)}
    plan = Plan(ParameterShapes(tiny_models.llama(layers=1)), targets.find("ort-cpu"), "float32", schemes)
    return GraphFiles(plan, None, tmp_path, {"model": "x"})


@pytest.fixture
def in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_write, "LARGE", 0)


def test_what_the_process_reads_is_what_it_is_told(files: GraphFiles) -> None:
    assert GraphFiles.from_json(files.to_json()) == files
    assert "\n" not in files.to_json()


def test_the_process_writes_the_same_bytes(
    files: GraphFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with graph_write.writing(files) as write:
        write(LATE)
    names = ("model.onnx", "kernels.onnx")
    here = [(tmp_path / name).read_bytes() for name in names]
    for name in names:
        (tmp_path / name).unlink()
    monkeypatch.setattr(graph_write, "LARGE", 0)
    monkeypatch.setattr(graph_write, "write", lambda *_: pytest.fail("large models have a process"))
    with graph_write.writing(files) as write:
        write(LATE)
    assert [(tmp_path / name).read_bytes() for name in names] == here


@pytest.mark.long
def test_what_is_halved_may_turn_out_late(files: GraphFiles, tmp_path: Path) -> None:
    halved = []
    for in_kernels in (LATE, InKernels(False, {"decoder.layers.0.mlp.down": KernelForm(8, "float16")})):
        with graph_write.writing(files) as write:
            write(in_kernels)
        graph = onnx.load(tmp_path / "kernels.onnx", load_external_data=False).graph
        types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        scales = ("decoder.layers.0.attn.wq.scale", "decoder.layers.0.mlp.down.scale")
        halved.append([types[name] for name in ("k.0", "v.0", "k_out.0", "v_out.0", *scales)])
    full, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert halved == [[half] * 4 + [half, full], [full] * 4 + [full, half]]


@pytest.mark.long
@pytest.mark.usefixtures("in_a_process")
def test_errors_come_back_in_one_line(files: GraphFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        refused(ExportError, "code", "1"),
        graph_write.writing(replace(files, folder=files.folder / "nowhere")) as write,
    ):
        write(LATE)
    unknown = replace(targets.find("ort-cpu"), name="abacus")
    with (
        refused(ExportError, "target", "'abacus'"),
        graph_write.writing(replace(files, plan=replace(files.plan, target=unknown))) as write,
    ):
        write(LATE)


@pytest.mark.usefixtures("in_a_process")
def test_an_export_that_fails_stops_the_process(files: GraphFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen[str]):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            begun.append(self)

    monkeypatch.setattr(graph_write.subprocess, "Popen", Recorded)
    with pytest.raises(KeyError), graph_write.writing(files):
        raise KeyError
    [child] = begun
    assert child.returncode == -signal.SIGKILL
    assert not (files.folder / "model.onnx").exists()


def test_the_process_ends_with_its_parent(files: GraphFiles) -> None:
    code = textwrap.dedent("""
    import subprocess, sys, time
    from tfm.export.graph import write
    write.LARGE = 0
    real = subprocess.Popen
    def begin(*arguments, **options):
        child = real(*arguments, **options)
        print(child.pid, flush=True)
        return child
    subprocess.Popen = begin
    with write.writing(write.GraphFiles.from_json(sys.argv[1])):
        time.sleep(60)
    """)
    command = [sys.executable, "-c", code, files.to_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    while _runs(child):
        pass
    assert not (files.folder / "model.onnx").exists()


def _runs(process: int) -> bool:
    """Whether a process that nobody waits for has not ended."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.usefixtures("in_a_process")
def test_what_libraries_write_stops_nothing(files: GraphFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr it may be more than a pipe holds."""
    real = subprocess.Popen

    def talkative(command: list[str], **options: Any) -> subprocess.Popen[str]:
        code = "import sys; sys.stderr.write('a line\\n' * 2**15); sys.exit(7)"
        return real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(graph_write.subprocess, "Popen", talkative)
    with refused(ExportError, "code", "7", "line)"), graph_write.writing(files) as write:
        write(LATE)
