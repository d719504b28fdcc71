"""The program that renders chat templates: `TemplateProcess` runs it in a process of its own.

Each line of stdin is a request and each line of stdout its answer, both JSON. A template can crash, hang or
fill memory inside minijinja, where nothing counts its work, so the kernel ends the process once a request
takes more than it may. Nothing of tfm is imported, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any

KEPT = 200  # characters of an error's text


def serve(limits_memory: bool) -> None:
    """Answer requests until stdin ends; the first line out is the answer to an empty template."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _write(render({"template": "", "variables": {}, "fuel": 1, "output": 0}))
    began_with = _mapped() if limits_memory else 0
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if limits_memory:
            _limit_memory(began_with + request["memory"])
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])  # SIGPROF ends the process
        answer = render(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        # What a template leaks, such as a namespace that holds itself, the next request couldn't have.
        leaked = limits_memory and _mapped() > began_with + request["memory"] // 4
        _write(answer | {"last": leaked})


def render(request: dict[str, Any]) -> dict[str, Any]:
    """The `text` of a template, the `length` of one that is too long, or the `error` that it ended in."""
    reasons: list[str] = []

    def raise_exception(reason: object) -> str:
        reasons.append(" ".join(str(reason)[:KEPT].split()))
        raise ValueError

    try:
        import minijinja  # in the folder that the first argument names

        environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, fuel=request["fuel"])
        environment.add_filter("tojson", tojson)
        environment.add_global("raise_exception", raise_exception)
        environment.add_global("strftime_now", strftime_now)
        text = environment.render_str(request["template"], **request["variables"])
    except MemoryError:
        os.abort()  # as Rust does where it gets no memory
    except BaseException as error:  # a Rust panic is no Exception
        lines = str(error).splitlines() or [type(error).__name__]
        return {"error": (reasons or lines)[0][:KEPT]}
    return {"text": text} if len(text) <= request["output"] else {"length": len(text)}


def tojson(
    value: object,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` of transformers, which doesn't escape for HTML."""
    pair = None if separators is None else (separators[0], separators[1])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)


def strftime_now(format: str) -> str:
    """The local time."""
    return datetime.datetime.now().strftime(format)


def _mapped() -> int:
    """Bytes of this process's address space."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _limit_memory(size: int) -> None:
    """Allow this much address space, or what was allowed before if that is less."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (size if most == resource.RLIM_INFINITY else min(size, most), most)
    )


def _write(answer: dict[str, Any]) -> None:
    # As UTF-8: an escape takes three times the bytes.
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    packages, system_limits_memory = sys.argv[1:]
    sys.path.append(packages)
    serve(system_limits_memory == "True")
