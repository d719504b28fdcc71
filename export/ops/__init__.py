"""Implement the ops of `refimpl.ops` in PyTorch, in a form that can be exported to ONNX. Importing a file
registers the implementations in it.

An implementation (a body) has the name and the signature of its op. The docstring of an implementation says
what is computed, and by which ONNX operators a graph computes it.

While a graph is traced, sizes that come from weights and from a cache's heads are plain numbers. The sizes of
batch, time, capacity and output positions stay dynamic, so no implementation may depend on their values.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
