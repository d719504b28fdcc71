"""The bundle over tfm's own kernels: its outputs are within the same budgets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...bundle.bundle import Bundle
from ...hub.cache_dir import cache_dir
from ...kernels.library import INSTRUCTION_SETS, Library
from ...ort import kernel_path
from ...ort.kernel_path import KernelPath
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
    return not kernel_path.without_graphs(bundle)


class OnKernels(NamedTuple):
    """A bundle's engine over kernels, and what its sessions are made of."""

    engine: OrtEngine
    path: KernelPath


@contextmanager
def on_kernels(context: VerifyContext) -> Iterator[OnKernels | str]:
    """The bundle over kernels as long as their weights are needed, or a line that says why it isn't there.

    A bundle that is being exported has another name here, so what the cache keeps for a bundle isn't used.
    """
    from ...ort.engine import OrtEngine

    library = kernel_path.library_for(context.bundle)
    if isinstance(library, str):
        yield library
        return
    cache = cache_dir()
    with ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kernels-", dir=cache))
            path = KernelPath(library, Path(folder), kernel_path.cache_type(context.bundle))
            kernel_path.write(context.bundle, path.weights)
            engine = OrtEngine(context.bundle, "cpu", context.threads, kernels=path)
            found: OnKernels | str = OnKernels(engine, path)
        except OSError as error:
            found = f"the cache {cache} can't hold their weights: {error.strerror}"
        yield found


@contextmanager
def all_paths(context: VerifyContext) -> Iterator[dict[str, tuple[OrtEngine, Golden]]]:
    """The bundle on ONNX Runtime's operators and, where they run here, over kernels; each with the golden
    outputs that say how far it may be off, by what the names of its rows begin with."""
    with ExitStack() as stack:
        paths = {"": (context.engine, context.golden)}
        if has_kernels(context.bundle):
            found = stack.enter_context(on_kernels(context))
            if isinstance(found, OnKernels):  # else its own check says why
                paths[f"{found.path.name}: "] = found.engine, context.golden.with_half_cache
        yield paths


def check_kernels(context: VerifyContext) -> Iterator[Row]:
    """The outputs for the golden tokens, as `check_golden_outputs`, by this processor's instruction set."""
    with on_kernels(context) as found:
        if isinstance(found, str):
            yield Row(SUBJECT, note=found)
            return
        name = found.path.name
        for row in golden_rows(context, found.engine, context.golden.with_half_cache, name):
            yield replace(row, name=f"{name}: {row.name}")
        _run_others(context, found.path)


def _run_others(context: VerifyContext, path: KernelPath) -> None:
    """The outputs by the other instruction sets."""
    from ...ort.engine import OrtEngine

    for name in INSTRUCTION_SETS:
        if name == path.library.instruction_set or context.out_of_time():
            continue
        found = kernel_path.find(silent, name)
        if isinstance(found, Library) and found.instruction_set == name:
            other = replace(path, library=found)
            engine = OrtEngine(context.bundle, "cpu", context.threads, kernels=other)
            context.paths[other.name] = replay.run_at_once(engine, context.golden)
        else:
            context.paths[f"kernels ({name})"] = f"this processor lacks {name}"
