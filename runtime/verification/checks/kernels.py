"""The bundle over tfm's own kernels: its outputs are within the same budgets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ...bundle.bundle import Bundle
from ...kernels.library import INSTRUCTION_SETS, Library
from ...ort import kernel_backend
from ...ort.kernel_backend import KernelBackend
from ...progress import silent
from ..golden import Golden
from ..report import Row
from . import replay
from .context import VerifyContext
from .logits import golden_rows

if TYPE_CHECKING:
    from ...ort.engine import OrtEngine

SUBJECT = "outputs over tfm's own kernels"


def has_kernels(bundle: Bundle) -> bool:
    """Whether a bundle can run on kernels."""
    return not kernel_backend.without_graphs(bundle)


class OnKernels(NamedTuple):
    """A bundle's engine over kernels, and what its sessions are made of."""

    engine: OrtEngine
    backend: KernelBackend


def on_kernels(context: VerifyContext) -> OnKernels | str:
    """The bundle over kernels, or a line that says why it isn't there."""
    from ...ort.engine import OrtEngine

    library = kernel_backend.library_for(context.bundle)
    if isinstance(library, str):
        return library
    try:
        backend = kernel_backend.prepared(context.bundle, library)
    except OSError as error:
        return kernel_backend.no_room(error)
    return OnKernels(OrtEngine(context.bundle, "cpu", context.threads, kernels=backend), backend)


def all_backends(context: VerifyContext) -> dict[str, tuple[OrtEngine, Golden]]:
    """The bundle on ONNX Runtime's operators and, where they run here, over kernels; each with the golden
    outputs that say how far it may be off, by what the names of its rows begin with."""
    backends = {"": (context.engine, context.golden)}
    if has_kernels(context.bundle):
        found = on_kernels(context)
        if isinstance(found, OnKernels):  # else its own check says why
            backends[f"{found.backend.name}: "] = found.engine, context.golden.with_half_cache
    return backends


def check_kernels(context: VerifyContext) -> Iterator[Row]:
    """The outputs for the golden tokens, as `check_golden_outputs`, by this processor's instruction set."""
    found = on_kernels(context)
    if isinstance(found, str):
        yield Row(SUBJECT, note=found)
        return
    name = found.backend.name
    for row in golden_rows(context, found.engine, context.golden.with_half_cache, name):
        yield replace(row, name=f"{name}: {row.name}")
    _run_others(context, found.backend)


def _run_others(context: VerifyContext, backend: KernelBackend) -> None:
    """The outputs by the other instruction sets."""
    from ...ort.engine import OrtEngine

    for name in INSTRUCTION_SETS:
        if name == backend.library.instruction_set or context.out_of_time():
            continue
        found = kernel_backend.find(silent, name)
        if isinstance(found, Library) and found.instruction_set == name:
            other = replace(backend, library=found)
            engine = OrtEngine(context.bundle, "cpu", context.threads, kernels=other)
            context.backends[other.name] = replay.run_at_once(engine, context.golden)
        else:
            context.backends[f"kernels ({name})"] = f"this processor lacks {name}"
