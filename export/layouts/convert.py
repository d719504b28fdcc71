"""Write a bundle in a layout for another runtime, completely or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...refimpl.config import Config, has_mtp
from ...refimpl.errors import ExportError
from ...runtime.bundle import golden_files, targets
from ...runtime.bundle.atomic_dir import replacing, sync
from ...runtime.bundle.bundle import Bundle, open_bundle
from ...runtime.bundle.manifest import CERTIFICATE, IN_LAYOUT, MANIFEST, OPTIONAL
from ...runtime.bundle.targets import Target
from . import genai, optimum, transformers_js
from .data_file import copy
from .layout import BundleLayout

LAYOUTS: dict[str, BundleLayout] = {
    module.LAYOUT.name: module.LAYOUT for module in (genai, transformers_js, optimum)
}


def find(name: str | BundleLayout) -> BundleLayout:
    """Return the layout with this name. A `BundleLayout` is returned unchanged. Raises ExportError if there
    is no layout with the name.
    """
    if isinstance(name, BundleLayout):
        return name
    if name not in LAYOUTS:
        raise ExportError(f"layout must be one of {', '.join(LAYOUTS)}, got {name!r:.40}")
    return LAYOUTS[name]


def check(layout: BundleLayout, config: Config, target: Target, out: Path) -> None:
    """Raise ExportError if the layout doesn't cover the model, or if `out` already contains something."""
    if has_mtp(config):
        raise ExportError(
            f"a module for drafts (mtp) can't be written for {layout.name}: export the model without mtp"
        )
    if reason := layout.refusal(config, target):
        raise ExportError(f"this model can't be written for {layout.name}: {reason}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out}: must be an empty directory or not exist; choose another place")


@contextmanager
def converting(layout: str | BundleLayout, config: Config, target: str, out: Path) -> Iterator[Path]:
    """Give a `with` block a path to which the block must write a bundle of this Config and target. After the
    block, convert the bundle to `out`.

    If `convert` would refuse this Config and target, the error is raised before the block, so that no work is
    lost.
    """
    check(find(layout), config, targets.find(target), out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        yield Path(folder, "bundle")
        convert(Path(folder, "bundle"), out, layout)


def convert(path: Path, out: Path, layout: str | BundleLayout) -> Bundle:
    """Write the bundle at `path` to `out` in a layout, and return the opened bundle.

    The layout is a name in `LAYOUTS` or a `BundleLayout`. The bundle's manifest, certificate and golden
    inputs are written to a folder `tfm`, and its licence and notices beside the model.

    Raises ExportError if the layout doesn't cover the model, or if `out` isn't empty. Raises BundleError if
    files of the bundle were changed after the export.
    """
    found = find(layout)
    bundle = open_bundle(path)
    check(found, bundle.config, targets.find(bundle.target), out)
    bundle.check_hashes()
    bundle.check_graphs()
    with replacing(out) as folder:
        found.write(bundle, folder)
        for name in (*OPTIONAL, *bundle.manifest.notices):
            if name in bundle.manifest.files:
                copy(bundle.path / name, folder / name)
        (folder / IN_LAYOUT / golden_files.FOLDER).mkdir(parents=True)
        for name in (MANIFEST, *golden_files.FILES, CERTIFICATE):
            if (bundle.path / name).exists():
                copy(bundle.path / name, folder / IN_LAYOUT / name)
        for file in folder.rglob("*"):
            sync(file)
    return bundle
