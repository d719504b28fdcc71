"""The commands of a chat that begin with a slash."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..refimpl.decoding.options import TextOptions, options
from .options import CONTEXT, checked

if TYPE_CHECKING:
    from ..runtime.tasks import Conversation, GenerateOptions
    from ..runtime.text.chat_template import Message

LEAVE = ("/quit", "/exit", "/bye")
HELP = """\
/system TEXT      set the system message, which the model reads first; without TEXT, remove it
/clear            forget the conversation, except the system message
/undo             remove the last message and its answer
/set NAME VALUE   set an option by its command-line name, for example: /set temperature 0.7
/set NAME default use the model's own value again; /set alone lists what you set
/save FILE        write the conversation as JSON; /save --overwrite FILE replaces FILE
/load FILE        continue the conversation in FILE
/help             show this text
/quit             leave the chat; /exit, /bye and Ctrl-D do the same
Enter sends the message. Alt-Enter begins a new line. The up arrow brings back earlier messages.
Ctrl-C stops an answer; the conversation keeps what was already written.
To send a message that begins with a slash, type a space before the slash."""


class ChatCommands:
    """A chat's conversation, the options of its answers, and the slash commands that change both.

    The typer options of the function `command` declare the options of generation. `options` contains their
    values.
    """

    def __init__(
        self, conversation: Conversation, options: GenerateOptions, command: Callable[..., None]
    ) -> None:
        self.conversation, self.options = conversation, options
        app = typer.Typer(add_completion=False)
        app.command(add_help_option=False, context_settings=CONTEXT)(command)
        self._declared: Any = typer.main.get_command(app)
        self._declared.params = [one for one in self._declared.params if one.param_type_name == "option"]
        self._commands: Mapping[str, Callable[[str], str]] = {
            "help": lambda _: HELP,
            "system": self.system,
            "clear": self.clear,
            "undo": self.undo,
            "set": self.set,
            "save": self.save,
            "load": self.load,
        }

    def run(self, line: str) -> str:
        """Run a line that begins with a slash, and return the text to show to the person.

        Raises TfmError or typer's usage errors. After an error, nothing has changed.
        """
        name, _, rest = line.removeprefix("/").partition(" ")
        if name not in self._commands:
            near = difflib.get_close_matches(name, [*self._commands, *(one[1:] for one in LEAVE)], 1)
            advice = f"did you mean /{near[0]}?" if near else "/help lists the commands"
            raise typer.BadParameter(
                f"unknown command /{name:.60}: {advice} (to send this as a message, type a space before "
                "the slash)"
            )
        return self._commands[name](rest.strip())

    def system(self, text: str) -> str:
        before, rest = self._parted()
        self.conversation.replace([*([{"role": "system", "content": text}] if text else []), *rest])
        if text:
            return "the system message is set"
        return f"removed the system message: {before[0]['content']}" if before else "no system message is set"

    def clear(self, rest: str) -> str:
        _none(rest)
        system, _ = self._parted()
        self.conversation.replace(system)
        return "forgot the conversation" + (", except the system message" if system else "")

    def undo(self, rest: str) -> str:
        _none(rest)
        system, messages = self._parted()
        asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
        if not asked:
            return "there is no message to remove"
        self.conversation.replace([*system, *messages[: asked[-1]]])
        return f"removed: {messages[asked[-1]]['content']}"

    def set(self, rest: str) -> str:
        try:
            name, *values = shlex.split(rest) or [""]
        except ValueError as error:
            raise typer.BadParameter(f"/set {rest:.60}: {error}") from None
        if not name:
            return self._shown(self.options) or "you set no option, so every option has the model's own value"
        flag = f"--{name.removeprefix('--')}"
        if values == ["default"]:
            defaults = self._declared.make_context("/set", []).params
            given = {one.name: defaults[one.name] for one in self._declared.params if flag in one.opts}
        else:
            context = self._declared.make_context("/set", [flag, *values])
            sources = {name: context.get_parameter_source(name).name for name in context.params}
            given = {name: value for name, value in context.params.items() if sources[name] == "COMMANDLINE"}
        if not given or given.keys() - options(TextOptions).keys():
            raise typer.BadParameter(f"{flag.removeprefix('--'):.60} isn't an option that /set can change")
        changed: Any = {**self.options, **given}
        self.options = checked(changed)
        return self._shown(given) or f"{name} has the model's own value again"

    def save(self, rest: str) -> str:
        from ..runtime.text.messages_file import write_messages

        path = _path(rest.removeprefix("--overwrite ").strip())
        write_messages(path, self.conversation.messages, overwrite=rest.startswith("--overwrite "))
        return f"wrote {len(self.conversation.messages)} messages to {path}"

    def load(self, rest: str) -> str:
        from ..runtime.text.messages_file import read_messages

        messages = read_messages(_path(rest))
        self.conversation.replace(messages)
        return f"read {len(messages)} messages"

    def _parted(self) -> tuple[list[Message], list[Message]]:
        """Return the system message, if the conversation has one, and the other messages."""
        messages = self.conversation.messages
        count = int(bool(messages) and messages[0]["role"] == "system")
        return messages[:count], messages[count:]

    @staticmethod
    def _shown(options: Mapping[str, Any]) -> str:
        """Return the options that are set, one per line, named as on the command line."""
        return "\n".join(
            f"{name.replace('_', '-')} {shlex.join(value) if isinstance(value, Sequence) else value}"
            for name, value in options.items()
            if value is not None and value is not False and value not in ((), [])
        )


def _none(rest: str) -> None:
    """Raise a usage error if a command that takes no argument has one."""
    if rest:
        raise typer.BadParameter(f"/clear and /undo take no argument, got {rest!r:.60}")


def _path(text: str) -> Path:
    """Return the file that a command names."""
    if not text:
        raise typer.BadParameter("/save and /load need the name of a file: write it after the command")
    return Path(text).expanduser()
