"""Clients that know nothing of tfm, each in an environment of its own: openai in JavaScript, llm, and
lm-eval."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import hearing_models, peers, serving
from helpers.served import CHAT, MODEL, MODELS, OPTIONS, golden
from tfm.refimpl.decoding.logprobs import log_softmax
from tfm.runtime.text.subtitles import FORMATS

SCRIPT = """
import OpenAI, { toFile } from "openai";
import { readFileSync } from "node:fs";

const { url, chat, sound } = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "second", maxRetries: 0 });
const whole = await client.chat.completions.create(chat);
let streamed = "", usage = null;
const stream = await client.chat.completions.create(
  { ...chat, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const completion = await client.completions.create(
  { model: "tiny", prompt: "the cat", max_tokens: 7, temperature: 0 });
const embedded = await client.embeddings.create({ model: "pool", input: ["the cat", "a dog"] });
const hear = async (more) => await client.audio.transcriptions.create(
  { model: "ears", temperature: 0.3, file: await toFile(Buffer.from(sound, "base64"), "a.wav"), ...more });
const detailed = { response_format: "verbose_json", timestamp_granularities: ["segment", "word"] };
const events = [];
for await (const event of await hear({ stream: true })) events.push(event);
const models = (await client.models.list()).data.map((model) => model.id);
const refused = await client.chat.completions.create({ ...chat, top_p: 7 }).catch((error) => error);
const unknown = await new OpenAI({ baseURL: `${url}/v1`, apiKey: "third", maxRetries: 0 })
  .models.list().catch((error) => error);
console.log(JSON.stringify({
  whole: whole.choices[0].message.content, streamed, tokens: usage.completion_tokens,
  completion: completion.choices[0].text, vectors: embedded.data.map((one) => one.embedding), models,
  heard: await hear({}), subtitles: await hear({ response_format: "srt" }),
  detailed: await hear(detailed), events,
  refused: [refused.status, refused.param, refused.constructor.name],
  unknown: [unknown.status, unknown.constructor.name],
}));
"""


@pytest.mark.peers
def test_the_openai_package_of_javascript(tmp_path: Path) -> None:
    folder = peers.node_modules(tmp_path / "node", "openai")
    (folder / "ask.mjs").write_text(SCRIPT)
    models, samples = (
        {**MODELS, "ears": hearing_models.model(multilingual=False)},
        hearing_models.sound(1, 90),
    )
    sound = base64.b64encode(hearing_models.wav(samples)).decode()
    with serving.running(models, keys=("first", "second")) as (url, _):
        asked = {"url": url, "chat": CHAT, "sound": sound}
        told = json.loads(peers.run(["node", folder / "ask.mjs"], asked))
    assert told["whole"] == told["streamed"] == golden()
    assert told["tokens"] == OPTIONS["max_new_tokens"]
    assert told["completion"] == str(MODEL.generate("the cat", raw=True, greedy=True, max_new_tokens=7))
    assert np.array_equal(np.array(told["vectors"], np.float32), MODELS["pool"].embed(["the cat", "a dog"]))
    assert told["models"] == list(models)
    said = [*models["ears"].transcribe(samples, temperatures=[0.3], words=True)]
    text = "".join(one.text for one in said).strip()
    assert told["heard"]["text"] == told["detailed"]["text"] == told["events"][-1]["text"] == text
    assert [one["delta"] for one in told["events"][:-1]] == [one.text for one in said]
    assert told["subtitles"] == "".join(FORMATS["srt"].each(i, one) for i, one in enumerate(said, 1))
    assert [one["tokens"] for one in told["detailed"]["segments"]] == [one.tokens for one in said]
    assert [one["word"] for one in told["detailed"]["words"]] == [
        word.text for one in said for word in one.words
    ]
    assert told["refused"] == [400, "top_p", "BadRequestError"]
    assert told["unknown"] == [401, "AuthenticationError"]


@pytest.mark.peers
def test_the_llm_command(uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat of one message, streamed and not, by a key that the command keeps."""
    user = tmp_path / "llm"
    monkeypatch.setenv("LLM_USER_PATH", str(user))
    llm = peers.python_by_uv(uv, tmp_path / "env", "llm").with_name("llm")
    (message,) = CHAT["messages"]
    options = [part for name in ("temperature", "max_tokens", "seed") for part in ("-o", name, CHAT[name])]
    # It puts what comes on stdin before the message.
    asked = ["sh", "-c", 'exec "$0" "$@" </dev/null', llm, "-m", "here", message["content"], *options]
    with serving.running(MODELS, keys=("first", "second")) as (url, _):
        user.mkdir()
        stated = {
            "model_id": "here",
            "model_name": CHAT["model"],
            "api_base": f"{url}/v1",
            "api_key_name": "here",
        }
        (user / "extra-openai-models.yaml").write_text(json.dumps([stated]))
        peers.run([llm, "keys", "set", "here", "--value", "second"])
        for stream in ([], ["--no-stream"]):
            assert peers.run([*asked, *stream]) == golden() + "\n"


TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: DOCUMENTS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["zzz"], max_gen_toks: 7, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


CHOICES = """
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: DOCUMENTS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def evaluated(folder: Path, python: Path, task: str, documents: list[dict[str, Any]], more: str) -> Any:
    """What lm-eval says of a task over the server's completions."""
    folder.mkdir()
    lines = folder / "documents.jsonl"
    lines.write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "task.yaml").write_text(task.replace("DOCUMENTS", str(lines)))
    with serving.running(MODELS) as (url, _):
        arguments = f"model=tiny,base_url={url}/v1/completions,num_concurrent=2,max_retries=1"
        name = task.split()[1]
        peers.run(
            [python, "-m", "lm_eval", "run", "--model", "local-completions",
             "--model_args", f"{arguments},{more}", "--tasks", name, "--include_path", folder,
             "--output_path", folder / "out"],
            folder=folder,
        )  # fmt: skip
    (results,) = (folder / "out").rglob("results_*.json")
    return json.loads(results.read_text())["results"][name]


def likelihood(context: str, choice: str) -> float:
    """ln p of a text that follows another, by the model's own logits."""
    encode = MODEL.text.encode
    ids, begun = encode(context + choice), len(encode(context))
    log_p = log_softmax(MODEL.logits(ids)[:-1])
    return float(log_p[range(len(ids) - 1), ids[1:]][begun - 1 :].sum())


@pytest.mark.peers
def test_lm_eval_over_local_completions(uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of texts, and one of choices by their log-probabilities: of six documents four are right, the
    others have another answer than the model's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    python = peers.python_by_uv(uv, tmp_path / "env", "lm-eval[api]", "transformers")
    questions = [serving.messages(i)[0]["content"] for i in range(6)]
    texts = []
    for i, question in enumerate(questions):
        answer = str(MODEL.generate(question, raw=True, greedy=True, max_new_tokens=7))
        texts.append({"question": question, "answer": answer if i % 3 else "wrong"})
    more = "tokenizer_backend=None,tokenized_requests=False"
    assert evaluated(tmp_path / "texts", python, TASK, texts, more)["exact_match,none"] == pytest.approx(
        4 / 6
    )

    choices = ["cat", "dog and the mat", "didn't sit"]
    documents = []
    for i, question in enumerate(questions):
        best = int(np.argmax([likelihood(question, f" {choice}") for choice in choices]))
        label = best if i % 3 else (best + 1) % 3
        documents.append({"question": question, "choices": choices, "label": label})
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text(serving.TOKENIZER.to_str())
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(kind))
    more = f"tokenizer_backend=huggingface,tokenizer={tokenizer}"
    assert evaluated(tmp_path / "choices", python, CHOICES, documents, more)["acc,none"] == pytest.approx(
        4 / 6
    )
