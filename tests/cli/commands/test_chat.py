"""`tfm-cli chat` at a pseudo-terminal and from a pipe, and the commands of a conversation."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from helpers.pseudo_terminal import PseudoTerminal
from helpers.refused import refused
from helpers.task_models import ModelFiles
from hypothesis import given
from hypothesis import strategies as st
from tfm.cli import chat_terminal, inputs
from tfm.cli.chat_commands import ChatCommands
from tfm.cli.chat_terminal import ChatTerminal, Wrapping, history_file, stopped_by_interrupt
from tfm.cli.commands import chat
from tfm.cli.console import escape
from tfm.refimpl.checkpoint.open import save_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ArgumentError, ExportError
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.tasks import Conversation, Model
from typer.exceptions import TyperException

# The line editor begins, and Ctrl-C is its; it ends, and what follows, but for a few bytes, is the answer.
EDITS, EDITED = "\x1b[?2004h", "\x1b[?2004l"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[;m]")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends an answer: it has no stop token, and no test reaches the end of its context."""
    path = tmp_path_factory.mktemp("models") / "endless"
    tokenizer = text_strategies.byte_level()
    config = tiny_models.llama(vocabulary=tokenizer.get_vocab_size(), layers=1, context=2**24)
    save_checkpoint(path, config, tiny_models.weights(config), tokenizer.to_str(), TEMPLATE)
    return path


def test_typed_text_and_ctrl_c_at_a_terminal(endless: Path, tmp_path: Path) -> None:
    """What is typed during an answer isn't shown in it, but waits for the next message; Ctrl-C stops the
    answer, which stays in the conversation, and not the program."""
    arguments = ("chat", "--model", endless, "--engine", "numpy", "--max-new-tokens", 2**24, "--greedy")
    with PseudoTerminal(arguments, {"TFM_HISTORY": ""}) as terminal:
        banner = terminal.wait_for("> ")
        assert all(fact in banner.replace("\r\n", "") for fact in (str(endless), "NumpyEngine", str(2**24)))
        assert "/help" in banner
        assert COLOUR.search(banner)
        terminal.press("hello\r")
        terminal.wait_for(EDITED)
        answer = terminal.wait_for_bytes(400)
        terminal.press("zqx\x1b\rjy")  # with Alt-Enter
        answer += terminal.wait_for_bytes(400)
        terminal.press("\x03")
        answer += terminal.wait_for("stopped; the partial answer stays in the conversation")
        assert "zqx" not in answer
        terminal.wait_for("jy")
        terminal.press("\r")
        terminal.wait_for(EDITED)
        terminal.wait_for_bytes(400)
        terminal.press("\x03")
        terminal.wait_for("stopped;")
        terminal.press("/undo\r")
        terminal.wait_for("removed: zqx")
        terminal.wait_for("jy")
        terminal.press("/save " + str(tmp_path / "talk.json") + "\r")
        terminal.wait_for("wrote 2 messages")
        terminal.wait_for(EDITS)
        terminal.press("half\x03")
        terminal.wait_for("Ctrl-D or /quit ends the conversation")
        terminal.press("\x04")
        assert terminal.wait_for_end() == 0
    question, stopped = json.loads((tmp_path / "talk.json").read_text())
    assert question == {"role": "user", "content": "hello"}
    assert stopped["role"] == "assistant"
    assert len(stopped["content"]) > 100
    # Lines end before words that have no room, so blanks say nothing here.
    assert "".join(escape(stopped["content"], keep="\n\t").split()) in "".join(answer.split())


def test_answers_alone_are_on_stdout_and_history_is_kept(tfm, bundle: Path, tmp_path: Path) -> None:
    from prompt_toolkit.history import FileHistory

    history = tmp_path / "state" / "history"
    history.parent.mkdir()
    FileHistory(history).store_string("from before")
    history.chmod(0o600)
    options = ("--model", bundle, "--max-new-tokens", 5, "--greedy")
    expected = tfm("chat", *options, stdin=b"from before\nagain\n").out
    environment = {"TFM_HISTORY": str(history), "NO_COLOR": "1"}
    with (
        (tmp_path / "out").open("wb") as out,
        PseudoTerminal(("chat", *options), environment, stdout=out) as terminal,
    ):
        shown = terminal.wait_for("> ")
        assert "int8, context of 16384 tokens" in shown
        terminal.press("\x1b[A")  # arrow up
        shown += terminal.wait_for("from before")
        terminal.press("\r")
        shown += terminal.wait_for("5 tokens: /set max-new-tokens")
        terminal.press("again\r")
        shown += terminal.wait_for("5 tokens: /set max-new-tokens")
        terminal.press("/set tempratur 1\r")
        shown += terminal.wait_for("tfm-cli: No such option: --tempratur")
        terminal.press("/load " + str(tmp_path / "none") + "\r")
        shown += terminal.wait_for("can't be opened")
        terminal.press("/set max-new-tokens 1\r")
        shown += terminal.wait_for("\x1b[0mmax-new-tokens 1")
        terminal.press("two\x1b\rlines\r")  # Alt-Enter
        shown += terminal.wait_for("limit of 1 tokens")
        terminal.press("/bye\r")
        assert terminal.wait_for_end() == 0
    assert not COLOUR.search(shown)
    assert (tmp_path / "out").read_bytes().decode().startswith(expected)
    assert "+two\n+lines\n" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


@pytest.mark.parametrize("leave", ["/bye", "/quit", "/exit"])
def test_lines_of_a_pipe_are_messages_and_commands_without_the_line_editor(
    tfm, bundle, monkeypatch, tmp_path, leave: str
) -> None:
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)  # its import would fail
    lines = ["/set max-new-tokens 2", " /quit", "/undo", "hi", f"/save {tmp_path / 'talk'}", leave, "more"]
    ran = tfm("chat", "--model", bundle, "--greedy", stdin="\n".join(lines).encode())
    ended = "(ended after 2 tokens)"
    told = ["max-new-tokens 2", ended, "removed:  /quit", ended, f"wrote 2 messages to {tmp_path / 'talk'}"]
    assert (ran.code, ran.err.splitlines()) == (0, told)
    assert json.loads((tmp_path / "talk").read_text())[0]["content"] == "hi"
    assert "/help" not in ran.out
    helped = tfm("chat", "--model", bundle, stdin=b"/help\n")
    assert (helped.code, helped.out, len(helped.err.splitlines()) > 5) == (0, "", True)
    tfm("chat", "--model", bundle, stdin=b"/sytem Be brief.\nhi\n").failed(2, "/system")


def test_the_model_may_be_the_argument_and_verbose_says_how_fast(tfm, bundle) -> None:
    options = ("--max-tokens", 3, "--greedy")
    expected = tfm("chat", "--model", bundle, *options, stdin=b"hi\n")
    ran = tfm("chat", bundle, *options, "--verbose", stdin=b"hi\n")
    assert (ran.code, ran.out) == (0, expected.out)
    assert re.search(r"answer: 3 tokens, [\d.]+ tokens/s", ran.err)
    assert "tokens/s" not in tfm("chat", bundle, *options, stdin=b"hi\n").err, "and not the next time"
    for model in (bundle, "smollm2-135m"):
        tfm("chat", bundle, "--model", model).failed(2, "both")


def wrapped(parts: list[str], columns: int, monkeypatch) -> str:
    """What a terminal of so many columns is shown of a text in parts."""
    monkeypatch.setenv("COLUMNS", str(columns))
    wrapping = Wrapping()
    return "".join(map(wrapping.push, parts)) + wrapping.finish()


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("the prote\nct it", 80, "the prote\nct it"),
        ("we protect it", 10, "we protect \nit"),
        ("a protecting", 10, "a \nprotecting"),
        ("a  b", 3, "a  \nb"),
        ("x unbreakable y", 6, "x \nunbreakable \ny"),
        ("- a\n\n    code", 8, "- a\n\n    code"),
        ("\ta b c", 10, "\ta \nb c"),
        ("春眠不覚暁処処", 5, "春眠\n不覚\n暁処\n処"),
        ("ab 春眠", 5, "ab 春\n眠"),
        ("", 10, ""),
    ],
)
def test_lines_end_before_words_that_have_no_room(text, columns, shown, monkeypatch) -> None:
    for parts in ([text], list(text), [text[:3], text[3:]]):
        assert wrapped(parts, columns, monkeypatch) == shown


@given(st.text(st.sampled_from("ab \n春é"), max_size=40), st.integers(2, 12), st.integers(1, 5))
def test_wrapping_adds_line_ends_where_words_have_no_room_and_nothing_else(text, columns, step) -> None:
    parts = [text[i : i + step] for i in range(0, len(text), step)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        shown = wrapped(parts, columns, monkeypatch)
    rest = iter(shown)
    assert all(c in rest for c in text), "each character, in order"
    assert shown.replace("\n", "") == text.replace("\n", "")
    for line in shown.split("\n"):
        long = any(len(word) > columns for word in line.split())
        assert long or len(line.rstrip()) + line.count("春") <= columns
    for before, after in pairwise(shown.split("\n")):
        if f"{before}\n{after}" not in text:  # an added end: what follows had no room
            word = after[:1] if after.startswith("春") else re.split("[ 春]", after)[0]
            assert len(before) + before.count("春") + len(word) + word.count("春") > columns


def test_a_held_back_word_is_shown_once_it_is_as_wide_as_a_line(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "4")
    assert Wrapping().push("a bcdefghij") == "a \nbcdefghi"


@pytest.mark.parametrize("arguments", [("chat",), ("generate", "hi"), ("generate", "hi", "--batch", 1)])
def test_variables_of_the_template(tfm, endless: Path, tmp_path: Path, arguments) -> None:
    model = Path(shutil.copytree(endless, tmp_path / "model"))
    (model / "chat_template.jinja").write_text("{{ raise_exception('got ' ~ tone ~ tools) }}")

    stdin = b"" if "hi" in arguments else b"hi\n"

    def said(text: str) -> Any:
        return tfm(
            *arguments, "--model", model, "--engine", "numpy", "--chat-template-kwargs", text, stdin=stdin
        )

    said('{"tone": "low "}').failed(3, "low", "None")
    for wrong in ('{"tune": "low"}', '{"tools": []}', '["tone"]', '{"tone"', '{"tone": 1, "tone": 2}'):
        said(wrong).failed(2, "--chat-template-kwargs")


def test_a_prefix_is_kept_for_another_chat(tfm, bundle: Path, tmp_path: Path, monkeypatch) -> None:
    """The system message is read once, in the first chat; whatever follows it may be another message."""
    read: list[int] = []
    step = OrtEngine.step

    def counted(engine: OrtEngine, tokens: np.ndarray, *rest: Any, **named: Any) -> Any:
        read.append(tokens.size)
        return step(engine, tokens, *rest, **named)

    monkeypatch.setattr(OrtEngine, "step", counted)
    file = tmp_path / "prefix"
    options = ("chat", "--model", bundle, "--system", "be brief " * 20, "--max-new-tokens", 4, "--greedy")
    first = tfm(*options, "--prefix", file, stdin=b"one\ntwo\n")
    content = file.read_bytes()
    assert (first.code, stat.S_IMODE(file.stat().st_mode), max(read) > 100) == (0, 0o600, True)
    read.clear()
    assert tfm(*options, "--prefix", file, stdin=b"one\ntwo\n").out == first.out
    assert tfm(*options, "--prefix", file, stdin=b"another\n").code == 0
    assert max(read) < 100
    assert file.read_bytes() == content
    file.write_bytes(b"another file")
    tfm(*options, "--prefix", file, stdin=b"one\n").failed(2, file, "`--prefix`")


def test_lines_that_arent_utf8_or_have_no_end_are_refused(tfm, bundle, monkeypatch) -> None:
    """What comes before such a line is answered."""
    options = ("chat", "--model", bundle, "--max-new-tokens", 2, "--greedy")
    refused = tfm(*options, stdin=b"one\n\xff\xfe\n")
    assert (refused.code, refused.out) == (2, tfm(*options, stdin=b"one\n").out)
    assert re.search("line 2 .*UTF-8", refused.err)
    monkeypatch.setattr(inputs, "PROMPT", 9)
    assert tfm(*options, stdin=b"123456789\n").code == 9
    assert tfm(*options, stdin=b"12345678\n").code == 0


CONFIG = tiny_models.llama(vocabulary=text_strategies.byte_level().get_vocab_size(), context=512, layers=1)
MODEL = Model(
    NumpyEngine(CONFIG, tiny_models.weights(CONFIG)),
    ModelFiles(text_strategies.byte_level().to_str(), TEMPLATE),
)
LIMIT = {"max_new_tokens": 4, "greedy": True}
NONE = r"\b(no|not|none|nothing)\b"


@pytest.fixture
def commands() -> ChatCommands:
    """The commands on a conversation with a system message and one answer."""
    conversation = Conversation(MODEL, "be brief")
    str(conversation.say("one", **LIMIT))
    return ChatCommands(conversation, {}, chat.command)


def contents(commands: ChatCommands) -> list[str]:
    return [message["content"] for message in commands.conversation.messages]


def test_commands_change_the_conversation(commands: ChatCommands) -> None:
    first = contents(commands)
    assert first[:2] == ["be brief", "one"]
    str(commands.conversation.say("two", **LIMIT))
    assert commands.run("/undo") == "removed: two"
    assert contents(commands) == first
    assert re.search(r"system .*\bset\b", told := commands.run("/system be kind"))
    assert not re.search(NONE, told)
    assert contents(commands) == ["be kind", *first[1:]]
    assert re.search("removed .*system .*: be kind$", commands.run("/system"))
    assert contents(commands) == first[1:]
    assert re.search(f"{NONE}.* system ", commands.run("/system"))
    commands.run("/system  be brief ")
    assert contents(commands) == first
    kept_system = commands.run("/clear")
    assert contents(commands) == ["be brief"]
    assert re.search(NONE, commands.run("/undo"))
    assert contents(commands) == ["be brief"]
    commands.run("/system")
    forgotten = commands.run("/clear")
    assert contents(commands) == []
    assert ["system" in told for told in (kept_system, forgotten)] == [True, False]
    assert all(re.search("(forgot|removed) .*conversation", told) for told in (kept_system, forgotten))


def test_help_names_every_command(commands: ChatCommands) -> None:
    named = set(re.findall(r"/([a-z]+)", commands.run("/help")))
    assert named == {"help", "system", "clear", "save", "load", "undo", "set", "quit", "exit", "bye"}


def test_a_conversation_is_saved_and_loaded(commands: ChatCommands, tmp_path, monkeypatch) -> None:
    before, path = list(commands.conversation.messages), tmp_path / "my talk.json"
    assert commands.run(f"/save {path}") == f"wrote 3 messages to {path}"
    with refused(ExportError, "exists", "--overwrite"):
        commands.run(f"/save {path}")
    commands.run("/clear")
    assert commands.run(f"/load {path}") == "read 3 messages"
    assert commands.conversation.messages == before
    commands.run("/undo")
    commands.run(f"/save --overwrite {path}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert commands.run("/load ~/my talk.json") == "read 1 messages"
    path.write_text('[{"role": "user"}]')
    with refused(ArgumentError, "message", "0"):
        commands.run(f"/load {path}")
    assert contents(commands) == ["be brief"]


def test_set_takes_the_options_of_the_command_line(commands: ChatCommands) -> None:
    assert re.search(f"{NONE}.* option", commands.run("/set"))
    assert commands.run("/set temperature 0.5") == "temperature 0.5"
    assert commands.run("/set --top-k 4") == "top-k 4"
    assert commands.run("/set stop 'the end' --stop x") == "stop 'the end' x"
    assert commands.options.get("temperature") == 0.5
    assert list(commands.options.get("stop")) == ["the end", "x"]
    assert commands.run("/set").splitlines() == ["temperature 0.5", "top-k 4", "stop 'the end' x"]
    for name in ("temperature", "top-k", "stop"):
        assert commands.run(f"/set {name} default").startswith(name)
    assert not any(commands.options.values())
    assert commands.run("/set greedy") == "greedy True"
    commands.run("/set greedy default")
    assert commands.options.get("greedy") is False


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("temperature hot", ("--temperature", "hot")),
        ("temperature", ("--temperature",)),
        ("tempratur 1", ("--tempratur", "1")),
        ("top-p 2", ("--top-p", "2")),
        ("seed -1", ("--seed", "-1")),
        ("temperature 1 --greedy", ("--temperature", "1", "--greedy")),
    ],
)
def test_set_fails_as_the_command_line_does(tfm, commands: ChatCommands, words: str, flags) -> None:
    with pytest.raises(TyperException) as caught:
        commands.run(f"/set {words}")
    assert tfm("chat", *flags).err == f"tfm-cli: {caught.value.format_message()}\n"
    assert commands.options == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/sav x", "unknown command /sav: did you mean /save?"),
        ("/etc/passwd", "unknown command /etc/passwd: /help lists the commands (to send this"),
        ("/qiut", "did you mean /quit?"),
        ("/undo 2", "/clear and /undo take no argument, got '2'"),
        ("/clear all", "/clear and /undo take no argument, got 'all'"),
        ("/save", "/save and /load need the name of a file"),
        ("/load", "/save and /load need the name of a file"),
        ("/set model x", "model isn't an option that /set can change"),
        ("/set temperature 1 2", "unexpected extra argument"),
        ("/set nothing default", "nothing isn't an option that /set can change"),
        ("/set --help", "No such option: --help"),
        ("/set stop 'x", "No closing quotation"),
    ],
)
def test_wrong_commands_say_so(commands: ChatCommands, line: str, words: str) -> None:
    with pytest.raises(TyperException) as caught:
        commands.run(line)
    assert words in caught.value.format_message()
    assert (contents(commands)[:2], commands.options) == (["be brief", "one"], {})


def test_a_second_ctrl_c_gives_the_answer_up() -> None:
    talk, before = Conversation(MODEL), signal.getsignal(signal.SIGINT)

    answer = talk.say("one", **LIMIT)
    with stopped_by_interrupt(answer) as stopped:
        assert stopped == []
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped == [True]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(str(answer)) >= 1
    assert len(answer.tokens) == 1


def test_history_has_a_place_and_an_off_switch(tfm, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.delenv("TFM_HISTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert history_file() == tmp_path / "tfm" / "chat_history"
    monkeypatch.setenv("TFM_HISTORY", "")
    assert history_file() is None
    monkeypatch.setenv("TFM_HISTORY", str(tmp_path / "mine"))
    assert history_file() == tmp_path / "mine"
    ChatTerminal(tmp_path / "new" / "history")
    assert stat.S_IMODE((tmp_path / "new" / "history").stat().st_mode) == 0o600
    assert capsys.readouterr().err == ""
    ChatTerminal(tmp_path / "mine" / "history" if (tmp_path / "mine").write_text("a file") else None)
    assert str(tmp_path / "mine" / "history") in capsys.readouterr().err


def test_a_line_editor_needs_a_terminal_on_stdin_and_stderr(monkeypatch) -> None:
    class Stream:
        def __init__(self, terminal: bool) -> None:
            self.isatty = lambda: terminal

    for stdin, stderr, term, expected in (
        (True, True, "xterm", True),
        (False, True, "xterm", False),
        (True, False, "xterm", False),
        (True, True, "dumb", False),
    ):
        monkeypatch.setattr(chat_terminal.sys, "stdin", Stream(stdin))
        monkeypatch.setattr(chat_terminal.sys, "stderr", Stream(stderr))
        monkeypatch.setenv("TERM", term)
        assert chat_terminal.is_interactive() is expected


def test_a_full_context_is_told_from_a_limit() -> None:
    class Answer:
        tokens, max_new_tokens = (1, 2), 5

    answer: Any = Answer()
    assert "/clear" in chat.cut(answer)
    answer.max_new_tokens = 2
    assert "/set max-new-tokens" in chat.cut(answer)
