"""Open an ONNX Runtime session on the requested device, or raise an error that says why that is impossible.

If CUDA doesn't start, ONNX Runtime uses the CPU and only writes a line to its log. It also lists providers
that can't start. So this module asks the opened session which provider the session really uses.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native  # pyright: ignore

from ...refimpl.errors import BundleError, DeviceError, TfmError
from .. import hardware
from ..bundle import targets
from ..bundle.schemes import Products
from ..bundle.targets import Device

ort.disable_telemetry_events()  # builds for Windows, which don't read the variable that `tfm` sets

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# What the CUDA provider of the 1.31 wheel loads, and what brings each.
DRIVER = "libcuda.so.1"
CUDA_LIBRARIES = {
    DRIVER: "the NVIDIA driver",
    "libcudart.so.13": "pip install nvidia-cuda-runtime",
    "libcublasLt.so.13": "pip install nvidia-cublas",
    "libcublas.so.13": "pip install nvidia-cublas",
    "libcurand.so.10": "pip install nvidia-curand",
    "libcufft.so.12": "pip install nvidia-cufft",
    "libcudnn.so.9": "pip install nvidia-cudnn-cu13",  # for reductions, such as the best token
}

LARGE_GRAPH = 2**20  # bytes without weights: thousands of nodes, as mixtures have them
# Fusions whose operators take longer on a CPU than their parts: over 1,664 rows of 384 an Add and a norm
# 1.3 ms instead of 0.2, as sums go number by number there; of 1,536, an Add and Gelu 0.9 instead of 0.7.
SLOW_FUSIONS = ("SkipLayerNormFusion", "BiasGeluFusion")

# The extension module's own exceptions, and what io_binding raises.
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(
        kind
        for kind in vars(native).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == native.__name__
    ),
)


@contextlib.contextmanager
def one_line(doing: str, kind: type[TfmError] = BundleError) -> Iterator[None]:
    """Convert exceptions of ONNX Runtime in a `with` block to an error of tfm with a message of one line.

    `doing` begins the message, and `kind` is the class of the error.
    """
    try:
        yield
    except ORT_ERRORS as error:
        raise in_one_line(doing, error, kind) from None


def in_one_line(doing: str, error: Exception, kind: type[TfmError] = BundleError) -> TfmError:
    """Return an error of class `kind` with the message of an ONNX Runtime exception in one line. `doing`
    begins the message.
    """
    cause = " ".join(str(error).split())
    return kind(f"{doing}: ONNX Runtime {ort.__version__} says {cause:.300}")


def missing_for_cuda() -> list[str]:
    """List the libraries that CUDA needs and this machine lacks. Each entry says where to get the library.

    If the driver is missing, the list contains only the driver, because the other libraries are useless
    without it.
    """
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        return [
            "a build of ONNX Runtime with CUDA (pip uninstall onnxruntime, then pip install 'tfm-cli[cuda]')"
        ]
    # Libraries that pip installed lie where no loader looks; ORT's own helper prints what fails.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    lacking = []
    for name, source in CUDA_LIBRARIES.items():
        try:
            ctypes.CDLL(name)
        except OSError:
            lacking.append(f"{name} ({source})")
            if name == DRIVER:
                break
    return lacking


def choose(device: str, target: str, notify: Callable[[str], None] = lambda _: None) -> Device:
    """Return the device on which to run a bundle.

    `auto` chooses the device for which the bundle was made. For a standard bundle, `auto` chooses CUDA if
    CUDA can start, and calls `notify` with the choice. Raises BundleError if the bundle was made for
    another device than the requested one, or DeviceError if this machine can't use the device.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise DeviceError(f"device must be cpu, cuda or auto, got {device!r}")
    made_for = targets.find(target).device
    if device == "auto":
        chosen: Device = made_for or ("cpu" if missing_for_cuda() else "cuda")
        notify(f"device=auto uses {chosen}")
    else:
        chosen = device  # pyright: ignore[reportAssignmentType]
    if made_for is not None and made_for != chosen:
        raise BundleError(
            f"the bundle was made for {made_for} (target {target}), but the requested device is {chosen}: "
            f"export the model again with target={targets.for_device(chosen).name}"
        )
    if chosen == "cuda" and (lacking := missing_for_cuda()):
        raise DeviceError(f"CUDA can't start on this machine, missing: {', '.join(lacking)}")
    return chosen


def options(
    threads: int | None = None,
    graph: Path | None = None,
    *,
    products: Products = "static",
    patterns: bool = True,
) -> ort.SessionOptions:
    """Return session options for computing one text at a time: each operator uses all useful threads, and
    operators run one after another.

    - `graph`: the file of the graph that will be opened.
    - `products`: how products of 8-bit integers get the scales of their inputs. If sums of such products
      saturate on this processor, an option makes the sums exact. With this option, ONNX Runtime 1.31 turns
      two kinds of graphs into graphs that it can't run. One kind is graphs of symmetric blocks, unless each
      DequantizeLinear is left unchanged. The other kind is graphs of products with inputs of 16 bits.
    - `patterns`: the second run of a shape allocates all its values as one block, in addition to the memory
      that the first run still holds.
    """
    made = ort.SessionOptions()
    made.enable_mem_pattern = patterns
    # To find memory that it may use again, ONNX Runtime compares each value with all earlier ones.
    made.enable_mem_reuse = graph is None or graph.stat().st_size < LARGE_GRAPH
    made.intra_op_num_threads = threads or hardware.threads()
    made.inter_op_num_threads = 1
    made.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    made.log_severity_level = 4  # errors come as exceptions, and stderr belongs to the command line
    entry = made.add_session_config_entry
    # Threads that spin between operators keep a step fast; between steps they would burn a core.
    entry("session.intra_op.spin_duration_us", "200")
    entry("session.prepack.enable_parallel", "1")
    if products != "float" and hardware.saturates():
        entry("session.x64quantprecision", "1")
        entry("session.disable_quant_qdq", str(int(products == "dynamic")))
    return made


def open_session(
    model: Path,
    device: Device,
    opts: ort.SessionOptions,
    graph: bytes | None = None,
    *,
    capture: bool = False,
) -> ort.InferenceSession:
    """Open a session and check that it runs on `device`. Raises BundleError or DeviceError if it can't.

    If `graph` is given, these bytes replace the content of the graph's file, with the same weights. With
    `capture`, a run on CUDA is captured as a CUDA graph and replayed later, unless the run's options say
    otherwise.
    """
    wanted = PROVIDERS[device]
    providers: list[Any] = [wanted]
    if device == "cpu":
        opts.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(SLOW_FUSIONS))
    else:
        # The fast products of blocks of 4 and 8 bits, which ONNX Runtime doesn't use by itself: float16,
        # symmetric blocks of 32, and sizes that 32 divides, the width in 4 bits 64.
        opts.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")
        # Shape arithmetic stays on the CPU, so CUDA keeps it as the second provider.
        providers = [(wanted, {"enable_cuda_graph": str(int(capture))}), PROVIDERS["cpu"]]
    if graph is not None:
        opts.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(model.parent)
        )
    with one_line(f"{model.name} can't be opened"):
        session = ort.InferenceSession(graph or str(model), opts, providers=providers)
    got: Any = session.get_providers()[0]
    if got != wanted:
        lacking = ", ".join(missing_for_cuda()) or "a GPU that this build of ONNX Runtime supports"
        raise DeviceError(
            f"ONNX Runtime used {got} instead of {wanted}, because this machine lacks {lacking}"
        )
    return session
