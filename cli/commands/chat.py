"""The command `tfm-cli chat`, which holds a conversation at a terminal or line by line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from .. import options as o
from ..chat_commands import LEAVE, ChatCommands
from ..chat_terminal import (
    ChatTerminal,
    Wrapping,
    history_file,
    ignored_interrupts,
    is_interactive,
    silent_keys,
    stopped_by_interrupt,
)
from ..console import generated, out, say, speed, with_calls
from ..inputs import messages, read_tools

if TYPE_CHECKING:
    from ...runtime.tasks import Conversation, GenerateOptions, Model, TextStream
    from ...runtime.text.chat_template import Message

GROUP = "Write texts"


@o.grouped
def command(
    *,
    ctx: typer.Context,
    named: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            autocompletion=o.catalogue,
            help="The model to chat with. This argument replaces --model.",
        ),
    ] = None,
    model: o.Model = "smollm2-135m",
    system: o.System = None,
    context: o.Context = None,
    running: o.Running,
    options: o.TextOptions,
    no_escape: o.NoEscape = False,
    prefix: o.Prefix = None,
    chat_template_kwargs: o.ChatTemplateKwargs = None,
    thinking_token_budget: o.ThinkingTokenBudget = None,
    tools: o.Tools = None,
) -> None:
    """Chat with a model, at a terminal or through a pipe. In the chat, /help lists the commands.

    If stdin is a pipe, each line is one message. At a terminal, the up-arrow key shows your earlier messages
    again. tfm keeps these messages in your state folder, or in the file that the environment variable
    TFM_HISTORY names. If TFM_HISTORY is empty, tfm keeps no messages.

    If the model's files don't say how to choose tokens, tfm uses the defaults in `tfm-cli generate --help`.

    Example: tfm-cli chat smollm2-135m --system "Answer in one sentence."
    """
    source = ctx.get_parameter_source("model")
    if named is not None and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("give the model as argument or as --model, not both")
    model = named or model
    from ...runtime.text import template_process

    template_process.SHARED.start()  # it becomes ready while the rest is imported
    chosen = o.checked(options, thinking_token_budget=thinking_token_budget)
    functions = None if tools is None else read_tools(tools)
    loaded = running.load(model, "chat", context)
    from ...runtime.tasks import Conversation

    conversation = Conversation(
        loaded, system, prefix=prefix, tools=functions, chat_template_kwargs=chat_template_kwargs
    )
    commands = ChatCommands(conversation, chosen, command)
    if is_interactive():
        banner = f"{model}, {describe(loaded)}, context of {loaded.config.context} tokens"
        talk(commands, banner, no_escape, verbose=running.verbose, tools=tools is not None)
        return
    turns = Turns(conversation)
    for message in messages():
        if message.rstrip() in LEAVE:
            return
        if message.startswith("/"):
            for told in commands.run(message).split("\n"):
                say(told)
            continue
        if (answer := turns.answer(message, commands.options)) is None:
            continue
        show(answer, no_escape, tools=tools is not None)
        if running.verbose:
            say(speed(answer))
        if answer.finish_reason == "length":
            say(f"(ended after {len(answer.tokens)} tokens)")
        if conversation.calls:
            say(f"({waiting(conversation.calls)})")


class Turns:
    """The turns of a person in a chat: a message or, after an answer with calls, one result for each call."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._results: list[str] = []
        self._calls: Sequence[Message] = ()  # whose results these are

    def answer(self, text: str, options: GenerateOptions) -> TextStream | None:
        """Return the model's answer to a person's text, or None while a call waits for its result."""
        calls = self._conversation.calls
        if not calls:
            return self._conversation.say(text, **options)
        if calls is not self._calls:
            self._results, self._calls = [], calls
        self._results.append(text)
        if len(self._results) < len(calls):
            return None
        return self._conversation.give_results(*self._results, **options)


def waiting(calls: Sequence[Message]) -> str:
    """Return a note that says which results of calls the person should type next."""
    names = " and ".join(call["function"]["name"] for call in calls)
    return f"next, give the result of {names}, one message for each call"


def describe(loaded: Model) -> str:
    """Return the bundle's quantization if ONNX Runtime runs the model, or otherwise the engine's name."""
    from ...runtime.ort.engine import OrtEngine

    engine = loaded.engine
    return engine.quant if isinstance(engine, OrtEngine) else type(engine).__name__


def talk(
    commands: ChatCommands, banner: str, no_escape: bool, *, verbose: bool = False, tools: bool = False
) -> None:
    """Hold a conversation at a terminal until Ctrl-D or /quit. The conversation goes on after an error."""
    from ...refimpl.errors import TfmError

    terminal, turns = ChatTerminal(history_file()), Turns(commands.conversation)
    terminal.note(f"{banner}\n/help lists the commands, Ctrl-C stops an answer, Ctrl-D or /quit leaves")
    with silent_keys(), ignored_interrupts():
        while (text := terminal.read()) is not None and text.rstrip() not in LEAVE:
            try:
                if text.startswith("/"):
                    terminal.note(commands.run(text))
                    continue
                if (answer := turns.answer(text, commands.options)) is None:
                    continue
                with stopped_by_interrupt(answer) as stopped:
                    show(answer, no_escape, wrap=sys.stdout.isatty() and not no_escape, tools=tools)
                if verbose:
                    terminal.note(speed(answer))
                if stopped:
                    terminal.note("stopped; the partial answer stays in the conversation")
                elif answer.finish_reason == "length":
                    terminal.note(cut(answer))
                if commands.conversation.calls:
                    terminal.note(waiting(commands.conversation.calls))
            except KeyboardInterrupt:
                out()
                terminal.note("cancelled; neither the answer nor your message stays in the conversation")
            except (TfmError, OSError) as error:
                terminal.error(o.with_flags(str(error)))
            except TyperException as error:
                terminal.error(error.format_message())


def show(answer: TextStream, no_escape: bool, *, wrap: bool = False, tools: bool = False) -> None:
    """Print an answer while it is generated.

    With `wrap`, lines are broken before a word that doesn't fit. With `tools`, the answer may contain calls.
    """
    wrapping = Wrapping() if wrap else None
    for part in with_calls(answer) if tools else answer:
        text = generated(part, no_escape)
        out(text if wrapping is None else wrapping.push(text), end="")
    out("" if wrapping is None else wrapping.finish())


def cut(answer: TextStream) -> str:
    """Return a note that says which limit cut the answer, and what to do about the limit."""
    count = len(answer.tokens)
    if count < answer.max_new_tokens:
        return f"the context is full after {count} tokens of the answer: /undo or /clear makes room"
    return f"the answer reached its limit of {count} tokens: /set max-new-tokens raises the limit"
