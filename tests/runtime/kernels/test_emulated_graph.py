"""A whole model over the NEON kernels on an emulated aarch64: the golden check, and the bits of x86."""

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
import pytest
from helpers import gcc, peers, tiny_models
from helpers.exported import exported
from tfm.refimpl.ops.position_tables import position_tables
from tfm.runtime.bundle import kernel_storage
from tfm.runtime.bundle.bundle import Bundle
from tfm.runtime.bundle.graph_io import graphs
from tfm.runtime.kernels.compilers import FLAGS
from tfm.runtime.ort import kernel_backend
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.verification import golden

SOURCES = Path(__file__).parents[3] / "runtime/kernels/source"
CONFIG = tiny_models.llama()
ONNX_TYPES = {"float32": 1, "int64": 7, "float16": 10}
VERSION = onnxruntime.__version__


def places(expected: golden.Golden) -> np.ndarray:
    """All places of each row."""
    rows, time = expected.tokens.shape
    return np.tile(np.arange(time), (rows, 1))


def feeds(bundle: Bundle, expected: golden.Golden) -> dict[str, np.ndarray]:
    """The golden tokens over an empty cache, for the graph over kernels."""
    rows, time = expected.tokens.shape
    (rope,) = CONFIG.ropes
    tables = position_tables(np.arange(time), config=CONFIG)[rope]
    known = {
        "tokens": expected.tokens,
        "past": np.zeros(rows, np.int64),
        "at": places(expected),
        "cos.0": tables.cos.astype(np.float32),
        "sin.0": tables.sin.astype(np.float32),
    }
    (graph,) = graphs(CONFIG, half=bundle.manifest.half_cache)
    sizes = {"batch": rows, "capacity": time}
    for name, axes, dtype in graph.inputs:
        if name not in known:
            known[name] = np.zeros([sizes.get(axis, axis) for axis in axes], dtype or np.float32)
    return {name: known[name] for name, *_ in graph.inputs}


def content(arrays: dict[str, np.ndarray]) -> bytes:
    """Inputs as run_graph.c reads them."""
    parts = []
    for name, array in arrays.items():
        shape = [*array.shape, *[0] * (8 - array.ndim)]
        header = (name.encode(), ONNX_TYPES[array.dtype.name], array.ndim, *shape, array.nbytes)
        parts += [struct.pack("<32sii8qq", *header), np.ascontiguousarray(array).tobytes()]
    return b"".join(parts)


@pytest.mark.peers
@pytest.mark.gcc
def test_the_golden_check_over_neon(kernels_on: Path, tmp_path: Path):
    """Real processors: not checked."""
    tools = gcc.required()
    wheel = ["--only-binary", ":all:", "--platform", "manylinux_2_28_aarch64", "--dest", tmp_path / "wheel"]
    peers.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", *wheel, f"onnxruntime=={VERSION}"])
    (path,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(path) as file:
        (name,) = fnmatch.filter(file.namelist(), "onnxruntime/capi/libonnxruntime.so.*")
        runtime = Path(file.extract(name, tmp_path))
    for link in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / link).symlink_to(runtime)
    library, program = tmp_path / "libtfm_kernels.so", tmp_path / "run_graph"
    subprocess.run([tools.arm_compiler, *FLAGS, "-o", library, *SOURCES.glob("*.cpp")], check=True)
    links = [f"-I{gcc.HEADERS}", f"-L{tmp_path}", f"-Wl,-rpath,{tmp_path}", "-lonnxruntime", "-ldl"]
    source = Path(__file__).with_name("run_graph.c")
    subprocess.run(
        [tools.arm_compiler, "-O2", "-x", "c", source, "-x", "none", *links, "-o", program], check=True
    )

    bundle = exported(tmp_path, CONFIG, seed=11, quant="int8")
    here = kernel_backend.choose(bundle)
    assert not isinstance(here, str), here
    (graph,) = graphs(CONFIG, half=bundle.manifest.half_cache)
    (tmp_path / "graph.onnx").write_bytes(bundle.kernel_graph(graph)[0])
    shutil.copy(here.weights / kernel_storage.DATA, tmp_path)
    expected = golden.load(bundle)
    given = content(feeds(bundle, expected))

    engine = OrtEngine(bundle, kernels=here)
    assert engine.same_bits
    logits, _ = engine.step(expected.tokens, engine.start(len(expected.tokens)), at=places(expected))
    for processor, names in (("max", ("neon", "neon-dotprod")), ("cortex-a57", ("neon",))):
        for one in names:
            command = [tools.emulator, "-L", "/usr/aarch64-linux-gnu", "-cpu", processor, program]
            done = subprocess.run(
                [*command, library, one, tmp_path / "graph.onnx"], input=given, capture_output=True
            )
            assert done.returncode == 0, done.stderr.decode()[-2000:]
            got = np.frombuffer(done.stdout, np.float32).reshape(logits.shape)
            assert np.array_equal(got.view(np.uint32), logits.view(np.uint32)), f"{processor}, {one}"
            view = expected.view(expected.real(got.astype(np.float64)))
            assert np.abs(view - expected.own.logits).max() <= expected.own.budget
