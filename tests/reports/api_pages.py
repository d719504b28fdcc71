"""The API pages: every module of tfm with its docstrings, as a folder of HTML files, made by pdoc.

    PYTHONPATH=tests python -m reports.api_pages OUT

A warning is an error: an annotation that names nothing, a module that can't be imported.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc
import tfm

# The folder cli/tfm holds the package itself, which is no part of tfm.cli.
MODULES = ("tfm", "tfm.refimpl", "tfm.export", "tfm.runtime", "tfm.cli", "!tfm.cli.tfm")
# Signatures that Python generates in a namespace of its own, where names of the module mean nothing.
GENERATED = (
    r"Error parsing type annotation ForwardRef\(.*\) for \S+\.__init__\.",  # of a NamedTuple
    r"Error parsing type annotation .* for tfm\.refimpl\.laws\.kit\.draw\.calls\.",  # composite
    r"Cannot determine where tfm\.runtime\.serve\.\w+\.\w+\.(temperature|\w+_[pk]|\w+_penalty) ",  # `stating`
    r"Cannot determine where tfm\.refimpl\.ops\.\w+\.\w+Weights\.",  # a TypedDict copies its bases' keys
)


def write(out: Path) -> int:
    """Write the pages; answers how many."""
    for name in tfm.__all__:  # pdoc takes a name that is imported on first use for a module
        setattr(tfm, name, getattr(tfm, name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for message in GENERATED:
            warnings.filterwarnings("ignore", message)
        pdoc.pdoc(*MODULES, output_directory=out)
    return len(list(out.rglob("*.html")))


if __name__ == "__main__":
    pages = write(Path(sys.argv[1]))
    print(f"{pages} pages in {sys.argv[1]}")
