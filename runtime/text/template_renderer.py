"""The program that renders chat templates. `TemplateProcess` runs it as a child process.

Each line of stdin is a request, and each line of stdout is its answer, both in JSON. Jinja's sandbox renders
the templates, set up as in transformers. Templates can still crash, hang or fill memory, so the kernel ends
the process if a request exceeds its limits. Even if a template escaped from the sandbox, it could open no
file, no socket and no other process. The program imports nothing of tfm, so that it starts in a tenth of a
second.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":
    sys.path += sys.argv[2:]  # where Jinja is; `site`, which would know, is slow to start

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

KEPT = 200  # characters of an error's text
# What Jinja imports where it first needs it.
LATE = ("encodings.unicode_escape", "html", "jinja2.constants", "jinja2.debug", "pprint", "textwrap")
REFUSED = frozenset({"ctypes", "import", "open", "os", "socket", "subprocess"})  # beginnings of audit events


def serve(limits_memory: bool) -> None:
    """Answer requests until stdin ends. The first line of output is the answer to an empty template."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    mapped = _memory_reader() if limits_memory else int
    close_doors()
    compiled = functools.lru_cache(maxsize=4)(environment().from_string)
    _write(render(compiled, {"template": "", "variables": {}, "output": 0}))
    began_with = mapped()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if limits_memory:
            _limit_memory(began_with + request["memory"])
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])  # SIGPROF ends the process
        answer = render(compiled, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        # What a template leaves behind, such as much compiled code, the next request couldn't have.
        leaked = mapped() > began_with + request["memory"] // 4
        _write(answer | {"last": leaked})


def close_doors() -> None:
    """Forbid this process to open files, sockets and other processes from now on."""
    for name in LATE:
        importlib.import_module(name)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if event.partition(".")[0] in REFUSED:
        raise PermissionError(f"a chat template must not use {event}")


def render(compiled: Callable[[str], Any], request: dict[str, Any]) -> dict[str, Any]:
    """Render a template. Return its `text`, or the `length` of a text that is too long, or the `error` that
    occurred."""
    try:
        text = compiled(request["template"]).render(request["variables"])
        text.encode()  # a template can write half of a surrogate pair
    except MemoryError:
        os.abort()
    except BaseException as error:
        where = (
            f"the template has a syntax error in its line {error.lineno}: "
            if isinstance(error, TemplateSyntaxError)
            else ""
        )
        return {"error": where + (" ".join(str(error)[:KEPT].split()) or type(error).__name__)}
    return {"text": text} if len(text) <= request["output"] else {"length": len(text)}


def environment() -> Environment:
    """Return Jinja's sandbox with transformers' additions for chat templates."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": PlainDict(),
        "namespace": PlainNamespace,
    }
    return made


class Generation(Extension):
    """The tag `{% generation %}`, which marks a model's answers for training. Its contents are rendered as if
    the tag weren't there.
    """

    tags = {"generation"}  # noqa: RUF012 (Jinja asks for a set)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("contents"), [], [], body).set_lineno(line)

    def contents(self, caller: Callable[[], str]) -> str:
        return caller()


class PlainNamespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, since such names give access to Python's
    internals.
    """

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names
        self, *values = args
        Namespace.__init__(self)
        for name, value in dict(*values, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: object) -> None:
        if str(name).startswith("_"):
            raise SecurityError(
                f"an attribute of a namespace must not begin with an underscore, got {name!r:.40}"
            )
        Namespace.__setitem__(self, name, value)


class PlainDict:
    """`dict` without the attributes of its type, since such attributes give access to Python's internals."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON, without escapes for HTML. This is the filter `tojson` of transformers."""
    pair = None if separators is None else (separators[0], separators[1])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)


def raise_exception(reason: object) -> str:
    """End the template with an error."""
    raise TemplateError(str(reason))


def strftime_now(format: str) -> str:
    """Return the local time as text in this format."""
    return datetime.datetime.now().strftime(format)


def _memory_reader() -> Callable[[], int]:
    """Return a function that returns the size of this process's address space in bytes. The function opens no
    file.
    """
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    return lambda: int(os.pread(statm, 100, 0).split()[0]) * resource.getpagesize()


def _limit_memory(size: int) -> None:
    """Limit this process's address space to `size` bytes. A lower limit from before stays."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (size if most == resource.RLIM_INFINITY else min(size, most), most)
    )


def _write(answer: dict[str, Any]) -> None:
    # As UTF-8: an escape takes three times the bytes.
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode(errors="replace") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(sys.argv[1] == "True")
