"""onnxruntime-genai opens the layout, and its greedy tokens are those of tfm's own path over ONNX Runtime."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from helpers import peers
from helpers.hearing_models import LANGUAGES, NO_TIMESTAMPS, START, TASKS
from helpers.layout_models import (
    COPIED,
    LENGTH,
    MESSAGES,
    answer,
    chats,
    family_bundle,
    greedy,
    heard,
    hearing_bundle,
    real_bundle,
    until_end,
)
from tfm.export.layouts.convert import convert
from tfm.refimpl.decoding.sampler import Sampler
from tfm.runtime.tasks import load

pytestmark = pytest.mark.peers
CLIENT = Path(__file__).parents[2] / "examples" / "edge" / "genai.py"

GENERATE = """
    import json, sys
    import numpy as np
    import onnxruntime_genai as og

    job = json.load(sys.stdin)
    model = og.Model(job["model"])
    tokenizer = og.Tokenizer(model) if "texts" in job else None
    ids = [tokenizer.encode(text).tolist() for text in job.get("texts", [])]

    def answers(prompts):
        longest = max(map(len, prompts))
        options = og.GeneratorParams(model)
        options.set_search_options(
            max_length=longest + job["count"], do_sample=False, batch_size=len(prompts), **job["options"]
        )
        generator = og.Generator(model, options)
        generator.append_tokens(np.array([p + [job["pad"]] * (longest - len(p)) for p in prompts], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(i)[longest:].tolist() for i in range(len(prompts))]

    alone = [answers([prompt])[0] for prompt in job["prompts"]]
    together = answers(job["prompts"])
    print(json.dumps({"ids": ids, "alone": alone, "together": together}))
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peers.python_with(tmp_path_factory.mktemp("genai"), "onnxruntime-genai")


def ran(python: Path, model: Path, prompts: list[list[int]], count: int, **more: object) -> dict:
    config = json.loads((model / "genai_config.json").read_bytes())["model"]
    job = {"model": str(model), "prompts": prompts, "count": count, "pad": config["pad_token_id"], **more}
    return json.loads(peers.run([python, "-c", textwrap.dedent(GENERATE)], {"options": {}, **job}))


# Layers with one state, with two, with other heads or none of their own, and with latents.
FORMS = ("lfm2", "qwen3_5_text", "gemma4_text", "deepseek_v3")


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "gpt_oss", *COPIED, *FORMS])
def test_families_give_the_same_tokens_alone_and_in_a_batch(python: Path, tmp_path: Path, name: str):
    bundle, prompt = family_bundle(name, tmp_path)
    convert(bundle.path, tmp_path / "out", "genai")
    # Before 0.18, genai chose a cache by the type.
    stated = json.loads((tmp_path / "out" / "genai_config.json").read_bytes())["model"]
    assert stated["type"] == ("lfm2" if name == "lfm2" else "llama")
    last = bundle.config.embedding.vocabulary - 1
    prompts = [prompt, [last, *prompt[1:3]], [*prompt[2:], last - 1]]
    count = min(24, bundle.config.context - len(prompt))
    given = ran(python, tmp_path / "out", prompts, count)
    texts = greedy(bundle, prompts, count)
    if not bundle.generation.eos:  # then genai ends where a row would be filled up
        texts = [text[: text.index(0)] if 0 in text else text for text in texts]
    assert any(len(set(text)) > 2 for text in texts)
    for row, expected in enumerate(texts):
        assert given["alone"][row] == expected
        assert given["together"][row][: len(expected)] == expected


HEAR = """
    import json, sys
    import numpy as np
    import onnxruntime_genai as og

    job = json.load(sys.stdin)
    model = og.Model(job["model"])
    answers = []
    for frames in job["sounds"]:
        options = og.GeneratorParams(model)
        prompt = np.array([job["prompt"]], np.int32)
        options.set_search_options(max_length=prompt.size + job["count"], do_sample=False, batch_size=1)
        generator = og.Generator(model, options)
        sound = np.array([frames], np.float32)  # the generator only points to it
        generator.set_model_input("audio_features", sound)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        answers.append(generator.get_sequence(0)[prompt.size :].tolist())
    print(json.dumps(answers))
"""


@pytest.mark.parametrize("multilingual", [False, True])
def test_what_is_heard_is_the_same(python: Path, tmp_path: Path, multilingual: bool):
    """Without times and suppressed tokens, for which genai has no rules."""
    bundle, sounds = hearing_bundle(tmp_path, multilingual=multilingual, positions=1500)
    convert(bundle.path, tmp_path / "out", "genai")
    prompt = [START, *([LANGUAGES["<|de|>"], TASKS["translate"]] if multilingual else []), NO_TIMESTAMPS]
    job = {"model": str(tmp_path / "out"), "sounds": [sound.tolist() for sound in sounds], "prompt": prompt}
    found = json.loads(peers.run([python, "-c", textwrap.dedent(HEAR)], job | {"count": 20}))
    expected = heard(bundle, sounds, prompt, Sampler(), 20)
    assert until_end(bundle, found) == expected
    assert len({tuple(row) for row in expected}) > 2


@pytest.mark.real
@pytest.mark.parametrize("quant", ["int8", "int4", "keep"])
def test_smollm2_gives_the_same_tokens(python: Path, smollm2_gguf: Path, tmp_path: Path, quant: str):
    bundle = real_bundle(smollm2_gguf, quant, tmp_path / "bundle")
    convert(bundle.path, tmp_path / "out", "genai")
    prompts = chats(bundle)
    given = ran(python, tmp_path / "out", prompts, LENGTH, texts=MESSAGES)
    assert given["alone"] == greedy(bundle, prompts)
    assert given["ids"] == [load(bundle.path).text.encode(message) for message in MESSAGES]
    shown = peers.run([python, CLIENT, tmp_path / "out", MESSAGES[0]])
    assert shown.strip() == answer(bundle, given["alone"][0]).strip()
