"""The command `tfm-cli doctor`, which tests what works on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from .. import options as o
from ..console import out, out_json, progress, size, table
from ..model_loading import bundle_named

PACKAGES = (
    "tfm-cli", "numpy", "onnxruntime", "onnxruntime-gpu", "tokenizers", "jinja2",
    "torch", "onnx", "onnx-ir", "onnxscript", "huggingface_hub", "ziglang",
)  # fmt: skip
GROUP = "This machine"
BUILD_S = 600.0  # for compilers, where somebody asked for kernels and nothing else waits


class Report(TypedDict):
    """The report of `tfm-cli doctor`, with one field per topic. `works` is the summary and comes first."""

    works: str
    problems: list[str]
    providers: dict[str, str]
    kernels: dict[str, str]
    int8: dict[str, str]
    memory: str
    threads: int
    cache: dict[str, str]
    versions: dict[str, str]


def command(
    build_kernels: Annotated[
        bool,
        typer.Option(
            "--build-kernels",
            help="Compile tfm's own kernels into the cache before the report, even if an earlier attempt "
            "failed.",
        ),
    ] = False,
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle",
            metavar="BUNDLE",
            help="List which runtimes on this machine can run this bundle, instead of the usual report. For "
            "each runtime, show the code path that computes the bundle, and the loss that the bundle's "
            "certificate states for that path. BUNDLE is a path, or the name of a model that has a "
            "bundle in the cache.",
        ),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Report what works on this machine.

    The report lists ONNX Runtime's providers and whether each provider starts. The report also lists tfm's
    own kernels, int8 instructions, memory, the cache and the versions of packages.
    """
    from ...refimpl.errors import DeviceError

    if build_kernels:
        from ...runtime.kernels.build import build

        build(progress=progress(), retry=True, limit_s=BUILD_S)
    if bundle is not None:
        _say_runtimes(bundle_named(bundle), as_json=as_json)
        return
    facts = report()
    if as_json:
        out_json(facts)
    else:
        for name, value in facts.items():
            match value:
                case dict():
                    lines = [f"{k}: {v}" for k, v in value.items()] or ["none"]
                case list():
                    lines = [str(v) for v in value] or ["none"]
                case _:
                    lines = [str(value)]
            out(f"{name:10} " + ("\n" + " " * 11).join(lines))
    if not facts["providers"]:
        raise DeviceError("models need ONNX Runtime: the report's problems say how to install it")
    if facts["providers"].get("CPUExecutionProvider") != "starts":
        raise DeviceError("ONNX Runtime's CPU provider doesn't start: reinstall onnxruntime")


def _say_runtimes(path: Path, *, as_json: bool) -> None:
    from ...runtime.analysis.bundle_runtimes import runtimes, without_exporter
    from ...runtime.bundle.bundle import open_bundle

    bundle = open_bundle(path)
    answers = runtimes(bundle)
    if find_spec("onnx_ir") is None:
        answers += without_exporter()
    else:
        from ...export.layouts.runtimes import of_fixed_shapes, of_layouts

        answers += [*of_layouts(bundle), *of_fixed_shapes(bundle)]
    if as_json:
        out_json({"bundle": str(path), "runtimes": [{**asdict(one), "runs": one.runs} for one in answers]})
        return
    rows = [(one.runtime, one.path or f"no: {o.with_flags(one.reason)}", one.loss) for one in answers]
    table(("RUNTIME", "COMPUTES IT BY", "LOSS"), rows)


def report() -> Report:
    """Return the complete report about this machine."""
    import platform

    from ...refimpl.errors import DeviceError, ExportError
    from ...runtime import hardware
    from ...runtime.hub.cache_dir import cache_dir, cached, require_writable
    from ...runtime.verification.certificate import INT8_FLAGS, int8_path

    versions, free = _versions(), hardware.memory()
    wheels = [name for name in versions if name.startswith("onnxruntime")]
    problems = []
    if len(wheels) > 1:
        problems.append(f"{' and '.join(wheels)} overwrite each other: pip uninstall both, then install one")
    try:
        require_writable(cache_dir())
    except ExportError as error:
        problems.append(str(error))
    flags = [flag for flag in INT8_FLAGS if flag in hardware.flags()]
    try:
        tried = _providers()
    except DeviceError as error:
        problems.append(str(error))
        tried, kernels = {}, {"unused": "the kernels are operators of ONNX Runtime, which can't be imported"}
    else:
        kernels = _kernels()
    return {
        "works": _works(tried, kernels),
        "problems": problems,
        "providers": tried,
        "kernels": kernels,
        "int8": {"instructions": " ".join(flags) or "none known", "path": int8_path()},
        "memory": "unknown" if free is None else f"{size(free)} free",
        "threads": hardware.threads(),
        "cache": {"at": str(cache_dir()), "holds": size(sum(entry.bytes for entry in cached()))},
        "versions": {"python": platform.python_version(), "platform": platform.platform(), **versions},
    }


def _providers() -> dict[str, str]:
    """Return a dict from each provider of ONNX Runtime to "starts", or to the reason why it doesn't start.

    Providers that start come first, and among these the ones that run models. Raises DeviceError if ONNX
    Runtime can't be imported.
    """
    from ...runtime.ort.providers import STARTS, providers
    from ...runtime.ort.session import PROVIDERS

    def by_use(provider: tuple[str, str]) -> tuple[bool, bool]:
        return provider[1] != STARTS, provider[0] not in PROVIDERS.values()

    return dict(sorted(providers().items(), key=by_use))


def _works(providers: Mapping[str, str], kernels: Mapping[str, str]) -> str:
    """Return a sentence that says where models run and which code computes them."""
    if not providers:
        return "nothing that needs ONNX Runtime: see problems"
    from ...runtime.ort.providers import STARTS

    by = f"tfm's kernels for {kernels['instructions']}" if "instructions" in kernels else "ONNX Runtime alone"
    places = {"CUDAExecutionProvider": "on CUDA", "CPUExecutionProvider": f"on the CPU with {by}"}
    works = [place for provider, place in places.items() if providers.get(provider) == STARTS]
    return f"models run {' and '.join(works)}" if works else "nothing: none of tfm's providers starts"


def _kernels() -> dict[str, str]:
    """Return the library of kernels that runs here, or why no library runs and what to do."""
    from ...runtime.kernels.compilers import available
    from ...runtime.kernels.library import Library, find
    from ...runtime.kernels.platforms import Platform
    from ...runtime.ort.kernel_backend import why_refused

    found = find()
    if isinstance(found, Library):
        if reason := why_refused(found):
            return {"unused": reason}
        return {
            "instructions": found.instruction_set,
            "library": str(found.path),
            "same bits": "in any batch and chunk, for models to which `inspect` promises same_bits",
        }
    if not found.buildable:
        return {"unused": found.reason}
    has = available(Platform.here())
    compiler = "" if has else "pip install 'tfm-cli[kernels]' or install a C++ compiler, then "
    return {"unused": found.reason, "to do": f"{compiler}tfm-cli doctor --build-kernels"}


def _versions() -> dict[str, str]:
    """Return the installed packages with their versions."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
