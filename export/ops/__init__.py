"""What ops of `refimpl.ops` compute in PyTorch, in a form that can be exported: a file registers its bodies.

A body has the name and the signature of its op. While a graph is traced, sizes that come from weights and
from a cache's heads are numbers. Batch, time, capacity and output positions stay dynamic, so no body may look
at their values.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
