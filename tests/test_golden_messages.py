"""Messages of errors as a user reads them, about fifty of all kinds, each from the error itself.

Other tests say class, key and value; sentences are here, so that a change of one is read by somebody.
`PYTHONPATH=tests python tests/test_golden_messages.py` writes the file anew.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
from helpers import serving, text_strategies, tiny_models
from tfm import runtime
from tfm.cli.main import main
from tfm.refimpl.calibrate.ranges import minmax
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.formats.npy import read_array
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.tokenizers import tokenizer as tokenizers
from tfm.refimpl.components import from_json
from tfm.refimpl.config import to_json
from tfm.refimpl.decoding.sampling import Sampler
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import TfmError
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.text.chat_template import ChatTemplate
from tfm.runtime.text.tokenizer import Tokenizer

FILE = Path(__file__).with_name("golden_messages.txt")
CONFIG = tiny_models.llama(layers=1, context=8)
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 32,
    "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
}  # fmt: skip


def configs() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """What a key of config.json may be."""
    changes: dict[str, dict[str, Any]] = {
        "an unknown key": {"unheard_of": 1},
        "another type": {"hidden_size": "64"},
        "too small": {"num_hidden_layers": 0},
        "a width that the heads don't divide": {"hidden_size": 65},
        "an unknown activation": {"hidden_act": "laplace"},
        "an unknown model_type": {"model_type": "unknown"},
        "an unknown model_type with code of its own": {
            "model_type": "unknown",
            "auto_map": {"AutoModel": "a.B"},
        },
        "an unknown class": {"architectures": ["LlamaForMaskedLM"]},
        "two keys that disagree": {"rope_theta": 6.0, "rope_parameters": {"rope_theta": 5.0}},
        "a key within a key": {"rope_scaling": {"type": "linear"}},
        "an unknown rope_type": {"rope_scaling": {"rope_type": "axial", "factor": 2.0}},
        "a number instead of true or false": {"mlp_bias": 1},
        "an unknown library of quantization": {"quantization_config": {"quant_method": "hqq"}},
    }
    for what, change in changes.items():
        yield what, lambda _, change=change: read_config({**LLAMA, **change})
    without_size = {key: value for key, value in LLAMA.items() if key != "vocab_size"}
    yield "a key that is missing", lambda _: read_config(without_size)
    yield "an unknown field of a Config", lambda _: from_json({**to_json(CONFIG), "kind": "Ensemble"})


def checkpoints() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Files of a model."""

    def changed(name: str, content: bytes | None) -> Callable[[Path], object]:
        def opened(folder: Path) -> object:
            save_checkpoint(folder / "m", CONFIG, tiny_models.weights(CONFIG))
            (folder / "m" / name).unlink(missing_ok=True)
            if content is not None:
                (folder / "m" / name).write_bytes(content)
            return open_checkpoint(folder / "m")

        return opened

    weights = b'{"decoder.norm.weight":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}'
    yield "a path that doesn't exist", lambda folder: open_checkpoint(folder / "m")
    yield "without a config", changed("config.json", None)
    yield "without weights", changed("model.safetensors", None)
    yield "JSON that ends early", changed("config.json", b'{"model_type": ')
    yield "a key twice", changed("config.json", b'{"a": 1, "a": 2}')
    yield "a header that lies", changed("model.safetensors", struct.pack("<Q", 2**60) + b"{}")
    yield "a shape that lies", changed("model.safetensors", struct.pack("<Q", len(weights)) + weights)
    yield "an unknown key of generation_config.json", changed("generation_config.json", b'{"unheard_of": 1}')
    yield "a file that is no GGUF file", lambda folder: _written(folder / "m.gguf", b"GGML", open_checkpoint)
    yield (
        "an array of 2^63 numbers",
        lambda folder: _written(
            folder / "m.gguf",
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**63),
            open_checkpoint,
        ),
    )
    yield "a file that is no array", lambda _: read_array(b"NUMPY", "a.npy")


def _written(path: Path, content: bytes, read: Callable[[Path], object]) -> object:
    path.write_bytes(content)
    return read(path)


def texts() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Tokenizers and chat templates."""
    library = text_strategies.byte_level().to_str()
    plan, fast = json.loads(library), Tokenizer(library, 512)

    def tokenizer(**change: Any) -> Callable[[Path], object]:
        return lambda _: tokenizers.read(json.dumps({**plan, **change}))

    yield "a step that isn't known", tokenizer(decoder={"type": "CTC"})
    yield "an id that isn't the token's", tokenizer(added_tokens=[{**plan["added_tokens"][0], "id": 5}])
    yield "a normalizer that isn't known", tokenizer(normalizer={"type": "Magic"})
    hello = [{"role": "user", "content": "hi"}]
    for what, template in {
        "a template that doesn't parse": "{% for %}",
        "a template that refuses": "{{ raise_exception('roles must alternate') }}",
        "a template without an end": "{% for i in range(99999999) %}{{ i }}{% endfor %}",
    }.items():
        yield what, lambda _, template=template: ChatTemplate(template, fast).render(hello)


def limits() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """What a text, an option or a number may be."""
    engine = NumpyEngine(CONFIG, tiny_models.weights(CONFIG))
    step = lambda ids: engine.step(np.asarray(ids), engine.start(1))  # noqa: E731
    yield "ids beyond the vocabulary", lambda _: step([[1, 97]])
    yield "a text beyond the context", lambda _: step([[0] * 9])
    yield "an option beyond its range", lambda _: Sampler(temperature=-1.0)
    yield "a model without an encoder", lambda _: engine.encode(np.zeros((1, 1), np.int64), None)
    yield "numbers that aren't finite", lambda _: minmax(None, np.array([np.nan]))


def bundles() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Directories that should be bundles."""
    for what, manifest in {
        "a manifest that is no JSON": "{",
        "a manifest without a format": "{}",
        "a newer format": '{"format": 99}',
    }.items():
        yield what, lambda folder, text=manifest: _written(folder / "tfm.json", text.encode(), _opened)
    yield "no bundle", lambda folder: runtime.load(folder / "bundle")


def _opened(path: Path) -> object:
    return open_bundle(path.parent)


COMMANDS = {
    "a command that isn't known": "run x",
    "an option that isn't known": "generate --maximal-tokens 3",
    "an option of another command": "generate --kv int8",
    "an option that is missing": "context x",
    "a model that isn't known": "inspect llama-3-8b",
    "a number out of range": "generate hi --temperature -1",
    "a scheme that isn't known": "export a b --quant int3",
    "a target that isn't known": "export a b --target tpu",
}
REQUESTS: dict[str, dict[str, Any]] = {
    "a number out of range": {"temperature": -0.1},
    "another type": {"temperature": "hot"},
    "a field that isn't known": {"unheard_of": 1},
    "a model that isn't served": {"model": "other"},
    "an unknown role": {"messages": [{"role": "judge", "content": "a"}]},
    "no messages": {"messages": []},
}
KINDS = {"config": configs, "checkpoint": checkpoints, "text": texts, "limit": limits, "bundle": bundles}


def messages(folder: Path) -> Iterator[str]:
    """A line for each error: its kind, its case, its class or code, and its message."""
    for kind, cases in KINDS.items():
        for number, (what, cause) in enumerate(cases()):
            (place := folder / f"{kind}{number}").mkdir()
            try:
                raise AssertionError(f"{kind}, {what}: nothing is refused, got {cause(place)}")
            except TfmError as error:
                yield f"{kind}, {what}: {type(error).__name__}: {str(error).replace(str(place), 'DIR')}"
    with patch.dict(os.environ, TFM_CACHE=str(folder / "cache")):
        for what, command in COMMANDS.items():
            with redirect_stderr(StringIO()) as stderr:
                code = main(command.split())
            yield f"command, {what}: {code}: {stderr.getvalue().strip()}"
    with served() as http:
        for what, change in REQUESTS.items():
            body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **change}
            answer = http.post("/v1/chat/completions", json=body)
            yield f"request, {what}: {answer.status_code}: {answer.json()['error']['message']}"


@contextmanager
def served() -> Iterator[httpx.Client]:
    """A client of a server of a tiny model."""
    with ExitStack() as stack:
        url, _ = stack.enter_context(serving.running({"tiny": serving.model()}))
        yield stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=60))


def test_messages_are_those_of_the_file(tmp_path: Path) -> None:
    assert list(messages(tmp_path)) == FILE.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        FILE.write_text("\n".join(messages(Path(made))) + "\n", encoding="utf-8")
