"""Bundles for tests of layouts, and the greedy tokens that another runtime must give of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from tfm.export.bundle_writer import export
from tfm.export.layouts import transformers_js
from tfm.export.layouts.convert import convert
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import EncoderDecoder
from tfm.refimpl.decoding.beam import BeamSearch, beam_search
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.cache_kinds import cache_kinds
from tfm.refimpl.engine.sound import features
from tfm.runtime.bundle import targets
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.tasks import load

from helpers import (
    hearing_models,
    onnx_graph,  # noqa: F401  (the exporter's functions are parsed once a process)
    peers,
)
from helpers.end_to_end import diverse_model
from helpers.hf_oracle import draw_keys

MESSAGES = (
    "Explain self-attention to a child.",
    "Write two sentences about Zürich in winter.",
    "List three uses of a paper clip.",
    "Why is the sky blue?",
    "def fibonacci(n):",
)
LENGTH = 64
# Families of decoders that read an encoder: relative positions, and a cache that is written in place.
READERS = ("t5", "bart", "marian")
# Families of decoders whose cache is copied at each step.
COPIED = ("bloom", "mpt")
# Families of decoders whose layers cache different things: states, or nothing, or heads of several sizes.
MIXED = ("lfm2", "qwen3_5_text", "gemma3n_text", "gemma4_text")
# Families of decoders whose layers each cache keys, values and states, or latents.
OTHERS = ("falcon_h1", "deepseek_v3")
TRIES = 40  # configs drawn of a family until one suits


def family_bundle(
    name: str, folder: Path, search: Mapping[str, Any] | None = None
) -> tuple[Bundle, list[int]]:
    """The float bundle of a family's tiny random model that generates different tokens, and its prompt.

    It is one that layouts take, and of `MIXED` one whose layers cache different things. Of a decoder that
    reads an encoder the prompt is the encoder's, and the decoder's is what the model states. `search` are
    options of a beam search that the model asks for.
    """
    for number, keys in enumerate(draw_keys(name, TRIES)):
        drawn = diverse_model(name, 0, keys, folder / str(number))
        if drawn is None or transformers_js.refusal(drawn[1].config, targets.find("ort-cpu")):
            continue
        if name in MIXED and len(set(cache_kinds(drawn[1].config))) == 1:
            continue
        _, checkpoint, sequence = drawn
        if (text := sequence.encoder_ids) is not None:
            generation = replace(checkpoint.generation, start=sequence.prompt[0], search=dict(search or {}))
            checkpoint = replace(checkpoint, generation=generation)
        export(checkpoint, folder / "bundle", quant="fp32", verify=False)
        return open_bundle(folder / "bundle"), list(sequence.prompt if text is None else text)
    raise AssertionError(f"{name}: none of {TRIES} models suits")


def hearing_bundle(
    folder: Path, *, multilingual: bool, positions: int = hearing_models.POSITIONS
) -> tuple[Bundle, list[np.ndarray]]:
    """The float bundle of a drawn Whisper, and sounds for it, the frames [C, 2·T] of each."""
    hearing_models.write(folder / "model", 1, multilingual=multilingual, positions=positions)
    bundle = real_bundle(folder / "model", "fp32", folder / "bundle")
    assert bundle.config.sound_shape is not None
    size, bands = bundle.config.sound_shape
    sounds = [features(hearing_models.sound(seed, size), bands=bands)[:size] for seed in range(4)]
    return bundle, [sound.T for sound in sounds]


def heard(
    bundle: Bundle, sounds: Iterable[np.ndarray], prompt: Sequence[int], sampler: Sampler, count: int
) -> list[list[int]]:
    """The greedy tokens after a prompt of each sound, without rules for times, before the last."""
    engine, ends = OrtEngine(bundle), frozenset(bundle.generation.eos)
    asked: dict[str, Any] = {"max_new_tokens": count, "stop_ids": ends, "sampler": sampler}
    return [
        list(generate(engine, GeneratedSequence(prompt, encoder_ids=sound.T, **asked))) for sound in sounds
    ]


def real_bundle(source: Path, quant: str, folder: Path) -> Bundle:
    export(open_checkpoint(source), folder, quant=quant, verify=False)
    return open_bundle(folder)


def chats(bundle: Bundle) -> list[list[int]]:
    """The prompt of each message, by the bundle's chat template."""
    template = load(bundle.path).chat_template
    return [template.encode([{"role": "user", "content": message}]) for message in MESSAGES]


def answer(bundle: Bundle, tokens: Sequence[int]) -> str:
    """The text of an answer."""
    return load(bundle.path).text.decode(tokens)


def until_end(bundle: Bundle, rows: Iterable[Sequence[int]]) -> list[list[int]]:
    """Each row up to the first token that ends a text, which some runtimes give and some don't."""
    ends = bundle.generation.eos
    return [list(takewhile(lambda token: token not in ends, row)) for row in rows]


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and mask of a batch."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + list(row) for row in rows]
    return ids, [[0] * (longest - len(row)) + [1] * len(row) for row in rows]


def greedy(bundle: Bundle, prompts: Sequence[Sequence[int]], count: int = LENGTH) -> list[list[int]]:
    """The tokens of each prompt alone on ONNX Runtime's own operators, before one that ends a text.

    Of a model with an encoder, that is the text which it reads; tokens that its checkpoint forces are forced.
    """
    engine, ends = OrtEngine(bundle), frozenset(bundle.generation.eos)
    sequences = [GeneratedSequence(prompt, max_new_tokens=count, stop_ids=ends) for prompt in prompts]
    if isinstance(bundle.config, EncoderDecoder):
        start = bundle.generation.prompt
        sampler = Sampler(**bundle.generation.defaults | {"temperature": None})
        sequences = [replace(one, prompt=start, encoder_ids=one.prompt, sampler=sampler) for one in sequences]
    return [list(generate(engine, sequence)) for sequence in sequences]


def searched(bundle: Bundle, texts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The tokens of a beam search for each text that the decoder reads, before one that ends it."""
    engine, generation = OrtEngine(bundle), bundle.generation
    options: dict[str, Any] = {
        "sampler": Sampler(**generation.defaults),
        "stop_ids": frozenset(generation.eos),
        "max_new_tokens": count,
        **generation.search,
    }
    searches = [BeamSearch(generation.prompt, encoder_ids=text, **options) for text in texts]
    return until_end(bundle, [beam_search(engine, one)[0].tokens for one in searches])


# (folder of the layout, batches of ids and masks, count) -> tokens of each row, as another runtime gives them
Generated = Callable[..., list[list[int]]]


def rows_of_a_batch_are_those_alone(name: str, layout: str, folder: Path, generated: Generated) -> None:
    bundle, prompt = family_bundle(name, folder)
    convert(bundle.path, folder / "out", layout)
    prompts = [prompt, prompt[1:3], prompt[:1]]
    count = min(24, bundle.config.context - len(prompt))
    tokens = generated(folder / "out", [left_padded(prompts)], count)
    assert until_end(bundle, tokens) == greedy(bundle, prompts, count)


def what_reads_an_encoder_gives_the_same_tokens(
    name: str, layout: str, folder: Path, generated: Generated
) -> None:
    bundle, text = family_bundle(name, folder)
    convert(bundle.path, folder / "out", layout)
    count = min(24, bundle.config.context - 1)
    texts = [text, text[::-1], text[1:4], text[:1], text[2:]]
    batches = [left_padded(texts), *(left_padded([text]) for text in texts)]
    tokens = generated(folder / "out", batches, count, reads=True)
    assert until_end(bundle, tokens) == 2 * greedy(bundle, texts, count)


def chats_are_the_same(bundle: Bundle, layout: str, generated: Generated, program: list[Any]) -> None:
    """The tokens of each message, and the text that a program over that runtime shows of the first."""
    out = bundle.path.parent / "out"
    convert(bundle.path, out, layout)
    expected = greedy(bundle, chats(bundle))
    tokens = generated(out, [left_padded([prompt]) for prompt in chats(bundle)], LENGTH)
    assert until_end(bundle, tokens) == expected
    shown = peers.run([*program, out, MESSAGES[0]])
    assert shown.strip() == answer(bundle, expected[0]).strip()
