"""optimum's ORTModel classes open the layout, and give tfm's tokens and embeddings."""

from __future__ import annotations

import json
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import hearing_models, peers
from helpers.layout_models import (
    COPIED,
    MESSAGES,
    READERS,
    chats_are_the_same,
    family_bundle,
    greedy,
    hearing_bundle,
    left_padded,
    real_bundle,
    rows_of_a_batch_are_those_alone,
    searched,
    until_end,
    what_reads_an_encoder_gives_the_same_tokens,
)
from tfm.export.layouts.convert import convert
from tfm.refimpl.decoding.speech import Limits
from tfm.refimpl.engine.sound import HOP, features
from tfm.runtime.tasks import load

pytestmark = [pytest.mark.peers, pytest.mark.real]
CLIENTS = Path(__file__).parents[2] / "examples" / "edge"

GENERATE = """
    import json, sys
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

    job = json.load(sys.stdin)
    kind = ORTModelForSeq2SeqLM if job["reads"] else ORTModelForCausalLM
    model = kind.from_pretrained(job["model"])
    answers = []
    for ids, mask in job["batches"]:
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        rows = model.generate(**inputs, max_new_tokens=job["count"], **job["options"])
        answers += rows[:, 1 if job["reads"] else len(ids[0]) :].tolist()
    print(json.dumps(answers))
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peers.python_with_optimum(tmp_path_factory.mktemp("optimum") / "python")


GREEDY = {"do_sample": False}


def generated(
    python: Path, model: Path, batches: list, count: int, *, reads: bool = False, options: dict = GREEDY
) -> list[list[int]]:
    job = {"model": str(model), "batches": batches, "count": count, "reads": reads, "options": options}
    return json.loads(peers.run([python, "-c", textwrap.dedent(GENERATE)], job))


@pytest.mark.parametrize("name", ["llama", *COPIED, "gemma3n_text", "deepseek_v3"])
def test_rows_of_a_batch_are_those_alone(python: Path, tmp_path: Path, name: str):
    rows_of_a_batch_are_those_alone(name, "optimum", tmp_path, partial(generated, python))


@pytest.mark.parametrize("name", READERS)
def test_what_reads_an_encoder_gives_the_same_tokens(python: Path, tmp_path: Path, name: str):
    what_reads_an_encoder_gives_the_same_tokens(name, "optimum", tmp_path, partial(generated, python))


HEAR = """
    import json, sys
    import torch
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq

    job = json.load(sys.stdin)
    model = ORTModelForSpeechSeq2Seq.from_pretrained(job["model"])
    torch.set_default_dtype(torch.float64)
    found = []
    for frames in job["sounds"]:
        given = torch.tensor([frames], dtype=torch.float32)
        asked = {"return_timestamps": True, "return_segments": True, "temperature": 0.0, **job["options"]}
        said = model.generate(given, attention_mask=torch.ones(1, given.shape[2]), **asked)
        said = said["segments"] if isinstance(said, dict) else said
        found.append([[part["tokens"].tolist(), float(part["start"])] for part in said[0]])
    print(json.dumps(found))
"""


@pytest.mark.parametrize("multilingual", [False, True])
def test_what_is_heard_is_the_same_with_its_times(python: Path, tmp_path: Path, multilingual: bool):
    bundle, _ = hearing_bundle(tmp_path, multilingual=multilingual)
    convert(bundle.path, tmp_path / "out", "optimum")
    size, bands = bundle.config.sound_shape or (0, 0)
    sounds = [hearing_models.sound(seed, 3 * size) for seed in range(5)]
    frames = [features(one, bands=bands)[: len(one) // HOP].T.tolist() for one in sounds]
    options = {"task": "transcribe"} if multilingual else {}
    job = {"model": str(tmp_path / "out"), "sounds": frames, "options": options}
    found = json.loads(peers.run([python, "-c", textwrap.dedent(HEAR)], job))
    model = load(bundle.path)
    said = [list(model.transcribe(one, limits=Limits(), temperatures=[0])) for one in sounds]
    assert sum(map(len, said)) > 10
    for ours, theirs in zip(said, found, strict=True):
        assert [one.tokens for one in ours] == [tokens for tokens, _ in theirs]
        assert np.allclose([one.start for one in ours], [start for _, start in theirs])


def test_beams_are_those_that_the_model_asks_for(python: Path, tmp_path: Path):
    """By its generation_config.json: the call doesn't name them."""
    bundle, text = family_bundle("marian", tmp_path, search={"beams": 3})
    convert(bundle.path, tmp_path / "out", "optimum")
    count = min(12, bundle.config.context - 1)
    texts = [text, text[::-1], text[1:4]]
    batches, options = [left_padded([text]) for text in texts], {}
    tokens = generated(python, tmp_path / "out", batches, count, reads=True, options=options)
    expected = searched(bundle, texts, count)
    assert until_end(bundle, tokens) == expected
    assert expected != greedy(bundle, texts, count)


@pytest.mark.parametrize("quant", ["int8", "int4", "keep"])
def test_smollm2_gives_the_same_tokens(python: Path, smollm2_gguf: Path, tmp_path: Path, quant: str):
    bundle = real_bundle(smollm2_gguf, quant, tmp_path / "bundle")
    chats_are_the_same(bundle, "optimum", partial(generated, python), [python, CLIENTS / "optimum_chat.py"])


@pytest.mark.parametrize("quant", ["int8-dynamic", "fp32"])
def test_minilm_gives_the_same_embeddings(python: Path, minilm: Path, tmp_path: Path, quant: str):
    bundle = real_bundle(minilm, quant, tmp_path / "bundle")
    convert(bundle.path, tmp_path / "out", "optimum")
    given = json.loads(peers.run([python, CLIENTS / "optimum_embed.py", tmp_path / "out", *MESSAGES]))
    assert np.abs(given - load(bundle.path).embed(list(MESSAGES))).max() < 1e-4
