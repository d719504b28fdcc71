"""The process of `tfm-cli`, also started by `python -m tfm.cli`. Ctrl-C ends it with one line at any time."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn


def run() -> None:
    """Run the command line and exit with its code, which is 130 after Ctrl-C.

    During a command, Ctrl-C raises KeyboardInterrupt. Before and after a command there is nothing to undo, so
    Ctrl-C ends the process at once, without a traceback.
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
