"""Check the bundle over tfm's own kernels. If the graph promises the specification's bits, the outputs must
have the same bits. Otherwise they must be within the usual budgets.
"""

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
from . import bits, replay
from .context import VerifyContext
from .logits import golden_rows

if TYPE_CHECKING:
    from ...ort.engine import OrtEngine

SUBJECT, TEXT_SUBJECT = "outputs over tfm's own kernels", "kernels to the bit over a text"


def has_kernels(bundle: Bundle) -> bool:
    """Return whether the bundle has graphs that run on tfm's kernels."""
    return not kernel_backend.without_graphs(bundle)


class OnKernels(NamedTuple):
    """A bundle's engine over tfm's kernels, and the backend of the engine's sessions."""

    engine: OrtEngine
    backend: KernelBackend


def on_kernels(context: VerifyContext) -> OnKernels | str:
    """Return the engine that runs the bundle over tfm's kernels, with its backend. If this machine can't run
    the kernels, return the reason as text.
    """
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
    """Return the engines that run the bundle: one over ONNX Runtime's operators and, if this machine can run
    tfm's kernels, one over these kernels.

    Each engine comes with the golden outputs that limit the engine's errors. The names of an engine's rows
    begin with the engine's key in the result.
    """
    backends = {"": (context.engine, context.golden)}
    if has_kernels(context.bundle):
        found = on_kernels(context)
        if isinstance(found, OnKernels):  # else its own check says why
            backends[f"{found.backend.name}: "] = found.engine, context.golden.with_half_cache
    return backends


def check_kernels(context: VerifyContext) -> Iterator[Row]:
    """Check quickly the outputs of the bundle over tfm's kernels.

    If the graph promises the same bits, outputs are compared to the bit, with each instruction set of this
    processor. Otherwise outputs for the golden tokens are checked as in `check_golden_outputs`, with the
    instruction set that runs by default.
    """
    found = on_kernels(context)
    if isinstance(found, str):
        yield Row(SUBJECT, note=found)
        return
    engines = dict(_by_set(context, found))
    for name, engine in engines.items():
        context.backends[name] = replay.run_at_once(engine, context.golden)
    if found.engine.same_bits:
        yield from bits.quick_rows(context, engines)
        return
    name = found.backend.name
    yield Row(f"{name}: {bits.EQUAL}", "not promised", note=found.engine.same_bits.reason)
    for row in golden_rows(context, found.engine, context.golden.with_half_cache, name):
        yield replace(row, name=f"{name}: {row.name}")


def check_text_to_the_bit(context: VerifyContext) -> Iterator[Row]:
    """Check that the outputs over a text have exactly the specified bits, if the graph promises the
    same bits.
    """
    found = on_kernels(context)
    if isinstance(found, str):
        yield Row(TEXT_SUBJECT, note=found)
    elif found.engine.same_bits:
        engines = dict(_by_set(context, found))
        yield from bits.text_rows(context, engines)


def _by_set(context: VerifyContext, found: OnKernels) -> Iterator[tuple[str, OrtEngine]]:
    """Yield the engine over tfm's kernels for each instruction set, with the name of the backend. The
    instruction set that runs by default comes first.

    If the processor lacks an instruction set, `context.backends` gets an entry that says so."""
    from ...ort.engine import OrtEngine

    yield found.backend.name, found.engine
    for name in INSTRUCTION_SETS:
        if name == found.backend.library.instruction_set or context.out_of_time():
            continue
        library = kernel_backend.find(silent, name)
        if isinstance(library, Library) and library.instruction_set == name:
            other = replace(found.backend, library=library)
            yield other.name, OrtEngine(context.bundle, "cpu", context.threads, kernels=other)
        else:
            context.backends[f"kernels ({name})"] = f"this processor lacks {name}"
