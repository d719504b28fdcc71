"""Find out which runtimes on this machine can run a bundle, by which code, and how much accuracy this code
loses.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from ...refimpl.errors import TfmError
from ..bundle import targets
from ..bundle.bundle import Bundle
from ..ort import kernel_backend
from ..ort.kernel_backend import KernelBackend
from ..ort.providers import startable
from ..ort.session import choose
from ..verification.certificate import recorded
from ..verification.checks.backends import is_quantized
from ..verification.checks.logits import FLOAT_PRODUCTS, INTEGER_PRODUCTS, ORT
from ..verification.report import Row
from ..verification.verdict import found
from . import javascript

NO_ROW = "not in the certificate: tfm-cli verify measures it"
NO_EXPORTER = "this runtime reads another format, which tfm's exporter writes: pip install 'tfm-cli[export]'"
# Packages for Python that open a layout bring an onnxruntime, which would overwrite tfm's.
NOT_HERE = "this runtime isn't installed: pip install {} in a separate environment"
# Modules of Python with their packages, and packages of Node, that open a layout.
LAYOUTS = {"genai": ("onnxruntime_genai", "onnxruntime-genai"), "optimum": ("optimum", "optimum-onnx")}
NODE_LAYOUTS = {"transformers.js": "@huggingface/transformers"}
# What reads a graph of fixed shapes.
NPUS = ("NNAPI", "CoreML", "QNN")


@dataclass(frozen=True)
class RuntimeAnswer:
    """The answer whether a runtime can run a bundle.

    - `path`: the code by which the runtime computes the bundle.
    - `loss`: how far this code's outputs are from the unquantized model's, according to the certificate.
    - `reason`: why the runtime can't run the bundle; empty if it can.
    """

    runtime: str
    path: str = ""
    loss: str = ""
    reason: str = ""

    @property
    def runs(self) -> bool:
        return not self.reason


def runtimes(bundle: Bundle) -> list[RuntimeAnswer]:
    """Return the answers of all runtimes that read a bundle's graph unchanged.

    These are tfm's kernels, ONNX Runtime on the CPU, on CUDA, in Node and in browsers, OpenVINO, and
    onnx.reference.
    """
    onnxruntime = [_onnxruntime(bundle, device) for device in ("cpu", "cuda")]
    native = [_kernels(bundle), *onnxruntime, _openvino(bundle), _reference(bundle)]
    return [*native, _node(bundle), _web(bundle), _browser(bundle)]


def layouts_lack() -> dict[str, str | None]:
    """Return a dict from each layout to the program that this machine needs to open the layout, or to None if
    nothing is missing.
    """
    lacking = {
        name: None if find_spec(module) else NOT_HERE.format(package)
        for name, (module, package) in LAYOUTS.items()
    }
    return lacking | {name: javascript.lacks(package) for name, package in NODE_LAYOUTS.items()}


def without_exporter() -> list[RuntimeAnswer]:
    """Return the answers for the runtimes that can't read a bundle unchanged. This machine lacks tfm's
    exporter, which would write their formats.
    """
    reasons = layouts_lack() | dict.fromkeys(NPUS)
    return [RuntimeAnswer(name, reason=lacks or NO_EXPORTER) for name, lacks in reasons.items()]


def answer(bundle: Bundle, runtime: str, row: str, path: str | None = None) -> RuntimeAnswer:
    """Return the answer of a runtime that can run the bundle. The row `row` of the certificate measured its
    computation.

    `path` is the name to show for the computation, by default the row's name.
    """
    return RuntimeAnswer(runtime, path or row, loss(bundle, row))


def graph_row(bundle: Bundle) -> str:
    """Return the name of the certificate's row that measured the graph on ONNX Runtime."""
    blocks = any(scheme.activations == "block" for scheme in bundle.manifest.schemes.values())
    return INTEGER_PRODUCTS if blocks else ORT


def loss(bundle: Bundle, path: str) -> str:
    """Return how much accuracy the computation `path` loses, according to the bundle's certificate."""
    if not is_quantized(bundle):
        return "none, because no weight is quantized"
    report = recorded(bundle.path)
    check = None if report is None else report.check("backends")
    rows: tuple[Row, ...] = () if check is None else check.rows
    row = next((row for row in rows if row.name.startswith(f"{path}: ")), None)
    return NO_ROW if row is None else f"{row.name.removeprefix(f'{path}: ')} {found(row)}"


def _kernels(bundle: Bundle) -> RuntimeAnswer:
    runtime = "tfm's kernels"
    try:
        library = kernel_backend.library_for(bundle)
    except TfmError as error:
        return RuntimeAnswer(runtime, reason=str(error))
    if isinstance(library, str):
        return RuntimeAnswer(runtime, reason=library)
    return answer(
        bundle, runtime, KernelBackend(library, bundle.path, kernel_backend.cache_type(bundle)).name
    )


def _onnxruntime(bundle: Bundle, device: str) -> RuntimeAnswer:
    runtime = "ONNX Runtime on the CPU" if device == "cpu" else "ONNX Runtime on CUDA"
    try:
        choose(device, bundle.target)
        startable(device)
    except TfmError as error:
        return RuntimeAnswer(runtime, reason=str(error))
    return answer(bundle, runtime, graph_row(bundle))


def _openvino(bundle: Bundle) -> RuntimeAnswer:
    runtime = "OpenVINO"
    rows = any(group.kind == "row" for group in bundle.plan.groups.values())
    if bundle.target == "ort-cuda" or bundle.config.rounds_cache:
        reason = "tfm was never tested on OpenVINO with graphs for CUDA or with quantized keys and values"
    elif rows and targets.find(bundle.target).fused:
        reason = "OpenVINO runs int8-dynamic only with target=standard"
    elif find_spec("openvino") is None:
        reason = "openvino isn't installed: pip install openvino"
    else:
        return _by_floats(bundle, runtime)
    return RuntimeAnswer(runtime, reason=reason)


def _by_floats(bundle: Bundle, runtime: str) -> RuntimeAnswer:
    """Return the answer of a runtime that multiplies blocks in floats, whatever the graph asks for."""
    row = ORT if graph_row(bundle) == ORT else FLOAT_PRODUCTS
    return answer(bundle, runtime, row, "products of blocks in float")


def _node(bundle: Bundle) -> RuntimeAnswer:
    if reason := _not_for_cpu(bundle) or javascript.lacks("onnxruntime-node"):
        return RuntimeAnswer("onnxruntime-node", reason=reason)
    return answer(bundle, "onnxruntime-node", graph_row(bundle))


def _web(bundle: Bundle) -> RuntimeAnswer:
    runtime = "onnxruntime-web in Node"
    if reason := _not_for_cpu(bundle) or javascript.lacks("onnxruntime-web"):
        return RuntimeAnswer(runtime, reason=reason)
    return _by_floats(bundle, runtime)


def _browser(bundle: Bundle) -> RuntimeAnswer:
    found = javascript.browser()
    runtime = f"onnxruntime-web in {found or 'a browser'}"
    reason = None if found else "not found: no browser is on PATH"
    if reason := _not_for_cpu(bundle) or reason:
        return RuntimeAnswer(runtime, reason=reason)
    return _by_floats(bundle, runtime)


def _not_for_cpu(bundle: Bundle) -> str | None:
    if targets.find(bundle.target).device == "cuda":
        return f"the bundle was made for cuda (target {bundle.target})"
    return None


def _reference(bundle: Bundle) -> RuntimeAnswer:
    runtime = "onnx.reference"
    if bundle.target != "standard":
        reason = "onnx.reference has only operators of ai.onnx: export for target=standard"
    elif find_spec("onnx") is None:
        reason = "onnx isn't installed: pip install onnx"
    else:
        return answer(bundle, runtime, ORT, "operators as ONNX specifies them")
    return RuntimeAnswer(runtime, reason=reason)
