"""Run the commands of `tfm-cli`.

A failure prints one line on stderr and ends with the exit code of its class.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import pkgutil
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import typer
import typer.main
from typer.exceptions import TyperException

from ..refimpl.errors import BundleError, CheckpointError, ExportError, NumericError, TfmError
from . import commands
from .console import LINE, out, say
from .model_loading import EXPORT_PACKAGES
from .options import CONTEXT, with_flags
from .usage import explain

# The groups of commands in the order of the help; inside a group commands are sorted by name.
GROUPS = ("Write texts", "Read texts", "Serve", "Make and check models", "Look inside", "This machine")
SERVE_PACKAGES = ("starlette", "uvicorn", "pydantic", "prometheus_client", "llguidance")
RAY_PACKAGES = ("ray", "pyarrow")
INTERRUPTED = 130
COMMANDS = tuple(sorted(module.name for module in pkgutil.iter_modules(commands.__path__)))


def application(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Build the command line with the given commands only, because importing and building each command takes
    time.
    """
    app = typer.Typer(
        name="tfm-cli",
        help="Convert a transformer checkpoint to a fast ONNX model, check the model against a NumPy "
        "reference, and run it.",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], **CONTEXT},
        callback=_options,
    )
    modules = {name: importlib.import_module(f"{commands.__name__}.{name}") for name in names}
    for name in sorted(modules, key=lambda name: (GROUPS.index(modules[name].GROUP), name)):
        command, group = modules[name].command, modules[name].GROUP
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=group)
        else:
            app.command(name, help=_paragraphs(command), rich_help_panel=group)(command)
    return app


def _paragraphs(command: Callable[..., None]) -> str:
    """Return a command's docstring with each paragraph on one line, so that the terminal breaks lines at its
    own width.
    """
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")


def _print_version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        out(f"tfm-cli {version('tfm-cli')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Declare the options that come before a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    The exit code is 2 for a usage error, and the error class's `exit_code` for a TfmError. It is 130 after
    Ctrl-C, 143 after SIGTERM, and 1 after any other failure. If the environment variable TFM_RAISE is 1, the
    exception is raised instead.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not _open_streams():
        say(
            "tfm-cli: stdout must be open, because tfm writes results to stdout: remove >&-, or use "
            ">/dev/null"
        )
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that partial files go
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    named = argv[0] if argv and argv[0] in COMMANDS else None
    try:
        app = application(COMMANDS if named is None else [named])
        code = app(argv or ["--help"], prog_name="tfm-cli", standalone_mode=False)
        if code == INTERRUPTED:  # typer gives it for a KeyboardInterrupt
            return _stopped()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _stopped()
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a Rust panic is no Exception
        if os.environ.get("TFM_RAISE") == "1":
            raise
        code, message = _explain(error)
        say(f"tfm-cli: {message}")
        return code
    finally:
        LINE.end()


def _stopped() -> int:
    """Print that Ctrl-C has ended the command, so that the user sees that nothing goes on."""
    if sys.stderr.isatty():
        say()  # the terminal shows ^C behind what there was of a text
    say("tfm-cli: stopped")
    return INTERRUPTED


def _open_streams() -> bool:
    """Connect closed standard streams to /dev/null, and return False if stdout was closed.

    Otherwise the next file that is opened would get the number of the closed stream, and would receive what
    is written to this stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
    return sys.stdout is not None


def _explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code of a failure and its message."""
    package = error.name.split(".")[0] if isinstance(error, ImportError) and error.name else ""
    match error:
        case TfmError():
            return error.exit_code, with_flags(str(error)) + _removal(error)
        case TyperException():
            return error.exit_code, with_flags(explain(error, lambda: typer.main.get_group(application())))
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return ExportError.exit_code, f"the disk is full: {error}: free disk space"
        case OSError():
            return 1, str(error)
        case ImportError() if package in EXPORT_PACKAGES:
            return 1, f"this command needs {error.name}: pip install 'tfm-cli[export]'"
        case ImportError() if package in SERVE_PACKAGES:
            return 1, f"this command needs {error.name}: pip install 'tfm-cli[serve]'"
        case ImportError() if package in RAY_PACKAGES:
            return 1, f"this command needs {error.name}: pip install 'tfm-cli[ray]'"
        case ImportError() if package == "matplotlib":
            return 1, "a picture needs matplotlib: pip install 'tfm-cli[plot]'"
        case _:
            return 1, f"unexpected {type(error).__name__}: {error!s:.300} (TFM_RAISE=1 shows where)"


def _removal(error: TfmError) -> str:
    """Return the advice to remove a damaged file if the error is about a file in the cache, or otherwise an
    empty text.
    """
    if not isinstance(error, CheckpointError | BundleError | NumericError):
        return ""
    from ..runtime.hub.cache_dir import entry_in

    if (entry := entry_in(str(error))) is None:
        return ""
    return (
        f"; the file is in the cache: remove the file with `tfm-cli models --remove {entry}`, and the next "
        "run downloads the file again"
    )


if __name__ == "__main__":
    sys.exit(main())
