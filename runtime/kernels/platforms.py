"""Define the platforms for which a library is built: pairs of a system and a processor architecture."""

from __future__ import annotations

import platform
from dataclasses import dataclass

# The names that Python has for a system and a machine, and what zig calls the pair: with versions of glibc
# and macOS older than ONNX Runtime's own wheels need, so that the library runs wherever they do.
ZIG_TARGETS = {
    ("Linux", "x86_64"): "x86_64-linux-gnu.2.17",
    ("Linux", "aarch64"): "aarch64-linux-gnu.2.17",
    ("Darwin", "x86_64"): "x86_64-macos.11.0",
    ("Darwin", "arm64"): "aarch64-macos.11.0",
    ("Windows", "AMD64"): "x86_64-windows-gnu",
    ("Windows", "ARM64"): "aarch64-windows-gnu",
}
FILES = {"Linux": "libtfm_kernels.so", "Darwin": "libtfm_kernels.dylib", "Windows": "tfm_kernels.dll"}


@dataclass(frozen=True)
class Platform:
    """An operating system and a machine type, by the names that Python's module `platform` uses."""

    system: str
    machine: str

    @staticmethod
    def here() -> Platform:
        """Return the platform on which this process runs."""
        return Platform(platform.system(), platform.machine())

    @property
    def known(self) -> bool:
        """True if the kernels support this platform."""
        return (self.system, self.machine) in ZIG_TARGETS

    @property
    def zig(self) -> str:
        """The name that the compiler zig uses for this platform."""
        return ZIG_TARGETS[self.system, self.machine]

    @property
    def file(self) -> str:
        """The name of the library's file on this system."""
        return FILES[self.system]

    @property
    def flags(self) -> tuple[str, ...]:
        """Additional flags for the linker. macOS's linker would otherwise write the output's path into the
        library.
        """
        return (f"-Wl,-install_name,@rpath/{self.file}",) if self.system == "Darwin" else ()

    def __str__(self) -> str:
        return f"{self.system} {self.machine}"
