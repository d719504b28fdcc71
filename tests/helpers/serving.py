"""Tiny chat models to be served, and an engine whose steps a test lets through one by one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tfm.export.bundle_writer import export
from tfm.refimpl.checkpoint.open import Generation, open_checkpoint, save_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.serve import server as server_module
from tfm.runtime.serve.models import Server
from tfm.runtime.tasks import Model
from tokenizers import Tokenizer

from helpers import text_strategies, tiny_models
from helpers.task_models import ModelFiles

TOKENIZER = text_strategies.byte_level()
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
# Tools and calls as Qwen's and Hermes' templates have them.
TOOLS = """{%- if tools %}<|im_start|>system
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}A call is <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}
{{ m.content }}{% if m.tool_calls %}{% for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CONFIG = tiny_models.llama(vocabulary=TOKENIZER.get_vocab_size(), context=96, layers=1)
WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "dog", "didn't"]


def messages(i: int) -> list[dict[str, str]]:
    """A conversation, another one for each number."""
    return [{"role": "user", "content": " ".join(WORDS[(i * 7 + k) % len(WORDS)] for k in range(1 + i % 6))}]


def model(
    engine: Any = None,
    template: str | None = CHAT,
    eos: tuple[int, ...] = (),
    defaults: Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
    tokenizer: Tokenizer = TOKENIZER,
) -> Model:
    """A chat model with random weights, on the NumPy engine unless it gets another one."""
    engine = engine or NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed=3))
    return Model(
        engine,
        ModelFiles(
            tokenizer.to_str(),
            template,
            Generation(None, eos, dict(defaults or {}), max_new_tokens=max_new_tokens),
        ),
    )


def bundle(folder: Path, quant: str) -> Path:
    """The same model as a bundle."""
    checkpoint = folder / "model"
    save_checkpoint(checkpoint, CONFIG, tiny_models.weights(CONFIG, seed=3), TOKENIZER.to_str(), CHAT)
    export(open_checkpoint(checkpoint), folder / quant, quant=quant, verify=False)
    return folder / quant


class Gate(NumpyEngine):
    """The NumPy engine, whose every step waits for a test; `error` is raised instead of a step."""

    def __init__(self) -> None:
        super().__init__(CONFIG, tiny_models.weights(CONFIG, seed=3))
        self._allowed = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._opened = False
        self.error: Exception | None = None

    def step(self, *args: Any, **options: Any) -> Any:
        if not self._opened:
            assert self._allowed.acquire(timeout=60)
        try:
            if self.error is not None:
                raise self.error
            return super().step(*args, **options)
        finally:
            self._done.release()

    def step_through(self) -> None:
        """Let a step through, and wait until it is done."""
        self._allowed.release()
        assert self._done.acquire(timeout=60)

    def open(self) -> None:
        """Let all further steps through."""
        self._opened = True
        self._allowed.release()


class Scripted(NumpyEngine):
    """The NumPy engine, for which after so many tokens the next one is as `script` says."""

    def __init__(self, tokenizer: Tokenizer = TOKENIZER) -> None:
        config = tiny_models.llama(vocabulary=tokenizer.get_vocab_size(), context=1024, layers=1)
        super().__init__(config, tiny_models.weights(config, seed=3))
        self.script: dict[int, int] = {}

    def step(self, *args: Any, **options: Any) -> Any:
        logits, cache = super().step(*args, **options)
        for row, length in enumerate(cache.lengths.tolist()):
            if length in self.script:
                logits[row, -1, self.script[length]] += 1000
        return logits, cache


@contextlib.contextmanager
def running(
    models: Mapping[str, Model],
    keys: tuple[str, ...] = (),
    log: Callable[[str], None] | None = None,
    loads: Mapping[str, Callable[[], Model]] | None = None,
    names: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    **settings: Any,
) -> Iterator[tuple[str, Server]]:
    """A real server of the models on a free port of this machine: (its URL, the server)."""
    given = {name: lambda model=model: model for name, model in models.items()}
    server = Server({**given, **(loads or {})}, **settings)
    with server_module.listen("127.0.0.1", 0) as listening:
        http = server_module.http_server(server, "127.0.0.1", keys, log=log, names=names, origins=origins)
        thread = threading.Thread(target=http.run, args=([listening],))
        thread.start()
        try:
            yield server_module.address(listening), server
        finally:
            http.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def idle(server: Server) -> None:
    """Wait until no model has a request."""
    workers = [one.model.worker for one in server.models.values() if one.loaded]
    wait_until(lambda: not any(worker.running or worker.waiting for worker in workers))


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait, half a minute at most."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "waited for half a minute"
        time.sleep(0.001)
