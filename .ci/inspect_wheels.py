"""Looks into the wheels of a release without running them: one a platform, with its library of kernels.

python .ci/inspect_wheels.py DIST

A platform's wheel must hold what the pure one holds, and in `built` a library and its record, nothing else.
The library must have the format and the processor of the wheel's tag, the hash and the key that its record
states, export what the runtime calls, and need no library that its system hasn't. Needs the packages `lief`,
numpy and platformdirs.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import lief

# The tag of a wheel: its system and machine as Python names them, the format of its library, the processor.
PLATFORMS = {
    "manylinux*_x86_64": ("Linux", "x86_64", "ELF", "X86_64"),
    "manylinux*_aarch64": ("Linux", "aarch64", "ELF", "ARM64"),
    "macosx_11_0_x86_64": ("Darwin", "x86_64", "MACHO", "X86_64"),
    "macosx_11_0_arm64": ("Darwin", "arm64", "MACHO", "ARM64"),
    "win_amd64": ("Windows", "AMD64", "PE", "X86_64"),
    "win_arm64": ("Windows", "ARM64", "PE", "ARM64"),
}
BUILT = "tfm/runtime/kernels/built/"
EXPORTED = {"RegisterCustomOps", "tfm_has_api", "tfm_instruction_set", "tfm_kernels", "tfm_use"}
LINKERS = {"__dso_handle", "_mh_dylib_header"}  # a Mach-O file's marks of itself
# What a system has without any package.
SYSTEM = {
    "ELF": ("libc.so.6", "libm.so.6", "ld-linux-*"),
    "MACHO": ("/usr/lib/libSystem.B.dylib",),
    "PE": ("KERNEL32.dll", "api-ms-win-crt-*.dll"),  # the second since Windows 10
}


def content(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel but those of its metadata, by name."""
    with zipfile.ZipFile(wheel) as packed:
        names = [name for name in packed.namelist() if ".dist-info/" not in name and not name.endswith("/")]
        return {name: packed.read(name) for name in names}


def main(dist: Path) -> None:
    """Check the folder's wheels; an AssertionError says which one isn't as it must be."""
    wheels = {path.stem.split("-")[-1]: content(path) for path in dist.glob("*.whl")}
    pure = wheels.pop("any")
    with tempfile.TemporaryDirectory() as temporary:
        for name, data in pure.items():
            file = Path(temporary, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        sys.path.insert(0, temporary)
        from tfm.runtime.kernels import library
        from tfm.runtime.kernels.platforms import Platform

        for tag, files in wheels.items():
            [named] = [
                one for name, one in PLATFORMS.items() if all(fnmatch(part, name) for part in tag.split("."))
            ]
            system, machine, form, processor = named
            platform = Platform(system, machine)
            assert files.keys() - pure.keys() == {BUILT + platform.file, BUILT + library.RECORD}, tag
            assert {name: files[name] for name in pure} == pure, f"{tag}: other sources than the pure wheel's"
            data, record = files[BUILT + platform.file], json.loads(files[BUILT + library.RECORD])
            assert record["sha256"] == hashlib.sha256(data).hexdigest(), tag
            assert record["key"] == library.key(platform), tag
            binary = lief.parse(data)
            found = (binary.format.name, binary.abstract.header.architecture.name)
            assert found == (form, processor), f"{tag}: the library is {found}"
            names = {one.name.removeprefix("_" * (form == "MACHO")) for one in binary.exported_functions}
            assert names - LINKERS == EXPORTED, f"{tag}: exports {sorted(names ^ EXPORTED)[:9]} more or less"
            named = [getattr(one, "name", one) for one in binary.libraries]
            needed = [
                one for one in named if not one.endswith(platform.file)
            ]  # a Mach-O file names itself too
            strange = [one for one in needed if not any(fnmatch(one, known) for known in SYSTEM[form])]
            assert not strange, f"{tag}: needs {strange}"
            signed = form != "MACHO" or processor != "ARM64" or binary.has_code_signature
            assert signed, f"{tag}: macOS loads no library without a signature there"
            print(f"{tag}: {found[0]} {found[1]}, {len(data)} bytes, needs {', '.join(needed)}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
