"""tfm sends nothing: commands on local files try no connection, by the kernel's own counters.

A network namespace has no route, so an attempt to reach a host, or to look one up, fails and is counted in
`OutNoRoutes` of /proc/net/snmp, even where a library ignores the failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SPLIT = "---- counters ----\n"


def environment(tmp_path: Path) -> dict[str, str]:
    """A user's own, with an empty home folder: in CI and in unit tests ONNX Runtime sends nothing anyway."""
    telemetry = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"}
    users = {name: value for name, value in os.environ.items() if name not in telemetry}
    (tmp_path / "home").mkdir(exist_ok=True)
    return users | {"TFM_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}


def isolated(tmp_path: Path, *command: object) -> tuple[subprocess.CompletedProcess[str], int]:
    """The command's result in a namespace without routes, and how often something tried to leave it."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this system gives no network namespace: unshare -rn")
    script = '"$@"; code=$?; printf "%s" "$0"; cat /proc/net/snmp; exit $code'
    run = subprocess.run(
        [unshare, "-rn", "sh", "-c", script, SPLIT, *map(str, command)],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=120,
    )
    run.stdout, _, counters = run.stdout.partition(SPLIT)
    names, values = (line.split()[1:] for line in counters.splitlines() if line.startswith("Ip: "))
    return run, int(dict(zip(names, values, strict=True))["OutNoRoutes"])


@pytest.mark.parametrize(
    "arguments",
    [("generate", "hi", "--greedy", "--max-new-tokens", "5", "--model"), ("verify",), ("inspect",)],
)
def test_a_command_on_a_bundle_tries_no_connection(bundle: Path, tmp_path: Path, arguments: tuple[str, ...]):
    command = (sys.executable, "-m", "tfm.cli", *arguments, bundle)
    run, attempts = isolated(tmp_path, *command)
    assert (run.returncode, attempts) == (0, 0), run.stderr
    assert run.stdout
    assert list((tmp_path / "home").rglob("*")) == [], "nothing is kept that could be sent later"


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('192.0.2.1', 80), 1)",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    ],
)
def test_an_attempt_would_be_counted(tmp_path: Path, attempt: str):
    code = f"import contextlib, socket\nwith contextlib.suppress(OSError):\n    {attempt}"
    run, attempts = isolated(tmp_path, sys.executable, "-c", code)
    assert run.returncode == 0
    assert attempts > 0
