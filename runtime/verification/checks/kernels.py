"""The bundle over tfm's own kernels: its outputs are within the same budgets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...bundle.bundle import Bundle
from ...hub.cache_dir import cache_dir
from ...kernels.library import INSTRUCTION_SETS, Library
from ...ort import kernel_path
from ...ort.kernel_path import KernelPath
from ...progress import silent
from ..report import Row
from . import replay
from .context import VerifyContext
from .logits import golden_rows

SUBJECT = "outputs over tfm's own kernels"


def has_kernels(bundle: Bundle) -> bool:
    """Whether a bundle can run on kernels."""
    return not kernel_path.without_graphs(bundle)


def check_kernels(context: VerifyContext) -> Iterator[Row]:
    """The outputs for the golden tokens, as `check_golden_outputs`, by this processor's instruction set."""
    from ...ort.engine import OrtEngine

    library = kernel_path.library_for(context.bundle)
    if isinstance(library, str):
        yield Row(SUBJECT, note=library)
        return
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # A bundle that is being exported has another name here, so what is kept for a bundle isn't used.
        with tempfile.TemporaryDirectory(prefix="kernels-", dir=cache) as folder:
            path = KernelPath(library, Path(folder), kernel_path.cache_type(context.bundle))
            kernel_path.write(context.bundle, path.weights)
            engine = OrtEngine(context.bundle, "cpu", context.threads, kernels=path)
            for row in golden_rows(context, engine, context.golden.with_half_cache, path.name):
                yield replace(row, name=f"{path.name}: {row.name}")
            _run_others(context, path)
    except OSError as error:
        yield Row(SUBJECT, note=f"the cache {cache} can't hold their weights: {error.strerror}")


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
