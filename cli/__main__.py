"""The process of `tfm-cli`, which `python -m tfm.cli` also starts. At any time, Ctrl-C ends the process with
one line.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn


def run() -> None:
    """Run the command line and exit with its exit code, which is 130 after Ctrl-C.

    During a command, Ctrl-C raises KeyboardInterrupt. Before and after a command, Ctrl-C ends the process at
    once, without a traceback, because nothing must be undone.
    """
    listens = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as a shell has it for a job behind &
    if listens:
        signal.signal(signal.SIGINT, _stop)
        # The last of all: then Python gives signals back to the system, which would end the process silently.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    from .main import INTERRUPTED, main

    try:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = main()
    except KeyboardInterrupt:
        _stop()
    finally:
        if listens:
            signal.signal(signal.SIGINT, _stop)
    if code == INTERRUPTED:
        os._exit(code)  # Python would end by the signal instead, where the code of an `exec` was interrupted
    sys.exit(code)


def _stop(*_: object) -> NoReturn:
    with suppress(OSError):  # stderr is closed
        os.write(2, b"tfm-cli: stopped\n")
    os._exit(130)


if __name__ == "__main__":
    run()
