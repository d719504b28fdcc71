"""Each command on a tiny model: what it prints, in what shape, and that stdout holds nothing else."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import tiny_models
from tfm import runtime as tfm_runtime
from tfm.cli import console, model_loading
from tfm.cli.commands import doctor
from tfm.refimpl.checkpoint.custom_code import describe
from tfm.refimpl.checkpoint.open import save_checkpoint
from tfm.refimpl.config import to_json
from tfm.refimpl.errors import TfmError
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.runtime.analysis import speed
from tfm.runtime.bundle import atomic_dir
from tfm.runtime.bundle.bundle import Bundle
from tfm.runtime.hub import checked_bundles, locate
from tfm.runtime.hub.aliases import ALIASES
from tfm.runtime.hub.cache_dir import bundle_path
from tfm.runtime.hub.model_names import CATALOGUE
from tfm.runtime.kernels import build, compilers, probe
from tfm.runtime.ort import kernel_backend, providers
from tfm.runtime.progress import silent
from tfm.runtime.tasks import model
from tfm.runtime.text.template_process import SHARED

ENGINES = ("numpy", "torch", "onnx")


def test_generate_streams_text_alone(tfm, bundle):
    command = ("generate", "hello", "--model", bundle, "-n", 8, "--greedy")
    ran, told = tfm(*command), tfm(*command, "--json")
    assert ran.code == 0
    assert re.fullmatch(r".* 8 tokens: .*--max-new-tokens .*\n", ran.err)
    assert ran.out == told.json["text"] + "\n"
    assert told.err == ""


def test_generate_takes_a_system_message_and_says_how_fast_it_was(tfm, bundle):
    options = ("--model", bundle, "--greedy", "--max-tokens", 4)
    talk = tfm("chat", "--system", "be brief", *options, stdin=b"hello\n").out
    ran = tfm("generate", "hello", "--system", "be brief", *options, "--verbose")
    assert (ran.code, ran.out) == (0, talk)
    assert re.search(r"answer: 4 tokens, [\d.]+ tokens/s", ran.err)
    plain = tfm("generate", "hello", *options)
    assert plain.out != talk
    assert "tokens/s" not in plain.err
    [batch] = tfm("generate", "--batch", 1, "--system", "be brief", *options, "--json", stdin=b"hello").json
    assert batch["text"] == talk.removesuffix("\n")
    tfm("generate", "hello", "--system", "x", "--raw", *options).failed(2, "--system")


def test_generate_json_has_its_fixed_fields(tfm, bundle):
    ran = tfm("generate", "hello", "--model", bundle, "--max-new-tokens", 8, "--json")
    assert set(ran.json) == {"tokens", "text", "finish_reason", "path", "same_bits", "timings"}
    assert len(ran.json["tokens"]) == 8
    assert f'  "tokens": {ran.json["tokens"]},\n  "text": ' in ran.out
    assert ran.json["finish_reason"] == "length"
    assert ran.json["path"] == "ONNX Runtime"
    assert ran.json["same_bits"].startswith("not promised")
    assert ran.json["timings"]["load_s"] > 0
    assert ran.json["timings"]["prompt_tokens"] > len("hello")  # the template's own


def test_a_raw_prompt_names_control_tokens_where_it_is_asked_for(tfm, bundle):
    prompt = "<|im_start|>a<|im_end|>"  # the tokenizer has one token a byte
    command = ("generate", prompt, "--model", bundle, "--max-new-tokens", 1, "--json", "--raw")
    for more, count in (((), len(prompt)), (("--control-tokens",), 3)):
        assert tfm(*command, *more).json["timings"]["prompt_tokens"] == count
    (one,) = tfm(*command, "--batch", 1, "--control-tokens", "--greedy").json
    assert one["tokens"] == tfm(*command, "--control-tokens", "--greedy").json["tokens"]
    tfm("generate", "a", "--control-tokens").failed(2, "--control-tokens", "--raw")


def test_json_has_log_probabilities_where_they_are_asked_for(tfm, bundle):
    command = ("generate", "hello", "--model", bundle, "--greedy", "--max-new-tokens", 3, "--json")
    told = tfm(*command, "--logprobs", 2).json
    for one, token in zip(told["logprobs"], told["tokens"], strict=True):
        assert (one["token"], one["top"][0]) == (token, [token, one["logprob"]])
        assert one["logprob"] > one["top"][1][1]
    (many,) = tfm(*command, "--batch", 1, "--logprobs", 0).json
    assert [(one["token"], one["top"]) for one in many["logprobs"]] == [(t, []) for t in told["tokens"]]
    (plain,) = tfm(*command, "--batch", 1).json
    assert set(plain) == {"prompt", "tokens", "text", "finish_reason"}
    tfm("generate", "a", "--logprobs", 1).failed(2, "--logprobs", "--json")
    tfm("generate", "a", "--logprobs", 1, "--beams", 2, "--json").failed(2, "beam", "logprobs")


def test_drafts_change_no_token(tfm, bundle):
    command = ("generate", "abcabcabc", "--model", bundle, "--max-new-tokens", 24, "--greedy", "--json")
    expected = tfm(*command).json
    for draft in ("prompt", bundle):
        told = tfm(*command, "--draft", draft).json
        assert (told["tokens"], told["finish_reason"]) == (expected["tokens"], expected["finish_reason"])
        assert told.keys() == expected.keys()


def test_files_are_hashed_once_and_by_verify_always(tfm, bundle, monkeypatch, tmp_path):
    hashed, check = [], Bundle.check_hashes
    monkeypatch.setattr(Bundle, "check_hashes", lambda self: (hashed.append(1), check(self)))
    monkeypatch.setattr(checked_bundles, "SMALLEST", 0)
    monkeypatch.setattr(checked_bundles, "TICK_NS", -(2**62))
    monkeypatch.setenv("TFM_CACHE", str(tmp_path))
    texts = [tfm("generate", "abc", "--model", bundle, "-n", 2, "--greedy").out for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(hashed) == 1
    tfm("verify", bundle)
    assert len(hashed) > 1


def test_a_module_that_is_not_there_says_how_it_comes(tfm, bundle, checkpoint, tmp_path):
    ran = tfm("generate", "hi", "--model", bundle, "--draft", "mtp")
    ran.failed(4, "--draft", "mtp")
    tfm("export", checkpoint, tmp_path / "out", "--mtp").failed(4, "mtp", "no such module")


def test_a_draft_with_another_tokenizer_is_usage(tfm, checkpoint, tmp_path):
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer.replace("<|im_end|>", "<|end|>"))
    ran = tfm("generate", "hi", "--model", checkpoint, "--draft", other, "--engine", "numpy")
    ran.failed(2, "draft", "tokenizer")


def test_a_batch_of_lines_is_answered_in_order(tfm, bundle, tmp_path):
    prompts = ["hello", "abcabc", "x" * 300]
    options = ("--model", bundle, "--max-new-tokens", 6, "--temperature", 2, "--seed", 4)
    (tmp_path / "lines").write_text("\n".join(prompts) + "\n")
    told = tfm("generate", "--file", tmp_path / "lines", "--batch", 2, *options, "--json").json
    assert [one["prompt"] for one in told] == prompts
    assert {(len(one["tokens"]), one["finish_reason"]) for one in told} == {(6, "length")}
    first = tfm("generate", "hello", *options, "--json").json
    assert (told[0]["tokens"], told[0]["text"]) == (first["tokens"], first["text"])
    lines = tfm("generate", "--batch", 3, *options, stdin="\n".join(prompts).encode()).out
    assert lines.splitlines() == [console.line(one["text"], raw=False) for one in told]
    raw = tfm("generate", "--batch", 3, *options, "--no-escape", stdin="\n".join(prompts).encode()).out
    assert raw == "".join(one["text"] + "\n" for one in told)
    tfm("generate", "", "--batch", 2, "--model", bundle).failed(2, "prompt", "1")
    tfm("generate", "a", "--batch", 2, "--length-penalty", 2).failed(2, "--batch", "--beams")
    tfm("generate", "a", "--draft", "prompt", "--length-penalty", 2).failed(2, "--draft", "--beams")
    tfm("generate", "a", "--greedy", "--length-penalty", 2).failed(2, "length_penalty", "beams")
    assert len(tfm("generate", "hello", "--batch", 1, *options, "--json").json) == 1
    tfm("generate", "a", "--batch", 2, "--beams", 2, "--model", bundle).failed(2, "--batch", "--beams")
    tfm("generate", "--batch", 2, "--model", bundle, stdin=b"a\n\nb").failed(2, "prompt", "2")


def test_beams_find_a_text_that_is_at_least_as_likely(tfm, bundle):
    command = ("generate", "hello", "--model", bundle, "--max-new-tokens", 8)
    told = tfm(*command, "--beams", 4, "--length-penalty", 0, "--json").json
    assert set(told) == {"tokens", "text", "finish_reason", "path", "same_bits", "timings"}
    assert tfm(*command, "--beams", 4, "--length-penalty", 0).out == told["text"] + "\n"
    from tfm.runtime import load

    model = load(bundle, threads=1)
    prompt = model.prompt("hello")

    def likely(tokens):
        logits = model.logits([*prompt, *tokens])[len(prompt) - 1 : -1].astype(np.float64)
        return sum(
            row[t] - row.max() - np.log(np.exp(row - row.max()).sum())
            for row, t in zip(logits, tokens, strict=True)
        )

    assert likely(told["tokens"]) >= likely(tfm(*command, "--greedy", "--json").json["tokens"]) - 1e-4


def test_ngrams_do_not_repeat(tfm, bundle):
    command = (
        "generate",
        "abab",
        "--model",
        bundle,
        "--max-new-tokens",
        40,
        "--no-repeat-ngram",
        1,
        "--json",
    )
    tokens = tfm(*command).json["tokens"]
    assert len(set(tokens)) == len(tokens) == 40


@pytest.mark.parametrize("engine", ENGINES)
def test_the_three_engines_give_the_same_tokens_for_a_bundle(tfm, bundle, engine):
    command = ("generate", "hello", "--model", bundle, "--max-new-tokens", 12, "--greedy", "--json")
    assert tfm(*command, "--engine", engine).json["tokens"] == tfm(*command).json["tokens"]


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_a_checkpoint_runs_as_it_is(tfm, checkpoint, engine):
    told = tfm(
        "generate", "hello", "--model", checkpoint, "--engine", engine, "--max-new-tokens", 12, "--json"
    ).json
    assert len(told["tokens"]) == 12


def test_the_prompt_comes_from_argument_file_or_stdin(tfm, bundle, tmp_path):
    (tmp_path / "prompt").write_bytes(b"hello\n")
    options = ("--model", bundle, "--max-new-tokens", 6, "--greedy", "--json")
    expected = tfm("generate", "hello", *options).json["tokens"]
    assert tfm("generate", "--file", tmp_path / "prompt", *options).json["tokens"] == expected
    assert tfm("generate", *options, stdin=b"hello\r\n").json["tokens"] == expected
    assert tfm("generate", "hellp", *options).json["tokens"] != expected


def test_lines_of_a_file_are_one_prompt_and_that_is_said(tfm, bundle, tmp_path):
    (tmp_path / "lines").write_bytes(b"one\r\ntwo\n")
    options = ("--model", bundle, "-n", 2, "--greedy", "--json")
    ran = tfm("generate", "--file", tmp_path / "lines", *options)
    assert re.fullmatch(f".* 2 .*{tmp_path / 'lines'} .*--batch N.*\n", ran.err)
    typed = tfm("generate", "one\ntwo", *options)
    assert (typed.json["tokens"], typed.err) == (ran.json["tokens"], "")
    (tmp_path / "line").write_bytes(b"one\n")
    assert tfm("generate", "--file", tmp_path / "line", *options).err == ""


@pytest.mark.parametrize(
    ("arguments", "order"),
    [
        (("generate", "hi"), ["start", "load"]),
        (("generate", "hi", "--raw"), ["load"]),
        (("chat",), ["start", "load"]),
    ],
)
def test_the_child_for_templates_starts_before_the_model_is_loaded(tfm, monkeypatch, arguments, order):
    called = []

    def load(*_, **__):
        called.append("load")
        raise TfmError("enough")

    monkeypatch.setattr(SHARED, "start", lambda: called.append("start"))
    monkeypatch.setattr(model_loading, "load", load)
    tfm(*arguments).failed(1, "enough")
    assert called == order


def test_the_child_for_templates_starts_before_the_session(bundle, monkeypatch):
    called = []

    def engine(*_, **__):
        called.append("session")
        return SimpleNamespace(same_bits=None)

    monkeypatch.setattr(SHARED, "start", lambda: called.append("start"))
    monkeypatch.setattr(model, "OrtEngine", engine)
    monkeypatch.setattr(model, "Model", lambda *_: None)
    tfm_runtime.load(bundle)
    assert called == ["start", "session"]


def test_raw_leaves_the_template_out(tfm, bundle):
    told = tfm("generate", "hello", "--raw", "--model", bundle, "--max-new-tokens", 1, "--json").json
    assert told["timings"]["prompt_tokens"] == len("hello")


def test_a_seed_gives_the_same_text_again(tfm, bundle):
    def tokens(*more):
        return tfm("generate", "hello", "--model", bundle, "--max-new-tokens", 16, "--json", *more).json[
            "tokens"
        ]

    sampled = tokens("--temperature", 2, "--seed", 7)
    assert tokens("--temperature", 2, "--seed", 7) == sampled
    assert tokens("--temperature", 2, "--seed", 8) != sampled
    assert tokens("--top-k", 1, "--seed", 8) == tokens("--greedy")


def test_stop_ends_before_its_text(tfm, bundle):
    options = ("--model", bundle, "--max-new-tokens", 40, "--json", "--temperature", "3")
    text = tfm("generate", "hello", *options).json["text"]
    end = text[5:7]
    told = tfm("generate", "hello", *options, "--stop", end).json
    assert told["finish_reason"] == "stop"
    assert told["text"] == text[: text.index(end)]


def test_the_output_is_clipped_to_the_context_and_says_so(tfm, bundle):
    prompt = "x" * 16380
    ran = tfm("generate", prompt, "--raw", "--model", bundle, "--max-new-tokens", 50, "--json")
    assert len(ran.json["tokens"]) == 4
    assert (ran.err.count("\n"), "4 tokens" in ran.err) == (1, True)
    tfm("generate", "x" * 16384, "--raw", "--model", bundle).failed(9, "16384")


def test_a_checkpoint_is_exported_once_and_reused(tfm, checkpoint, tmp_path, monkeypatch):
    options = ("--model", checkpoint, "--max-new-tokens", 4, "--greedy", "--json")
    first = tfm("generate", "hello", *options)
    assert re.search("int8 for ort-cpu, PASSED .* [0-9.e-]+ nats .*`tfm-cli verify ", first.err)
    assert "saved " in first.err
    again = tfm("generate", "hello", *options)
    assert again.err == ""
    assert again.json["tokens"] == first.json["tokens"]
    listed = tfm("models", "--json").json["cache"]
    assert [(c["kind"], c["bytes"] > 0) for c in listed] == [("bundle", True)]
    assert listed[0]["name"].startswith("tiny-int8-ort-cpu-")
    removed = tfm("models", "--remove", listed[0]["name"])
    assert (removed.code, removed.out) == (0, "")
    assert tfm("models", "--json").json["cache"] == []


def test_an_outdated_bundle_is_exported_again_in_the_cache_and_refused_elsewhere(tfm, checkpoint, tmp_path):
    """A bundle in tfm's cache is exported again; for another one the error tells the user to export it."""
    options = ("--model", checkpoint, "--max-new-tokens", 4, "--greedy", "--json")
    first = tfm("generate", "hello", *options)
    (cached,) = (Path(c["path"]) for c in tfm("models", "--json").json["cache"])
    manifest = json.loads((cached / "tfm.json").read_text())
    (cached / "tfm.json").write_text(json.dumps(manifest | {"format": 1}))
    cached.rename(old := cached.with_name("tiny-int8-ort-cpu-0123456789ab"))
    shutil.copytree(old, tmp_path / "exported")
    again = tfm("generate", "hello", *options)
    assert f"removed {old}, " in again.err
    assert f"saved {cached}" in again.err
    assert again.json["tokens"] == first.json["tokens"]
    assert [c["name"] for c in tfm("models", "--json").json["cache"]] == [cached.name]
    tfm("generate", "hello", "--model", tmp_path / "exported").failed(
        5, 1, "older", "`tfm-cli export MODEL OUT --quant int8`"
    )


def test_a_bundle_of_another_scheme_is_refused(tfm, bundle):
    tfm("generate", "hi", "--model", bundle, "--quant", "int4").failed(5, "int8", "int4")


def test_what_cannot_run_says_why(tfm, bundle, checkpoint, tmp_path):
    tfm("generate", "hi", "--model", bundle, "--engine", "numpy", "--device", "cuda").failed(6, "numpy")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    tfm("generate", "hi", "--model", tmp_path / "config.json").failed(3, "weights")
    tfm("export", bundle, tmp_path / "out").failed(7, "bundle")
    tfm("export", checkpoint, tmp_path / "out", "--quant", "fp16").failed(7, "slower")
    tfm("generate", "hi", "--model", checkpoint, "--quant", "fp16").failed(7, "slower")
    assert not (tmp_path / "out").exists()


def test_what_a_run_needs_is_checked_before_it_works(tfm, checkpoint, tmp_path, monkeypatch):
    """Device, task and names: before anything is fetched or exported; each is one line of stderr."""
    monkeypatch.setattr(providers, "missing_for_cuda", lambda: ["libcuda.so.1"])
    for command in (("generate", "hi"), ("bench",)):
        ran = tfm(*command, "--model", "smollm2-135m", "--device", "cuda")
        ran.failed(6, "CUDA", "libcuda.so.1", "--device", "cpu")
    tfm("fill", "a [MASK]", "--model", "smollm2-135m").failed(4, "smollm2-135m", "generate", "fill")
    tfm("generate", "hi", "--model", "minilm-l6").failed(4, "minilm-l6", "embed", "generate")
    tfm("generate", "hi", "--model", "whisper-tiny.en").failed(4, "whisper-tiny.en", "transcribe", "generate")
    tfm("generate", "hi", "--model", checkpoint, "--draft", "smollm").failed(3, "'smollm'")
    model = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    (model / "chat_template.jinja").unlink()
    tfm("chat", "--model", model, stdin=b"hi").failed(3, model, "chat", "template")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for command in (("generate", "hi"), ("bench",)):
        ran = tfm(*command, "--model", "smollm2-135m")
        ran.failed(7, "torch", "'tfm-cli[cpu,export]'")
    tfm("export", "smollm2-135m", tmp_path / "out").failed(7, "onnxscript", "'tfm-cli[cpu,export]'")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_a_run_waits_for_another_that_exports_the_same(tfm, checkpoint, bundle, tmp_path, monkeypatch):
    path = bundle_path(locate.locate(str(checkpoint), silent), "int8", "ort-cpu")
    entered, leave = threading.Event(), threading.Event()

    def other():
        with atomic_dir.replacing(path) as new:
            shutil.copytree(bundle, new, dirs_exist_ok=True)
            entered.set()
            leave.wait()

    monkeypatch.setattr(atomic_dir.time, "sleep", lambda _: leave.set())
    with ThreadPoolExecutor() as pool:
        made = pool.submit(other)
        entered.wait()
        try:
            ran = tfm("generate", "hello", "--model", checkpoint, "--max-new-tokens", 4)
        finally:
            leave.set()
        made.result()
    assert ran.code == 0
    assert str(path) in ran.err.splitlines()[0]
    assert "exported" not in ran.err


def test_a_damaged_copy_in_the_cache_names_the_command_that_removes_it(tfm, checkpoint, bundle, tmp_path):
    path = bundle_path(locate.locate(str(checkpoint), silent), "int8", "ort-cpu")
    shutil.copytree(bundle, path)
    os.truncate(path / "model.onnx.data", 100)
    command = f"`tfm-cli models --remove {path.name}`, and the next run downloads the file again"
    tfm("generate", "hello", "--model", checkpoint).failed(5, "model.onnx.data", *command.split())
    assert tfm("models", "--remove", path.name).code == 0
    fetched = tmp_path / "cache" / "models" / "pypi-pkg"
    (fetched / "files").mkdir(parents=True)
    (fetched / "files" / "m.gguf").write_bytes(b"GGUF")
    (fetched / "source.json").write_text('{"name": "pypi:pkg", "model": "m.gguf", "digest": "0"}')
    tfm("inspect", "pypi:pkg").failed(3, "m.gguf", "--remove", "pypi-pkg`")
    assert tfm("models", "--remove", "pypi-pkg").code == 0
    assert "models --remove" not in tfm("inspect", tmp_path).err  # that isn't the cache's


@pytest.mark.parametrize("greedy", [True, False])
def test_generate_on_a_bundle_never_imports_torch_or_rich(bundle, greedy: bool):
    """Nor OpenSSL where no random numbers are needed, for NumPy's generators bring it."""
    options = ["--max-new-tokens", "2", *(["--greedy"] if greedy else [])]
    code = (
        "import sys; from tfm.cli.main import main; "
        f"assert main(['generate', 'hi', '--model', {str(bundle)!r}, *{options}]) == 0; "
        "banned = {'torch', 'onnx', 'onnx_ir', 'onnxscript', 'transformers', 'rich', 'platformdirs'}; "
        f"heavy = (banned | {{'pydantic', *{['_hashlib'] if greedy else []}}}) & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_chat_keeps_the_conversation(tfm, bundle, monkeypatch):
    seen = []
    from tfm.runtime import tasks

    say = tasks.Conversation.say
    monkeypatch.setattr(
        tasks.Conversation,
        "say",
        lambda self, text, **g: (seen.append(len(self.messages)), say(self, text, **g))[1],
    )
    options = ("--model", bundle, "--max-new-tokens", 5, "--system", "be brief")
    ran = tfm("chat", *options, stdin=b"one\n\n  \ntwo\r\nthree")
    assert ran.code == 0
    assert seen == [1, 3, 5]
    assert ran.err.splitlines() == ["(ended after 5 tokens)"] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--table", 4, "--quant", "int8"), "--table 4 --quant int4 int8"),
        (("--strict",), "--strict --quant keep"),
        (
            ("--quant", "int8-static", "--target", "standard"),
            "--quant int8-static --calibrate",
        ),
        (("--calibrate", __file__), "--calibrate --kv int8 --quant int8-static w8a16"),
        (
            ("--calibrate", __file__, "--ranges", "entropy", "--kv", "int8"),
            "--ranges --smooth --quant int8-static w8a16",
        ),
        (("--quant", "int8-dynamic", "--target", "ort-cuda"), "--quant int8"),
    ],
)
def test_errors_of_an_export_name_the_options_of_the_command_line(tfm, checkpoint, tmp_path, options, words):
    tfm("export", checkpoint, tmp_path / "out", *options).failed(7, *words.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--table", 5), "--table 4 8 5"),
        (("--smooth", 2), "'--smooth' 2.0 0<=x<=1"),
        (("--ranges", "entropy"), "--ranges --calibrate"),
    ],
)
def test_a_wrong_option_of_an_export_is_usage(tfm, checkpoint, tmp_path, options, words):
    tfm("export", checkpoint, tmp_path / "out", *options).failed(2, *words.split())


def test_commands_say_what_stands_for_code_of_the_repositorys_own(
    tfm, checkpoint, bundle, tmp_path, monkeypatch
):
    model, exported = (shutil.copytree(path, tmp_path / path.parent.name) for path in (checkpoint, bundle))
    for file, change in (
        (model / "config.json", lambda config: config | {"auto_map": {"AutoModel": "own.Model"}}),
        (exported / "tfm.json", lambda m: m | {"source": {**m["source"], "code_replaced_by": "tfm"}}),
    ):
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
    monkeypatch.setattr("tfm.export.bundle_writer.export", lambda _, out, **__: shutil.copytree(bundle, out))
    note = "(auto_map or custom_pipelines) was not run: tfm used its own family tfm\n"
    for command in (
        ("export", model, tmp_path / "out"),
        ("inspect", model),
        ("inspect", model / "config.json"),
        ("inspect", exported),
        ("generate", "a", "--model", exported, "--max-new-tokens", 1),
        ("generate", "a", "--model", model, "--engine", "numpy", "--max-new-tokens", 1),
        ("attention", "ab", "--model", model, "--json"),
    ):
        ran = tfm(*command)
        assert (ran.code, ran.err.count(note)) == (0, 1), (command, ran)


def test_verify_ends_in_a_verdict(tfm, bundle, tmp_path):
    """Quick without --full; what is left is named, in the verdict, by inspect and in the certificate."""
    copied = tmp_path / "bundle"
    shutil.copytree(bundle, copied)
    stated = json.loads((copied / "tfm.json").read_text())
    stated["source"]["code_replaced_by"] = "tfm"
    (copied / "tfm.json").write_text(json.dumps(stated))
    (copied / "certificate.json").unlink()
    told = tfm("inspect", copied, "--json").json
    assert told["verified"] == "no"
    assert told["bytes"] == sum(file.stat().st_size for file in copied.rglob("*") if file.is_file())
    assert f"\nbytes         {console.size(told['bytes'])}\n" in tfm("inspect", copied).out
    ran = tfm("verify", copied)
    assert ran.code == 0
    head, *rows = ran.out.split("\n\n")[0].splitlines()
    assert head.split() == ["CHECK", "FOUND", "AT", "MOST", "USED", "RESULT", "NOTE"]
    assert any("ok" in row and "%" in row for row in rows)
    verdict = ran.out.split("\n\n")[1]
    assert re.match("tiny .*int8 .*ort-cpu, .*PASSED", verdict)
    assert verdict.count("Not checked: ") == 1
    for row in ("outputs over a text", "greedy texts beside the specification's"):
        assert row in verdict.split("(--full checks it)")[0]
    assert "(--source MODEL checks it)" in verdict
    note = describe("tfm")
    assert f"Note: {note}." in verdict
    certificate = json.loads((copied / "certificate.json").read_text())
    assert certificate["notes"] == [note]
    later = tfm("inspect", copied, "--json").json["verified"]
    assert re.search("PASSED .*not checked yet: 32 ", later)
    (cached := tmp_path / "cache" / "bundles" / "smollm2-135m-int8-ort-cpu-0123456789ab").parent.mkdir(
        parents=True
    )
    shutil.copytree(copied, cached)
    ran = tfm("verify", "smollm2-135m")
    assert (ran.code, f"smollm2-135m: {cached}" in ran.err) == (0, True)
    shutil.copytree(copied, cached.with_name("smollm2-135m-int4-ort-cpu-0123456789ab"))
    tfm("verify", "smollm2-135m").failed(2, "bundles", "smollm2-135m", str(cached))
    tfm("report", "minilm-l6", tmp_path / "a.html").failed(5, "directory", "minilm-l6")
    told = tfm("verify", copied, "--full", "--json").json
    assert (told["ok"], told["notes"], told["quant"]) == (True, [note], "int8")
    assert "PASSED all checks" in tfm("inspect", copied, "--json").json["verified"]


def test_verify_says_what_failed(tfm, bundle, tmp_path):
    copied = tmp_path / "bundle"
    shutil.copytree(bundle, copied)
    data = bytearray((copied / "golden/tokens.npy").read_bytes())
    data[-1] ^= 1
    (copied / "golden/tokens.npy").write_bytes(data)
    ran = tfm("verify", copied)
    assert ran.code == 10
    assert "FAILED" in ran.out
    assert re.match(f"tfm-cli: {copied}: .*hashes", ran.err.splitlines()[-1])


def test_export_prints_the_directory(tfm, checkpoint, tmp_path):
    ran = tfm("export", checkpoint, tmp_path / "out", "--quant", "int4", "--table", 4, "--no-verify")
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'out'}\n")
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    total = console.size(sum(file.stat().st_size for file in files))
    assert re.match(f"{tmp_path / 'out'}: {total}, int4 .*ort-cpu, not ", ran.err.splitlines()[-1])
    told = tfm("inspect", tmp_path / "out", "--json").json
    assert told["quant"] == "int4"
    over = f"{told['rounded_over']} tokens"
    assert f" {over}" in ran.err
    assert re.search(f"^rounded_over +{over}, with feedback$", tfm("inspect", tmp_path / "out").out, re.M)
    assert "replaced" not in ran.err
    again = tfm("export", checkpoint, tmp_path / "out", "--no-verify")
    line = f"{tmp_path / 'out'}: the bundle of tiny in int4 there will be replaced "
    assert len(re.findall(f"(?m)^{line}", again.err)) == 1


def test_inspect_counts_a_checkpoint_without_its_weights(tfm, checkpoint, monkeypatch):
    from tfm.refimpl.checkpoint.weights.loader import Leaves

    monkeypatch.setattr(Leaves, "load", None)
    told = tfm("inspect", checkpoint, "--json").json
    config = tiny_models.llama(vocabulary=258, width=64, context=16384)
    shapes = parameter_shapes(config)
    assert told["parameters"]["total"] == sum(math.prod(s) for s in shapes.values())
    assert told["parameters"]["embedding"] == 258 * 64
    assert told["parameters"]["norms"] == 5 * 64
    assert told["config"] == to_json(config)
    assert told["cache_bytes"]["16384"] == {
        "fp32": 2 * 2 * 2 * 16 * 16384 * 4,
        "fp16": 2 * 2 * 2 * 16 * 16384 * 2,
    }
    assert set(told["quantizations"]) == {"fp32", "fp16", "int8", "int8-dynamic", "int4"}
    assert told["quantizations"]["fp32"]["bytes"] == 4 * told["parameters"]["total"]
    text = tfm("inspect", checkpoint)
    assert text.err == ""
    assert "2 layers" in text.out
    assert f"{told['parameters']['total']:,} in all" in text.out


def test_a_bundle_may_have_another_context_than_its_checkpoint(tfm, checkpoint, bundle, tmp_path):
    """A bundle keeps its own context, and verify accepts the checkpoint as its source."""
    assert tfm("inspect", checkpoint, "--context", 40, "--json").json["config"]["context"] == 40
    out = tmp_path / "out"
    tfm("export", checkpoint, out, "--context", 40, "--quant", "fp32", "--no-verify")
    assert tfm("inspect", out, "--json").json["config"]["context"] == 40
    ran = tfm("verify", out, "--source", checkpoint, "--seconds", 1)
    assert ran.code == 0, ran.err
    for command in (("inspect", bundle), ("generate", "a", "--model", bundle)):
        tfm(*command, "--context", 40).failed(5, "context", "16384", "40")
    told = tfm("generate", "x" * 60, "--model", checkpoint, "--engine", "numpy", "--context", 40)
    told.failed(9, "40")


def test_inspect_predicts_the_bytes_of_a_bundle(tfm, checkpoint, bundle):
    told = tfm("inspect", checkpoint, "--json").json["quantizations"]["int8"]["bytes"]
    real = (bundle / "model.onnx.data").stat().st_size
    tensors = len(json.loads((bundle / "tfm.json").read_text())["tensors"])
    assert told <= real <= told + tensors * 4096  # tensors are aligned


def test_a_model_of_70_billion_is_counted_from_its_config_alone(tfm, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
                "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
                "vocab_size": 128256, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192,
                "rope_theta": 500000.0, "tie_word_embeddings": False,
            }
        )
    )  # fmt: skip
    told = tfm("inspect", tmp_path, "--json").json
    sizes = {name: entry["bytes"] / 1e9 for name, entry in told["quantizations"].items()}
    assert told["parameters"]["total"] == 70_553_706_496
    assert 140 < sizes["fp16"] < 142
    # A float32 scale and an 8-bit zero point for 64 weights, in tables for 32; these have 8 bits with int4
    # too, attention a scale and a 4-bit zero point for 64, mlps for 128.
    attention, mlp, tables = 80 * 2 * 8192 * (8192 + 1024), 80 * 3 * 8192 * 28672, 2 * 128256 * 8192
    eight = (attention + mlp) * (1 + 5 / 64) + tables * (1 + 5 / 32)
    assert sizes["int8"] == pytest.approx(eight / 1e9, rel=1e-3)
    four = attention * (0.5 + 4.5 / 64) + mlp * (0.5 + 4.5 / 128) + tables * (1 + 5 / 32)
    assert sizes["int4"] == pytest.approx(four / 1e9, rel=1e-3)
    assert told["cache_bytes"]["8192"]["fp16"] == 2 * 80 * 8 * 128 * 8192 * 2
    assert tfm("inspect", tmp_path / "config.json", "--json").json["parameters"] == told["parameters"]


def test_pull_prints_the_path_alone(tfm, monkeypatch):
    updates = []

    def fetch(name, progress, *, update):
        progress("fetching", 0, 0)
        updates.append(update)
        return Path("/x") / name

    monkeypatch.setattr(locate, "fetch", fetch)
    for more in ([], ["--update"]):
        ran = tfm("pull", "smollm2-135m", *more)
        assert (ran.code, ran.out, ran.err) == (0, "/x/smollm2-135m\n", "fetching\n")
    assert updates == [False, True]


def test_models_lists_the_catalogue(tfm):
    told = tfm("models", "--json").json
    assert [c["name"] for c in told["catalogue"]] == [*CATALOGUE]
    assert told["cache"] == []
    text = tfm("models").out
    for one in told["catalogue"]:
        assert re.fullmatch("[0-9a-f]{64}( [0-9a-f]{64})*", one["sha256"])
        assert tfm(one["task"], "--help").code == 0, "the task is a command"
        assert one["licence"]
        assert len(re.findall(rf"(?m)(?:^|[ ]){re.escape(one['name'])}(?:,|$| )", text)) == 1
    assert not re.search("[0-9a-f]{40}", text), "hashes are for --json"
    assert re.search(r"(?m)^CATALOGUE .* MEMORY ", text)
    assert re.search(r"(?m)^smollm2-135m .* 537\.0 MB ", text)
    assert "0 B in" in text
    tfm("models", "--remove", "nothing").failed(3, "nothing")


def test_models_lists_what_fits_first(tfm, monkeypatch):
    """Each alias once, above or below the memory that is free."""
    told = {one["name"]: one["megabytes"] for one in tfm("models", "--json").json["aliases"]}
    assert told.keys() == ALIASES.keys()
    for free in (2e9, 1e12, 0, None):
        monkeypatch.setattr("tfm.runtime.hardware.memory", lambda free=free: free)
        rows = re.split("FITS HERE|TOO LARGE HERE", tfm("models").out)[1:]
        listed = [re.findall(r"(?m)^(\S+) .* hf:\S+$", part) for part in rows]
        fits = [name for name, megabytes in told.items() if free is None or megabytes * 1e6 <= free]
        too_large = [name for name in told if name not in fits]
        assert listed == [part for part in (fits, too_large) if part]


def test_doctor_says_that_the_cache_cannot_be_written(tfm, monkeypatch):
    assert tfm("doctor", "--json").json["problems"] == []
    monkeypatch.setenv("TFM_CACHE", "/proc/nowhere")
    ran = tfm("doctor")
    assert ran.code == 0
    assert re.search("\nproblems .* /proc/nowhere (.|\n)*TFM_CACHE", ran.out)


def test_models_says_what_prepacked_weights_are(tfm, tmp_path):
    (packed := tmp_path / "cache" / "prepacked" / "b-0123").mkdir(parents=True)
    assert "prepacked" not in tfm("models").out
    (packed / "model.onnx.data").write_bytes(b"0")
    (packed / "key.json").write_text(json.dumps({"bundle": str(tmp_path)}))
    listed = tfm("models").out
    assert "\nprepacked: " in listed
    assert re.search(rf"(?m)^CACHE .*BELONGS TO\nb-0123 .* {re.escape(str(tmp_path))}$", listed)
    assert [entry["belongs_to"] for entry in tfm("models", "--json").json["cache"]] == [str(tmp_path)]


def test_doctor_tries_the_providers(tfm):
    told = tfm("doctor", "--json").json
    assert told["providers"]["CPUExecutionProvider"] == "starts"
    assert told["versions"]["tfm-cli"]
    assert told["threads"] >= 1
    assert told["problems"] == []
    assert next(iter(told)) == "works"
    assert next(iter(told["providers"].values())) == "starts", "those that start are first"
    text = tfm("doctor")
    assert (text.code, text.err) == (0, "")
    assert "CPUExecutionProvider: starts" in text.out
    assert "EP Error" not in text.out


@pytest.mark.parametrize(
    ("starting", "kernels", "places"),
    [
        ("CPU", {"instructions": "avx2"}, ["CPU", "avx2"]),
        ("CPU", {"unused": "none"}, ["CPU", "ONNX Runtime"]),
        ("CUDA CPU", {"instructions": "avx2"}, ["CUDA", "CPU", "avx2"]),
        ("Dml", {"instructions": "avx2"}, ["nothing"]),
    ],
)
def test_doctor_leads_with_what_works(starting, kernels, places):
    providers = dict.fromkeys(("CUDAExecutionProvider", "CPUExecutionProvider"), "falls back")
    providers |= {f"{name}ExecutionProvider": "starts" for name in starting.split()}
    works = doctor._works(providers, kernels)
    assert [word for word in ("CUDA", "CPU", "avx2", "ONNX Runtime", "nothing") if word in works] == places


def test_doctor_says_how_kernels_are_built_and_builds_them(tfm, monkeypatch, tmp_path):
    monkeypatch.setattr(compilers, "_zig", lambda platform: None)
    monkeypatch.setattr(probe, "attempt", lambda *_: probe.Result("runs", "avx2"))
    refusals: list[str] = []
    monkeypatch.setattr(kernel_backend, "why_refused", lambda _: "".join(refusals))
    monkeypatch.delenv("TFM_KERNELS", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    none = "the kernels were not built for this machine"
    to_do = "tfm-cli doctor --build-kernels"
    install = f"pip install 'tfm-cli[kernels]' or install a C++ compiler, then {to_do}"
    assert tfm("doctor", "--json").json["kernels"] == {"unused": none, "to do": install}
    tfm("doctor", "--build-kernels").failed(7, "C++", "'tfm-cli[kernels]'")
    script = tmp_path / "c++"
    finds_out = 'while [ "$1" != -o ]; do shift; done; echo code >$2\n'
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo c++ 1 && exit\n' + finds_out)
    script.chmod(0o700)
    assert f"\nkernels    unused: {none}\n           to do: {to_do}\n" in tfm("doctor").out
    ran = tfm("doctor", "--build-kernels")
    assert (ran.code, ran.err.count("\n")) == (0, 1)
    assert ran.err.startswith("compiling ")
    assert "\nkernels    instructions: avx2\n           library: " in ran.out
    assert tfm("doctor", "--build-kernels").err == ""
    refusals.append("too new")
    assert tfm("doctor", "--json").json["kernels"] == {"unused": "too new"}
    monkeypatch.setenv("TFM_KERNELS", "avx3")
    tfm("doctor").failed(6, "TFM_KERNELS", "'avx3'")
    monkeypatch.setenv("TFM_KERNELS", "0")
    assert "TFM_KERNELS=0" in tfm("doctor", "--json").json["kernels"]["unused"]


def test_doctor_waits_longer_for_a_compiler_than_an_export_does(tfm, monkeypatch):
    limits = []
    monkeypatch.setattr(build, "build", lambda **options: limits.append(options["limit_s"]))
    assert tfm("doctor", "--build-kernels").code == 0
    assert limits[0] > build.LIMIT_S


def test_doctor_reports_two_wheels_in_one_place_and_a_dead_cpu_provider(tfm, monkeypatch):
    monkeypatch.setattr(doctor, "_versions", lambda: {"onnxruntime": "1", "onnxruntime-gpu": "2"})
    assert re.search("onnxruntime and onnxruntime-gpu", tfm("doctor", "--json").json["problems"][0])
    monkeypatch.setattr(providers, "IDENTITY", b"not a model")
    ran = tfm("doctor")
    assert ran.code == 6
    assert ran.out.startswith("works      nothing")
    assert "CPUExecutionProvider: fails" in ran.out


def test_doctor_lists_first_what_models_run_on(tfm, monkeypatch):
    found = {"TensorrtExecutionProvider": "falls back", "AzureExecutionProvider": "starts"}
    monkeypatch.setattr(providers, "providers", lambda: {**found, "CPUExecutionProvider": "starts"})
    listed = list(tfm("doctor", "--json").json["providers"])
    assert listed == ["CPUExecutionProvider", "AzureExecutionProvider", "TensorrtExecutionProvider"]


def test_doctor_names_what_cuda_lacks(tfm, monkeypatch):
    """ONNX Runtime lists CUDA and falls back without a word where its libraries are missing."""

    class FellBack:
        def __init__(self, *_, **__): ...

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(providers.ort, "InferenceSession", FellBack)
    for missing, told in (
        (["libcuda.so.1", "libcudnn.so.9"], "libcuda.so.1, libcudnn.so.9"),
        ([], "a GPU that this build supports"),
    ):
        monkeypatch.setattr(providers, "missing_for_cuda", lambda missing=missing: missing)
        [(provider, state)] = providers.providers().items()
        assert (provider, state.endswith(f": {told}")) == ("CUDAExecutionProvider", True)


def test_the_hand_made_model_is_one():
    import onnx

    onnx.checker.check_model(onnx.load_from_string(providers.IDENTITY))


def test_bench_measures_in_fresh_processes(tfm, bundle):
    options = ("--prompt-tokens", 4, "--prompt-tokens", 6, "--new-tokens", 3, "--threads", 1, "--repeats", 1)
    told = tfm("bench", "--model", bundle, *options, "--json").json
    assert [(s["threads"], s["prompt_tokens"]) for s in told["settings"]] == [(1, 4), (1, 6)]
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "first_token_s", "load_s", "peak_rss_mb"):
        entry = told[name]
        assert entry == told["settings"][0][name]
        assert 0 < entry["min"] == entry["median"] == entry["max"] == entry["mean"]
    assert (told["repeats"], told["new_tokens"], told["prompt_tokens"]) == (1, 3, 4)


def test_bench_prints_what_llama_bench_does(tfm, bundle, monkeypatch):
    def run(submitted, _bundle, _device, threads, prompt, _new):
        assert submitted is speed.measure
        return Future(speed.Speed("kernels (x)", 100.0 * threads, next(decode), 0.5, 0.25, 80.0 + prompt))

    class Future(SimpleNamespace):
        def __init__(self, value):
            super().__init__(result=lambda: value)

    pool = SimpleNamespace(submit=run)

    def executor(_workers, _context, *start, max_tasks_per_child):
        assert max_tasks_per_child == 1, "a new process for each run"
        assert start == (signal.signal, (signal.SIGINT, signal.SIG_DFL)), "Ctrl-C gives no traceback"
        return nullcontext(pool)

    monkeypatch.setattr(speed, "ProcessPoolExecutor", executor)
    decode = iter([10.0, 20.0, 30.0, 50.0])
    options = ("--threads", 1, "--threads", 3, "--prompt-tokens", 512, "--new-tokens", 64, "--repeats", 2)
    ran = tfm("bench", bundle, *options, "--markdown")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ran.out.splitlines()]
    assert rows[0] == ["MODEL", "QUANT", "WEIGHTS", "PARAMETERS", "PATH", "THREADS", "TEST", "TOKENS/S"]
    assert rows[1] == ["---"] * 8
    assert [row[4:] for row in rows[2:6]] == [
        ["kernels (x)", "1", "pp512", "100.00 ± 0.00"],
        ["kernels (x)", "1", "tg64 @ d512", "20.00 ± 14.14"],
        ["kernels (x)", "3", "pp512", "300.00 ± 0.00"],
        ["kernels (x)", "3", "tg64 @ d512", "35.00 ± 21.21"],
    ]
    assert rows[2][1:4] == ["int8", console.size((bundle / "model.onnx.data").stat().st_size), "0.1 M"]
    assert rows[9:11] == [["1", "512", "0.500 ± 0.000", "0.250 ± 0.000", "592.0 ± 0.0"], ["3", *rows[9][1:]]]
    assert (" 2 runs" in ran.out, "4 runs" in ran.err) == (True, True)
    decode = iter([10.0])
    lines = tfm("bench", bundle, "--threads", 1, "--repeats", 1).out.splitlines()
    assert [line.split()[-2:] for line in lines[1:3]] == [["pp128", "100.00"], ["d128", "10.00"]]


def test_bench_takes_its_model_once_and_names_code_that_was_not_run(tfm, bundle, monkeypatch):
    tfm("bench", bundle, "--model", bundle).failed(2, "argument", "--model")
    tfm("bench", bundle, "--markdown", "--json").failed(2, "--markdown", "--json")
    monkeypatch.setattr(Bundle, "code_replaced_by", "llama")
    monkeypatch.setattr(speed, "compare", lambda *_: [])
    ran = tfm("bench", bundle)
    assert describe("llama") in ran.err


def test_bench_needs_a_decoder_before_an_export(tfm, tmp_path):
    """One line of stderr: nothing was exported."""
    for name in ("encoder", "encoder_decoder"):
        config = getattr(tiny_models, name)()
        save_checkpoint(tmp_path / name, config, tiny_models.weights(config))
        tfm("bench", tmp_path / name).failed(4, "decoders", "encoder")
    tfm("bench", "minilm-l6").failed(4, "minilm-l6", "embed", "generate")


def test_bench_refuses_what_does_not_fit(tfm, bundle):
    ran = tfm("bench", "--model", bundle, "--prompt-tokens", 20000, "--repeats", 1)
    assert (ran.code, ran.out) == (9, "")
    assert re.match("tfm-cli: .* 20127 tokens", ran.err.splitlines()[-1])


def test_a_document_of_a_schema(tfm, checkpoint: Path, tmp_path: Path) -> None:
    """A line says where it was cut; a schema that can't be followed is refused before there is a model."""
    model = tmp_path / "stops"
    shutil.copytree(checkpoint, model)
    (model / "generation_config.json").write_text('{"eos_token_id": 257}')
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array", "items": {"enum": ["a", "bc"]}, "minItems": 1, "maxItems": 3}')
    command = ("generate", "a", "--model", model, "--engine", "numpy", "--json-schema", schema)
    for seed in range(3):
        told = tfm(*command, "--temperature", 1, "--seed", seed, "--max-new-tokens", 100)
        assert (told.code, told.err) == (0, "")
        assert set(json.loads(told.out)) <= {"a", "bc"}
    assert "2 tokens: raise --max-new-tokens" in tfm(*command, "--max-new-tokens", 2).err
    itself = tfm(*command[:-1], '{"enum": ["bc"]}', "--max-new-tokens", 100)
    assert (itself.code, itself.out.strip()) == (0, '"bc"')
    for wrong in ('{"enum": [}', '{"contains": {}}', "nothing.json", str(tmp_path)):
        tfm("generate", "a", "--model", "nowhere", "--json-schema", wrong).failed(2, "--json-schema")
    schema.write_text('{"contains": {}}')
    tfm("generate", "a", "--model", "nowhere", "--json-schema", schema).failed(
        2, "--json-schema", '["contains"]'
    )
    schema.write_text("[]")
    tfm("generate", "a", "--model", "nowhere", "--json-schema", schema).failed(2, "JSON", "schema")
    tfm(*command, "--beams", 2).failed(2, "")


def test_a_text_that_matches_an_expression_or_a_grammar(tfm, checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / "stops"
    shutil.copytree(checkpoint, model)
    (model / "generation_config.json").write_text('{"eos_token_id": 257}')
    grammar = tmp_path / "list.gbnf"
    grammar.write_text('root ::= ("- " [ab] "\\n"){1,2}\n')
    command = ("generate", "a", "--model", model, "--engine", "numpy", "--temperature", 1)
    for seed in range(3):
        told = tfm(*command, "--seed", seed, "--regex", "(x|yz){1,3}")
        assert (told.code, told.err, re.fullmatch("(x|yz){1,3}\n", told.out) is None) == (0, "", False)
        told = tfm(*command, "--seed", seed, "--grammar", grammar)
        assert (told.code, told.err, re.fullmatch("(- [ab]\n){1,2}\n?", told.out) is None) == (0, "", False)
    nowhere = ("generate", "a", "--model", "nowhere")
    tfm(*nowhere, "--regex", "(").failed(2, "--regex", "group")
    grammar.write_text("root ::= item")
    tfm(*nowhere, "--grammar", grammar).failed(2, "--grammar")
    tfm(*nowhere, "--regex", "a", "--beams", 2).failed(2, "beam", "--regex")
