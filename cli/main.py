"""`tfm-cli`: the commands, and how every failure leaves: one line on stderr and its class's exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ..refimpl.errors import ExportError, TfmError
from .commands import (
    answer,
    attention,
    bench,
    chat,
    classify,
    context,
    doctor,
    embed,
    export,
    fill,
    generate,
    inspect,
    models,
    pull,
    scaling,
    summarize,
    tag,
    tokenizer,
    translate,
    verify,
)
from .console import escape, out

app = typer.Typer(
    name="tfm-cli",
    help="From a transformer checkpoint to a fast ONNX model, checked against a NumPy specification.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    generate,
    chat,
    classify,
    tag,
    fill,
    embed,
    answer,
    translate,
    summarize,
    export,
    verify,
    inspect,
    pull,
    models,
    doctor,
    bench,
    attention,
    context,
    scaling,
):
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(tokenizer.app, name="tokenizer")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out(f"tfm-cli {version('tfm-cli')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options that come before a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; answers the exit code.

    Usage 2, TfmError its class's code, Ctrl-C 130, SIGTERM 143, anything else 1. With TFM_RAISE=1
    every exception is shown whole.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that partial files go
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        code = app(given or ["--help"], prog_name="tfm-cli", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a Rust panic is no Exception
        if os.environ.get("TFM_RAISE") == "1":
            raise
        code, message = _explain(error)
        if message:
            typer.echo(escape(f"tfm-cli: {message}"), err=True)
        return code


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit code of a failure and its line."""
    match error:
        case TfmError():
            return error.exit_code, str(error)
        case TyperException():
            return error.exit_code, error.format_message()
        case KeyboardInterrupt():
            return 130, ""
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return ExportError.exit_code, f"the disk must have room: {error}"
        case OSError():
            return 1, str(error)
        case ImportError() if error.name and error.name.split(".")[0] in (
            "torch",
            "onnx",
            "onnx_ir",
            "onnxscript",
        ):
            return 1, f"this needs {error.name}: pip install 'tfm-cli[export]'"
        case ImportError() if error.name and error.name.split(".")[0] == "matplotlib":
            return 1, "a picture needs matplotlib: pip install 'tfm-cli[plot]'"
        case _:
            return 1, f"unexpected {type(error).__name__}: {error!s:.300} (TFM_RAISE=1 shows where)"


if __name__ == "__main__":
    sys.exit(main())
