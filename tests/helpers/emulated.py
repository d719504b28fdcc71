"""Graphs over tfm's kernels on an emulated 64-bit ARM, in C with ONNX Runtime's own library for it"""

from __future__ import annotations

import fnmatch
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
from tfm.refimpl.ops.position_tables import position_tables
from tfm.runtime.bundle import kernel_storage
from tfm.runtime.bundle.bundle import Bundle
from tfm.runtime.bundle.graph_io import GRAPH, Graph, graphs
from tfm.runtime.kernels.compilers import FLAGS
from tfm.runtime.ort.kernel_backend import KernelBackend

from helpers import gcc, peers

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "runtime/kernels/source"
PROGRAM = ROOT / "tests/runtime/kernels/run_graph.c"
ONNX_TYPES = {"float32": 1, "int64": 7, "float16": 10}


def places(tokens: np.ndarray) -> np.ndarray:
    """All places of each row."""
    return np.tile(np.arange(tokens.shape[1]), (len(tokens), 1))


def feeds(bundle: Bundle, tokens: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Texts [B, T] that a bundle's one graph over kernels reads from their beginning, of which `lengths` [B]
    are real."""
    config, (rows, time) = bundle.config, tokens.shape
    known = {
        "tokens": tokens,
        "past": np.zeros(rows, np.int64),
        "at": places(tokens),
        "lengths": lengths.astype(np.int64),
    }
    tables = position_tables(np.arange(time), config=config)
    for i, rope in enumerate(config.ropes):
        known |= {f"{name}.{i}": getattr(tables[rope], name).astype(np.float32) for name in ("cos", "sin")}
    sizes = {"batch": rows, "capacity": time, "time": time}
    for name, axes, dtype in _graph(bundle).inputs:
        if name not in known:
            known[name] = np.zeros([sizes.get(axis, axis) for axis in axes], dtype or np.float32)
    return {name: known[name] for name, *_ in _graph(bundle).inputs}


def _graph(bundle: Bundle) -> Graph:
    windowed = bundle.manifest.cache == "windowed"
    (graph,) = graphs(bundle.config, windowed, halved=bundle.manifest.halved)
    assert graph.file == GRAPH
    return graph


def _content(arrays: dict[str, np.ndarray]) -> bytes:
    """Inputs as run_graph.c reads them."""
    parts = []
    for name, array in arrays.items():
        shape = [*array.shape, *[0] * (8 - array.ndim)]
        header = (name.encode(), ONNX_TYPES[array.dtype.name], array.ndim, *shape, array.nbytes)
        parts += [struct.pack("<32sii8qq", *header), np.ascontiguousarray(array).tobytes()]
    return b"".join(parts)


class Emulated:
    """A folder with run_graph, the library of kernels, and ONNX Runtime's, which pip fetches."""

    def __init__(self, folder: Path) -> None:
        self.tools, self.folder = gcc.required(), folder
        wheel = ["--only-binary", ":all:", "--platform", "manylinux_2_28_aarch64", "--dest", folder / "wheel"]
        version = onnxruntime.__version__
        peers.run([
            sys.executable, "-m", "pip", "download", "-q", "--no-deps", *wheel, f"onnxruntime=={version}",
        ])  # fmt: skip
        (path,) = (folder / "wheel").iterdir()
        with zipfile.ZipFile(path) as file:
            (name,) = fnmatch.filter(file.namelist(), "onnxruntime/capi/libonnxruntime.so.*")
            runtime = Path(file.extract(name, folder))
        for link in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (folder / link).symlink_to(runtime)
        self.library, self.program = folder / "libtfm_kernels.so", folder / "run_graph"
        subprocess.run(
            [self.tools.arm_compiler, *FLAGS, "-o", self.library, *SOURCES.glob("*.cpp")], check=True
        )
        links = [f"-I{gcc.HEADERS}", f"-L{folder}", f"-Wl,-rpath,{folder}", "-lonnxruntime", "-ldl"]
        command = [self.tools.arm_compiler, "-O2", "-x", "c", PROGRAM, "-x", "none", *links]
        subprocess.run([*command, "-o", self.program], check=True)

    def outputs(
        self,
        bundle: Bundle,
        here: KernelBackend,
        texts: tuple[np.ndarray, np.ndarray],
        instruction_set: str,
        processor: str = "max",
    ) -> np.ndarray:
        """The numbers of the graph's first output, one after the other, for tokens and their lengths."""
        graph, folder = _graph(bundle), self.folder.joinpath(*bundle.path.resolve().parts[1:])
        if not folder.is_dir():
            folder.mkdir(parents=True)
            (folder / "graph.onnx").write_bytes(bundle.kernel_graph(graph)[0])
            shutil.copy(here.weights / kernel_storage.DATA, folder)
        command = [self.tools.emulator, "-L", "/usr/aarch64-linux-gnu", "-cpu", processor, self.program]
        command += [self.library, instruction_set, folder / "graph.onnx", graph.outputs[0].name]
        given = _content(feeds(bundle, *texts))
        done = subprocess.run(command, input=given, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return np.frombuffer(done.stdout, np.float32)
