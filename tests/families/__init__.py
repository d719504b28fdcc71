"""Every model family, a file each: transformers' classes for it and the ranges drawn for each key.

A file states ROWS: model_type -> `kit.Row`. It is found by being here.
"""

import importlib
import pkgutil

from .kit import Row

ROWS: dict[str, Row] = {
    name: row
    for module in pkgutil.iter_modules(__path__)
    if module.name != "kit"
    for name, row in importlib.import_module(f"{__name__}.{module.name}").ROWS.items()
}
