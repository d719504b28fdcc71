"""The program that compiles formal languages and says at each step of a text which tokens may follow.
`LanguageProcess` runs it.

The library's time and memory can grow exponentially with the size of a language. This can happen even at a
single step of a text, where the library's own limits don't apply. So the kernel ends a process that exceeds
its limits. The first process reads the tokenizer, and forks a process for each language. A language's process
compiles the language, and forks a process for each text. A fork costs about a millisecond, and a hostile
language can't affect the processes of others. The program imports nothing of tfm, so that it starts in a few
hundredths of a second.

Requests and answers are sent over a socket, each preceded by its length. A step of a text has two answers.
The first is the state of the text. The second is the mask of tokens that may follow, which is computed while
the model computes its own step.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from typing import Any

# A fifth of the library's own: `(a{1000}){1000}` ends in an error after 40 MB, not 250.
FUEL = 200_000
LENGTH = struct.Struct("=I")
STEP = struct.Struct("=II")  # tokens that are taken back, tokens that follow
# Last in a schema, which may have options of its own: with `lenient` keywords would be ignored.
JSON_OPTIONS: dict[str, Any] = {
    "lenient": False,
    "coerce_one_of": False,
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
}
FAILED, OPEN, COMPLETE = b"\0", b"\1", b"\2"  # how an answer to a step begins; then the reason, or the mask


def send(connection: socket.socket, message: bytes) -> None:
    """Send a request or an answer, preceded by its length in bytes."""
    connection.sendall(LENGTH.pack(len(message)) + message)


def receive(connection: socket.socket) -> bytes | None:
    """Receive the next request or answer. Returns None if the other side has closed the socket."""
    head = _exactly(connection, LENGTH.size)
    return None if head is None else _exactly(connection, LENGTH.unpack(head)[0])


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            return None
        received += part
    return bytes(received)


def follow(connection: socket.socket, settings: dict[str, Any]) -> None:
    """Run the first process: read the tokenizer, then fork a process for each language. This function never
    returns.
    """
    import resource  # no system without it runs this

    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # how the kernel ends a process after its time
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that ended
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import llguidance

    tokenizer, error = None, ""
    try:
        if settings["tokenizer"] is not None:
            tokenizer = llguidance.LLTokenizer(
                settings["tokenizer"], n_vocab=settings["vocabulary"], eos_token=settings["stop_ids"]
            )
    except BaseException as failure:  # a Rust panic is no Exception
        error = str(failure)
    send(connection, json.dumps({"error": error}).encode())
    connection = _copied(connection)
    _compile(connection, tokenizer, settings)


def _copied(connection: socket.socket) -> socket.socket:
    """Fork this process for each socket that is received over the connection.

    The function returns only in the forked processes, and returns the received socket.
    """
    while True:
        _, sockets, _, _ = socket.recv_fds(connection, 1, 1)
        if not sockets:
            os._exit(0)
        if os.fork() == 0:
            connection.close()
            return socket.socket(fileno=sockets[0])
        os.close(sockets[0])


def _compile(connection: socket.socket, tokenizer: Any, settings: dict[str, Any]) -> None:
    """Run the process of a language: compile the language, fork a process for each text, and answer the
    text's steps.
    """
    request = receive(connection)
    if request is None:
        os._exit(0)
    if settings["limits_memory"]:
        _limit_memory(settings["memory"])
    signal.setitimer(signal.ITIMER_PROF, settings["compile_s"])
    try:
        kind, text, inner = json.loads(request)
        matcher = _compiled(kind, text, inner, tokenizer)
    except (ValueError, TypeError, RecursionError) as error:
        send(connection, json.dumps({"error": str(error) or "it is too deep"}).encode())
        os._exit(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    send(connection, b"{}")
    connection = _copied(connection)
    while (request := receive(connection)) is not None:
        signal.setitimer(signal.ITIMER_PROF, settings["step_s"])
        _consume(matcher, request)
        if _sent(connection, matcher):
            _sent(connection, matcher, matcher.compute_bitmask())
        signal.setitimer(signal.ITIMER_PROF, 0)
    os._exit(0)


def _compiled(kind: str, text: str, inner: Any, tokenizer: Any) -> Any:
    """Return the library's matcher for a language, or None without a tokenizer.

    `inner` is the kind and the text of the language that `@text` means. Raises ValueError for a language that
    the library doesn't fully support.
    """
    import llguidance

    if kind == "json_schema":
        options: Any = JSON_OPTIONS
        grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options)
    elif inner is not None:
        own = llguidance.grammar_from(*inner)
        (named,) = json.loads(own)["grammars"] if inner[0] == "regex" else [{"lark_grammar": own}]
        grammar = json.dumps({"grammars": [{"lark_grammar": text}, {**named, "name": "text"}]})
    else:
        grammar = llguidance.grammar_from("regex" if kind == "regex" else "grammar", text)
    failed, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    # A user's grammar may name no token, which is what warnings are of: no text has one.
    if failed or (messages and kind in ("regex", "grammar")):
        raise ValueError(messages[0])
    if tokenizer is None:
        return None
    limits = llguidance.LLParserLimits(initial_lexer_fuel=FUEL, verbose_errors=False)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()  # finds what matches nothing
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return matcher


def _consume(matcher: Any, request: bytes) -> None:
    back, count = STEP.unpack_from(request)
    if back:
        matcher.rollback(back)
    if count:
        matcher.consume_tokens([*struct.unpack_from(f"={count}I", request, STEP.size)])


def _sent(connection: socket.socket, matcher: Any, mask: bytes = b"") -> bool:
    """Send the state of the text, with the mask if one is given, or the error.

    Returns whether the matcher still follows the text.
    """
    failed = matcher.is_error()
    state = COMPLETE if matcher.is_stopped() else OPEN
    try:
        send(connection, FAILED + matcher.get_error().encode() if failed else state + mask)
    except ConnectionError:  # its text has ended, and waits for no mask
        os._exit(0)
    return not failed


def _limit_memory(more: int) -> None:
    """Allow at most `more` bytes of address space beyond the present size. A lower limit from before
    stays.
    """
    import resource

    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize() + more
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (size if most == resource.RLIM_INFINITY else min(size, most), most)
    )


if __name__ == "__main__":
    sys.path += sys.argv[1:]
    stdin = socket.socket(fileno=0)
    first = receive(stdin)
    if first is not None:
        follow(stdin, json.loads(first))
