"""Bodies of the ops of `refimpl.ops` in PyTorch, in a form that can be exported. Each file registers its own
bodies.

A body has the name and the signature of its op. The docstring of a body says how it computes, often just by
the name of the ONNX operator that it becomes.

While a graph is traced, sizes that come from weights and from a cache's heads are plain numbers. The sizes of
batch, time, capacity and output positions stay dynamic, so no body may depend on their values.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
