"""What a usage error says: typer's words, and what is missing, whose an option is, or where to look."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from typer.core import TyperGroup
from typer.exceptions import TyperException

NAMED = 4  # commands that a message lists; the others are counted
# What other programs call a command of ours.
ALSO = {"run": "chat", "list": "models", "ls": "models", "ps": "models", "show": "inspect"}


def explain(error: TyperException, all_commands: Callable[[], TyperGroup]) -> str:
    """The message of a usage error.

    Commands that have the option are named rather than options with a similar name.
    """
    match error:
        case TyperException(message=message, option_name=str(option), ctx=context, possibilities=similar):
            if owners := [name for name, flags in _flags(all_commands()) if option in flags]:
                return f"{message} (an option of {_listed(owners)})"
            if not similar:
                return f"{message} (`{context.command_path} --help` lists the options)"
        case TyperException(param_type=_, param=object(help=str(what))):  # it is missing
            return f"{error.format_message()} ({what.rstrip('.')})"
        case TyperException(ctx=object(command=TyperGroup(commands=commands), command_path=path)):
            listed = _listed(sorted(commands))
            if len(commands) > NAMED:
                listed = f"`{path} --help` lists the commands"
                meant = [own for name, own in ALSO.items() if f"'{name}'" in error.format_message()]
                listed = "".join(f"did you mean `{path} {own}`? " for own in meant) + listed
            return f"{error.format_message()} ({listed})"
    return error.format_message()


def _flags(group: TyperGroup, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Each command and subcommand with its flags."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, TyperGroup):
            yield from _flags(command, f"{prefix}{name} ")
        else:
            yield prefix + name, {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
