"""The child process that renders templates: hostile ones are errors, and it serves the next request."""

from __future__ import annotations

import datetime
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hostile_templates import BOMBS, CANARY, ESCAPES
from helpers.refused import refused
from tfm.refimpl.errors import ArgumentError, CheckpointError, LimitError, TfmError
from tfm.runtime.text import bounded_program, template_process
from tfm.runtime.text.template_process import LIMITS, Limits, TemplateProcess

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
BUSY = BOMBS["compared"]
FOREVER = Limits(cpu_s=60, wait_s=60)


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFM_CANARY", CANARY)
        process = TemplateProcess()
        yield process
        process.close()


@pytest.fixture
def fresh() -> Iterator[TemplateProcess]:
    process = TemplateProcess()
    yield process
    process.close()


def pid(renderer: TemplateProcess) -> int:
    assert renderer._child is not None
    return renderer._child.pid


def serves(renderer: TemplateProcess) -> bool:
    return renderer.render("{{ messages[0].content }}", MESSAGES, LIMITS) == "hi"


def ended(process: int) -> bool:
    """Whether a process ends, in a minute at most; one that nobody has waited for yet has ended too."""
    for _ in range(6000):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_an_error_and_the_next_request_is_served(renderer: TemplateProcess, name: str) -> None:
    with pytest.raises((CheckpointError, LimitError)) as caught:
        renderer.render(BOMBS[name], MESSAGES, Limits(cpu_s=0.1))
    assert len(str(caught.value)) < 300
    assert serves(renderer)


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_reaches_nothing(renderer: TemplateProcess, tmp_path: Path, name: str) -> None:
    file, new = tmp_path / "file", tmp_path / "new"
    file.write_text(CANARY)
    source = ESCAPES[name].replace("{file}", str(file)).replace("{new}", str(new))
    try:
        said = renderer.render(source, MESSAGES, LIMITS)
    except CheckpointError as error:
        said = str(error)
    assert not re.search(rf"{CANARY}|<(class|function|module|built-in)|environ\(", said)
    assert not new.exists()
    assert serves(renderer)


def test_each_limit_names_itself(renderer: TemplateProcess) -> None:
    for source, limits, reason in (
        (BUSY, Limits(cpu_s=0.05), "0.05 processor"),
        (BOMBS["a wide format"], Limits(memory=64 * 2**20), "64 MB memory"),
        (BOMBS["indent of JSON"], LIMITS, "256 MB memory"),
    ):
        with refused(CheckpointError, *reason.split()):
            renderer.render(source, MESSAGES, limits)


def test_only_values_of_json_are_passed_on(renderer: TemplateProcess) -> None:
    for value in ({1, 2}, pytest, [object()]):
        with refused(ArgumentError, "JSON"):
            renderer.render("{{ x }}", {"x": value}, LIMITS)


OUTSIDE = """
import os, socket, subprocess
from tfm.runtime.text import template_renderer
template_renderer.close_doors()
"""


@pytest.mark.parametrize(
    "code",
    [
        "open('/proc/self/status')",
        "open('new', 'w')",
        "os.open('/', 0)",
        "os.listdir('.')",
        "os.remove('file')",
        "os.rename('file', 'other')",
        "os.chmod('file', 0)",
        "os.kill(os.getppid(), 0)",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.system('true')",
        "subprocess.run(['true'])",
        "os.dup(0)",
        "os.pipe()",
        "socket.socket()",
        "__import__('ctypes')",
        "__import__('this')",
    ],
)
def test_outside_of_the_sandbox_there_is_nothing(tmp_path: Path, code: str) -> None:
    """As if a template had found its way to Python: the process that renders has no doors."""
    (tmp_path / "file").write_text("")
    code = f"{OUTSIDE}\ntry:\n    {code}\nexcept OSError:\n    os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 9
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_time_is_the_users(monkeypatch: pytest.MonkeyPatch, fresh: TemplateProcess) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    zone = datetime.timezone(datetime.timedelta(hours=14))
    before = datetime.datetime.now(zone)
    said = fresh.render("{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}", {}, LIMITS)
    assert before <= datetime.datetime.fromisoformat(said).replace(tzinfo=zone) <= datetime.datetime.now(zone)


def test_an_answer_without_end_is_an_error(
    fresh: TemplateProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process that got out of hand writes takes no memory here."""
    (tmp_path / "program.py").write_text(
        """if True:
        print('{"text": ""}', flush=True)
        while True:
            print("x" * 10000, end="")"""
    )
    monkeypatch.setattr(template_process, "PROGRAM", tmp_path / "program.py")
    with refused(CheckpointError, "10096", "bytes"):
        fresh.render("", {}, Limits(output=1000))


def test_what_templates_leak_is_given_back(renderer: TemplateProcess) -> None:
    leak = "{% set ns = namespace() %}{% set ns.x = ns %}{% set ns.y = '{:>20000000}'.format('a') %}"
    assert serves(renderer)
    before = pid(renderer)
    for _ in range(5):
        assert renderer.render(leak, {}, Limits(memory=64 * 2**20)) == ""
    assert serves(renderer)
    assert pid(renderer) != before


def test_a_child_that_was_killed_is_replaced(fresh: TemplateProcess) -> None:
    fresh.start()
    fresh.start()
    before = pid(fresh)
    assert serves(fresh)
    assert serves(fresh)
    assert pid(fresh) == before
    os.kill(before, signal.SIGKILL)
    assert ended(before)
    assert serves(fresh)
    assert pid(fresh) != before


@pytest.mark.parametrize(("template", "cause"), [("x", "0.1 s"), ("x" * 2_000_000, "read 0.1 s")])
def test_a_child_that_stands_still_is_replaced(
    fresh: TemplateProcess, monkeypatch: pytest.MonkeyPatch, template: str, cause: str
) -> None:
    """A request that is longer than a pipe can't be written to it."""
    assert serves(fresh)
    monkeypatch.setenv("PATH", "")  # nobody needs `ps` here
    os.kill(pid(fresh), signal.SIGSTOP)
    with refused(CheckpointError, *cause.split()):
        fresh.render(template, {}, Limits(wait_s=0.1))
    assert serves(fresh)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_request(fresh: TemplateProcess) -> None:
    assert serves(fresh)
    before = pid(fresh)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        fresh.render(BUSY, {}, FOREVER)
    assert ended(before)
    assert serves(fresh)


def test_the_terminal_doesnt_interrupt_the_child(fresh: TemplateProcess) -> None:
    fresh.start()
    assert os.getpgid(pid(fresh)) != os.getpgid(0)


@pytest.mark.parametrize("busy", [False, True])
def test_no_child_outlives_its_parent(busy: bool) -> None:
    code = f"""if True:
        from tfm.runtime.text.template_process import SHARED, Limits
        SHARED.render("", {{}}, Limits())
        print(SHARED._child.pid, flush=True)
        SHARED.render({BUSY!r}, {{}}, Limits(cpu_s=0.5)) if {busy} else input()"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    assert ended(child)


def test_a_forked_process_has_a_child_of_its_own() -> None:
    code = """if True:
        import os
        from tfm.runtime.text.template_process import LIMITS, SHARED
        SHARED.render("", {}, LIMITS)
        before = SHARED._child.pid
        if not (forked := os.fork()):
            text = SHARED.render("fork", {}, LIMITS)
            own = SHARED._child.pid
            SHARED.close()
            os._exit(0 if text == "fork" and own != before else 1)
        assert os.waitpid(forked, 0)[1] == 0
        assert SHARED.render("parent", {}, LIMITS) == "parent"
        assert SHARED._child.pid == before"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_threads_get_their_own_answers(renderer: TemplateProcess) -> None:
    wrong: list[str] = []

    def ask(name: str) -> None:
        for _ in range(20):
            if (got := renderer.render(name * 2000, {}, LIMITS)) != name * 2000:
                wrong.append(got)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


PS = """#!/bin/sh
while read -r name value unit; do [ "$name" = VmRSS: ] && echo "$value"; done < "/proc/$4/status"
"""


def test_memory_is_looked_at_where_the_system_limits_none(
    fresh: TemplateProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ps").write_text(PS)
    (tmp_path / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(template_process, "SYSTEM_LIMITS_MEMORY", False)
    assert serves(fresh)
    with refused(CheckpointError, "32", "MB", "memory"):
        fresh.render(BOMBS["lists of strings"], {}, Limits(wait_s=600, memory=32 * 2**20))
    assert serves(fresh)
    (tmp_path / "ps").unlink()
    fresh.close()
    with refused(TfmError, "memory"):
        serves(fresh)


@pytest.mark.parametrize(
    ("module", "name", "value", "reason"),
    [
        (bounded_program, "POSIX", False, "limit"),
        (template_process, "PROGRAM", "/nowhere", "ended"),
        (sys, "executable", "/nowhere", "file"),
        (bounded_program.importlib.util, "find_spec", lambda _: None, "Jinja"),
    ],
)
def test_where_no_child_can_run(
    fresh: TemplateProcess,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    value: object,
    reason: str,
) -> None:
    monkeypatch.setattr(module, name, value)
    fresh.start()
    with refused(TfmError, reason, "raw=True"):
        serves(fresh)
