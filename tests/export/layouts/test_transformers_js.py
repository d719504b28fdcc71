"""transformers.js opens the layout in Node, and gives tfm's tokens and embeddings."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import peers
from helpers.hearing_models import LANGUAGES, NO_TIMESTAMPS, START, TASKS
from helpers.layout_models import (
    COPIED,
    MESSAGES,
    MIXED,
    OTHERS,
    READERS,
    chats_are_the_same,
    family_bundle,
    greedy,
    heard,
    hearing_bundle,
    left_padded,
    real_bundle,
    rows_of_a_batch_are_those_alone,
    searched,
    until_end,
    what_reads_an_encoder_gives_the_same_tokens,
)
from tfm.export.bundle_writer import export
from tfm.export.layouts.convert import convert
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.decoding.sampler import Sampler
from tfm.runtime.hub.model_names import packaged
from tfm.runtime.tasks import Model, load

pytestmark = [pytest.mark.peers, pytest.mark.real]
CLIENTS = Path(__file__).parents[2] / "examples" / "edge"

GENERATE = """
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM, Tensor, env } from "@huggingface/transformers";

const job = JSON.parse(readFileSync(0, "utf-8"));
env.allowRemoteModels = false;
env.localModelPath = dirname(job.model);
const kind = job.reads ? AutoModelForSeq2SeqLM : AutoModelForCausalLM;
const model = await kind.from_pretrained(basename(job.model), { device: "cpu" });
const tensor = (rows) =>
  new Tensor("int64", BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length]);
const answers = [];
for (const [ids, mask] of job.batches) {
  const inputs = { inputs: tensor(ids), attention_mask: tensor(mask) };
  const options = { max_new_tokens: job.count, do_sample: false, ...job.options };
  const rows = await model.generate({ ...inputs, ...options });
  answers.push(...rows.tolist().map((row) => row.slice(job.reads ? 1 : ids[0].length).map(Number)));
}
console.log(JSON.stringify(answers));
"""


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library, and the programs that use it."""
    folder = peers.node_modules(tmp_path_factory.mktemp("node"), "@huggingface/transformers")
    (folder / "generate.mjs").write_text(GENERATE)
    for client in CLIENTS.glob("*.mjs"):
        (folder / client.name).write_bytes(client.read_bytes())
    return folder


def generated(
    node: Path, model: Path, batches: list, count: int, *, reads: bool = False, **options: object
) -> list[list[int]]:
    job = {"model": str(model), "batches": batches, "count": count, "reads": reads, "options": options}
    return json.loads(peers.run(["node", node / "generate.mjs"], job))


@pytest.mark.parametrize("name", ["llama", *COPIED, *MIXED, *OTHERS])
def test_rows_of_a_batch_are_those_alone(node: Path, tmp_path: Path, name: str):
    rows_of_a_batch_are_those_alone(name, "transformers.js", tmp_path, partial(generated, node))


@pytest.mark.parametrize("name", READERS)
def test_what_reads_an_encoder_gives_the_same_tokens(node: Path, tmp_path: Path, name: str):
    what_reads_an_encoder_gives_the_same_tokens(name, "transformers.js", tmp_path, partial(generated, node))


HEAR = """
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { Tensor, WhisperForConditionalGeneration, env } from "@huggingface/transformers";

const job = JSON.parse(readFileSync(0, "utf-8"));
env.allowRemoteModels = false;
env.localModelPath = dirname(job.model);
const model = await WhisperForConditionalGeneration.from_pretrained(basename(job.model), { device: "cpu" });
const answers = [];
for (const frames of job.sounds) {
  const sound = new Tensor("float32", Float32Array.from(frames.flat()), [1, frames.length, frames[0].length]);
  const rows = await model.generate({ inputs: sound, max_new_tokens: job.count, ...job.options });
  answers.push(rows.tolist()[0].map(Number));
}
console.log(JSON.stringify(answers));
"""


@pytest.mark.parametrize("multilingual", [False, True])
def test_what_is_heard_is_the_same(node: Path, tmp_path: Path, multilingual: bool):
    """Without times: of Whisper's rules for these transformers.js lacks two (that time goes on, and how late
    the first may be)."""
    bundle, sounds = hearing_bundle(tmp_path, multilingual=multilingual)
    convert(bundle.path, tmp_path / "out", "transformers.js")
    (node / "hear.mjs").write_text(HEAR)
    options = {"language": "german", "task": "translate"} if multilingual else {}
    job = {"model": str(tmp_path / "out"), "sounds": [sound.tolist() for sound in sounds], "count": 20}
    found = json.loads(peers.run(["node", node / "hear.mjs"], job | {"options": options}))
    prompt = [START, *([LANGUAGES["<|de|>"], TASKS["translate"]] if multilingual else []), NO_TIMESTAMPS]
    sampler = Sampler(**bundle.generation.defaults | {"temperature": None})
    expected = heard(bundle, sounds, prompt, sampler, 20)
    assert until_end(bundle, [row[len(prompt) :] for row in found]) == expected
    assert all(row[: len(prompt)] == prompt for row in found)
    assert len({tuple(row) for row in expected}) > 2


def test_beams_arent_stated_as_it_takes_the_best_token_all_the_same(node: Path, tmp_path: Path):
    bundle, text = family_bundle("marian", tmp_path, search={"beams": 3})
    convert(bundle.path, tmp_path / "out", "transformers.js")
    stated = json.loads((tmp_path / "out" / "generation_config.json").read_bytes())
    assert "num_beams" not in stated
    count = min(12, bundle.config.context - 1)
    texts = [text, text[::-1], text[1:4]]
    batches = [left_padded([text]) for text in texts]
    tokens = generated(node, tmp_path / "out", batches, count, reads=True, num_beams=3)
    assert until_end(bundle, tokens) == greedy(bundle, texts, count) != searched(bundle, texts, count)


@pytest.mark.parametrize("quant", ["int8", "int4", "keep"])
def test_smollm2_gives_the_same_tokens(node: Path, smollm2_gguf: Path, tmp_path: Path, quant: str):
    bundle = real_bundle(smollm2_gguf, quant, tmp_path / "bundle")
    chats_are_the_same(bundle, "transformers.js", partial(generated, node), ["node", node / "chat.mjs"])


@pytest.mark.parametrize("quant", ["int8-dynamic", "fp32"])
def test_minilm_gives_the_same_embeddings(node: Path, minilm: Path, tmp_path: Path, quant: str):
    bundle = real_bundle(minilm, quant, tmp_path / "bundle")
    convert(bundle.path, tmp_path / "out", "transformers.js")
    given = json.loads(peers.run(["node", node / "embed.mjs", tmp_path / "out", *MESSAGES]))
    assert np.abs(given - load(bundle.path).embed(list(MESSAGES))).max() < 1e-4


@pytest.mark.parametrize("name", ["smollm2_gguf", "minilm"])
def test_the_check_judges_each_path_by_its_own_row(node: Path, request, tmp_path: Path, name: str):
    """Some wrong weights are within the wide budget of products in integers."""
    export(open_checkpoint(request.getfixturevalue(name)), tmp_path / "bundle", quant="int8")
    convert(tmp_path / "bundle", tmp_path / "out", "transformers.js")
    *rows, verdict = peers.run(["node", node / "check.mjs", tmp_path / "out"]).splitlines()
    assert [row.partition(":")[0] for row in rows] == ["products in float", "whole"]
    assert verdict.startswith("Right")
    data = tmp_path / "out" / "onnx" / "model_quantized.onnx_data"
    weights = np.fromfile(data, np.uint8)
    weights[::997] += 1
    weights.tofile(data)
    done = subprocess.run(["node", node / "check.mjs", tmp_path / "out"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1][:5]) == (1, "WRONG")


PIPELINE = """
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const job = JSON.parse(readFileSync(0, "utf-8"));
env.allowRemoteModels = false;
env.localModelPath = dirname(job.model);
const run = await pipeline(job.task, basename(job.model), { device: "cpu" });
console.log(JSON.stringify(await run(job.text, job.options)));
"""


def piped(node: Path, folder: Path, name: str, task: str, text: str, **options: object) -> tuple[Model, list]:
    """tfm's model, and what a pipeline of the same bundle gives."""
    bundle = real_bundle(packaged(name), "int8-dynamic", folder / "bundle")
    convert(bundle.path, folder / "out", "transformers.js")
    (node / "pipeline.mjs").write_text(PIPELINE)
    job = {"model": str(folder / "out"), "task": task, "text": text, "options": options}
    return load(bundle.path), json.loads(peers.run(["node", node / "pipeline.mjs"], job))


def close(given: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in given] == [name for name, _ in expected]
    assert [score for _, score in given] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_labels_are_those_of_classify(node: Path, tmp_path: Path):
    text = "The soup was cold, but the waiter was very kind."
    model, given = piped(node, tmp_path, "demo-classify", "text-classification", text, top_k=3)
    expected = model.classify([text])[0][:3]
    close([(one["label"], one["score"]) for one in given], [(one.label, one.score) for one in expected])


def test_words_are_those_of_fill(node: Path, tmp_path: Path):
    text = "Paris is the [MASK] of France."
    model, given = piped(node, tmp_path, "demo-fill", "fill-mask", text, top_k=3)
    expected = model.fill([text], count=3)[0][0]
    close([(one["token_str"], one["score"]) for one in given], [(one.text, one.score) for one in expected])


def test_tags_are_those_of_tag(node: Path, tmp_path: Path):
    text = "Ada Miller moved from Paris to Oslo."
    model, given = piped(node, tmp_path, "demo-tag", "token-classification", text)
    expected = model.tag([text], aggregation="none")[0]
    close([(one["entity"], one["score"]) for one in given], [(one.label, one.score) for one in expected])
