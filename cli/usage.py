"""Write the messages of usage errors.

A message is typer's own, or it shows how to write the command, which command has the option, or where to find
help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from typer import Context
from typer.core import TyperArgument, TyperGroup
from typer.exceptions import TyperException

NAMED = 4  # commands that a message lists; the others are counted
EXTRA = "unexpected extra argument"  # typer has no class of its own for it
# What other programs call a command of ours.
ALSO = {
    "run": "chat", "list": "models", "ls": "models", "ps": "models", "show": "inspect",
    "rm": "models --remove NAME", "quantize": "export", "version": "--version",
}  # fmt: skip
# What llama.cpp's programs call options of ours.
ALSO_OPTIONS = {
    "--n-predict": "--max-new-tokens", "--repeat-penalty": "--repetition-penalty", "--parallel": "--slots",
    "--temp": "--temperature",
}  # fmt: skip
MODEL_FLAGS = ("-m", "--model")


def explain(error: TyperException, all_commands: Callable[[], TyperGroup]) -> str:
    """Return the message of a usage error.

    For an unknown option, the message names the first of these that applies: an argument that was given as an
    option, the option's name here if another program has the given name, commands that have the option,
    options with a similar name.
    """
    match error:
        case TyperException(message=message, option_name=str(option), ctx=context, possibilities=similar):
            if option.removeprefix("--").upper() in _arguments(context):
                return f"{message} (it isn't an option but an argument: {_form(context)})"
            if option in MODEL_FLAGS and any("MODEL" in one for one in _arguments(context)):
                return f"{message} (the model isn't an option but an argument: {_form(context)})"
            if (meant := ALSO_OPTIONS.get(option)) and meant in _taken(context):
                return f"{message} (did you mean {meant}?)"
            if owners := [name for name, flags in _flags(all_commands()) if option in flags]:
                return f"{message} ({option} is an option of {_listed(owners)})"
            if not similar:
                return f"{message} (`{context.command_path} --help` lists the options)"
        case TyperException(  # it is missing
            param_type=_,
            param=object(help=str(what), name=str(name), opts=[str(flag), *_], metavar=metavar),
            ctx=context,
        ):
            option = (flag, str(metavar or name.upper())) if flag.startswith("-") else ()
            return f"{error.format_message()} {what.rstrip('.')}: {_form(context, *option)}"
        case TyperException(message=message, ctx=context) if EXTRA in message:
            form = f"write {_form(context)}"
            if "--model" in _taken(context) and "MODEL" not in form:
                example = _form(context, "--model", "MODEL")
                form = f"put the text in quotes, and give the model with --model: {example}"
            return f"{message} ({form})"
        case TyperException(ctx=object(command=TyperGroup(commands=commands), command_path=path)):
            listed = _listed(sorted(commands))
            if len(commands) > NAMED:
                listed = f"`{path} --help` lists the commands"
                meant = [own for name, own in ALSO.items() if f"'{name}'" in error.format_message()]
                listed = "".join(f"did you mean `{path} {own}`? " for own in meant) + listed
            return f"{error.format_message()} ({listed})"
    return error.format_message()


def _flags(group: TyperGroup, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield each command and subcommand with its flags."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, TyperGroup):
            yield from _flags(command, f"{prefix}{name} ")
        else:
            yield prefix + name, {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}


def _taken(context: Context) -> set[str]:
    """Return the flags that a command takes."""
    return {flag for param in context.command.params for flag in param.opts}


def _arguments(context: Context) -> list[str]:
    """Return the names of a command's arguments, as the command's help page writes them."""
    params = context.command.params
    return [one.human_readable_name.upper() for one in params if isinstance(one, TyperArgument)]


def _form(context: Context, *option: str) -> str:
    """Return the command line of a command with its arguments and the given option."""
    return f"`{' '.join((context.command_path, *_arguments(context), *option))}`"


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
