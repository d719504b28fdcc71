"""Check that the settings in a bundle's graphs equal the settings in its Config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...bundle import kernel_storage
from ...bundle.bundle import Bundle
from ...bundle.graph_io import Graph, graphs
from ...bundle.plan import Tensor
from ...ort import kernel_backend
from ..graph_settings import different_settings
from ..report import Row
from .context import VerifyContext

SUBJECT = "settings of the graphs"
SHOWN = 3  # as many differences are told


def check_graphs(context: VerifyContext) -> Iterator[Row]:
    """Check the settings of every graph: the graphs of the target's operators and the graphs over tfm's
    kernels. This includes graphs that can't run on this machine.
    """
    bundle = context.bundle
    for graph in bundle.graphs:
        bundle.check_graph(graph)
        data = (bundle.path / graph.file).read_bytes()
        yield _row(graph.file, data, graph, bundle, bundle.manifest.tensors)
    if kernel_backend.without_graphs(bundle):
        return
    for graph in graphs(bundle.config, bundle.cache == "windowed", bundle.manifest.halved):
        data, _ = bundle.kernel_graph(graph)
        file = kernel_storage.GRAPHS[graph.file]
        yield _row(file, data, graph, bundle, bundle.kernel_tensors)


def _row(file: str, data: bytes, graph: Graph, bundle: Bundle, tensors: Mapping[str, Tensor]) -> Row:
    """Return a row that counts how many settings of a graph equal the Config's."""
    different, total = different_settings(data, graph, bundle, tensors)
    name, note = f"{file}: settings equal the Config's", "; ".join(different[:SHOWN])
    return Row(name, total - len(different), unit="settings", ok=not different, note=note, of=total)
