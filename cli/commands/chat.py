"""`tfm-cli chat`: a conversation, line by line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from .. import options as o
from ..console import generated, out, say

GROUP = "Write texts"


def command(
    model: o.Model = "smollm2-135m",
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system message, which the model reads first.")
    ] = None,
    engine: o.Engine = "onnx",
    quant: o.Quantization = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    greedy: o.Greedy = False,
    temperature: o.Temperature = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    min_p: o.MinP = None,
    repetition_penalty: o.RepetitionPenalty = None,
    max_new_tokens: o.MaxNewTokens = None,
    seed: o.Seed = 0,
    stop: o.Stop = None,
    no_escape: o.NoEscape = False,
) -> None:
    """Talk with a model: each line is a message, the end of input (Ctrl-D) ends the conversation.

    A model whose files don't say how tokens are chosen samples as `tfm-cli generate --help` says.

    Example: tfm-cli chat --system "Answer in one sentence."
    """
    from ...runtime.text import template_process

    template_process.SHARED.start()  # it becomes ready while the rest is imported
    options = o.checked(
        greedy=greedy, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens, seed=seed, stop=tuple(stop or ()),
    )  # fmt: skip
    from ...runtime.tasks import Conversation
    from ..model_loading import load

    choice = o.adapter_choice(adapter, no_adapter)
    loaded = load(model, engine, quant, device, threads, task="chat", adapter=choice)
    conversation = Conversation(loaded, system)
    for message in messages():
        answer = conversation.say(message, **options)
        for part in answer:
            out(generated(part, no_escape), end="")
        out()
        if answer.finish_reason == "length":
            say(f"(ended after {len(answer.tokens)} tokens)")


def messages() -> Iterator[str]:
    """The lines of stdin that aren't blank; at a terminal with a prompt and line editing."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        return
    with contextlib.suppress(ImportError):  # its import gives input() line editing; Windows has its own
        import readline  # noqa: F401
    while True:
        try:
            line = input("> ")
        except EOFError:
            return
        if line.strip():
            yield line
