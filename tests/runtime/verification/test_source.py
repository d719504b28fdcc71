"""`verify --source` sees each part of a bundle that isn't its source's, though all hashes are right."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from helpers.exported import rehash
from tfm.export import bundle_writer
from tfm.export.tokenizer_text import quick_to_load
from tfm.refimpl.checkpoint.generation_config import Generation
from tfm.refimpl.checkpoint.licence import Licence
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.ops.quant import Blocks
from tfm.runtime.bundle import manifest
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.verification.checks.context import VerifyContext
from tfm.runtime.verification.checks.source import check_source, licence_row, tokenizer_parts
from tfm.runtime.verification.checks.weights import compare_weights
from tfm.runtime.verification.golden import load as golden_arrays
from tfm.runtime.verification.report import Row

Json = Any
Array = np.ndarray
Plant = Callable[[Path], None]
TOKENIZER = text_strategies.byte_level()
CONFIG = tiny_models.llama(vocabulary=TOKENIZER.get_vocab_size())
LOWER = {"type": "Lowercase"}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a checkpoint that has all that a source may have, and its bundle."""
    folder = tmp_path_factory.mktemp("made")
    source = folder / "model"
    generation = {"eos_token_id": [2, 3], "bos_token_id": 1, "temperature": 0.6, "do_sample": True}
    save_checkpoint(
        source, CONFIG, tiny_models.weights(CONFIG), TOKENIZER.to_str(), TEMPLATE, generation=generation
    )
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    (source / "LICENSE").write_text("Do as you like.")
    bundle_writer.export(open_checkpoint(source), folder / "bundle", quant="int8", verify=False)
    (folder / "bundle" / "certificate.json").unlink()
    return folder


def restate(path: Path, **changes: Any) -> None:
    """Other fields of the manifest."""
    held = replace(open_bundle(path).manifest, **changes)
    (path / "tfm.json").write_text(manifest.dump(held))


def rows(path: Path, source: Path) -> list[Row]:
    context = VerifyContext(open_bundle(path), open_checkpoint(source), None, float("inf"), "cpu", 1)
    return list(check_source(context))


def tokenizer(change: Callable[[Json], None]) -> Plant:
    def plant(path: Path) -> None:
        stated = json.loads((path / "tokenizer.json").read_text())
        change(stated)
        (path / "tokenizer.json").write_text(json.dumps(stated))
        rehash(path)

    return plant


def ids_swapped(stated: Json) -> None:
    vocabulary = stated["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def merges_swapped(stated: Json) -> None:
    merges = stated["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def model_with_flag(stated: Json) -> None:
    stated["model"]["ignore_merges"] = True


def added_token_stripped(stated: Json) -> None:
    stated["added_tokens"][0]["lstrip"] = True


def written(name: str, text: str) -> Plant:
    def plant(path: Path) -> None:
        (path / name).write_text(text)
        rehash(path)

    return plant


def removed(path: Path, name: str) -> None:
    (path / name).unlink()
    rehash(path)


def generation(**changes: Any) -> Plant:
    return lambda path: restate(path, generation=replace(open_bundle(path).generation, **changes))


def golden(name: str, place: Any = ..., factor: float = 1.001) -> Plant:
    def plant(path: Path) -> None:
        file = path / f"golden/{name}.npy"
        array = np.load(file)
        array[place] *= factor
        np.save(file, array)
        rehash(path)

    return plant


def stated(**changes: Any) -> Plant:
    return lambda path: restate(path, source=replace(open_bundle(path).manifest.source, **changes))


ARRAYS = "golden arrays of the bundle's weights"
PLANTS: dict[str, tuple[str, str, Plant]] = {
    "two ids": ("tokenizer", "model.vocab", tokenizer(ids_swapped)),
    "merges": ("tokenizer", "model.merges", tokenizer(merges_swapped)),
    "the model": ("tokenizer", "model.ignore_merges", tokenizer(model_with_flag)),
    "normalizer": ("tokenizer", "normalizer", tokenizer(lambda t: t.update(normalizer=LOWER))),
    "words": ("tokenizer", "pre_tokenizer", tokenizer(lambda t: t["pre_tokenizer"].update(use_regex=False))),
    "added token": ("tokenizer", "added_tokens", tokenizer(added_token_stripped)),
    "first token": ("tokenizer", "post_processor", tokenizer(lambda t: t.update(post_processor=None))),
    "decoder": ("tokenizer", "decoder", tokenizer(lambda t: t["decoder"].update(add_prefix_space=False))),
    "no tokenizer": ("tokenizer", "version", partial(removed, name="tokenizer.json")),
    "template": ("chat templates", "chat_template.jinja", written("chat_template.jinja", TEMPLATE + " ")),
    "no template": ("chat templates", "chat_template.jinja", partial(removed, name="chat_template.jinja")),
    "end tokens": ("settings", "generation.eos", generation(eos=(2,))),
    "temperature": ("settings", "generation.defaults", generation(defaults={"temperature": 3.0})),
    "end text": ("settings", "generation.stop", generation(stop=("x",))),
    "code": ("settings", "code_replaced_by", stated(code_replaced_by="llama")),
    "licence": ("licence", "LICENSE", written("LICENSE", "Pay.")),
    "card": ("licence", "README.md", written("README.md", "---\nlicense: apache-2.0\n---\n")),
    "no licence": ("licence", "LICENSE", partial(removed, name="LICENSE")),
    "statement": ("licence", "statement", stated(licence="apache-2.0")),
    "golden": ("golden outputs of the source: largest error", "", golden("floats")),
    "outputs": (ARRAYS, "own.logits", golden("own.logits")),
    "distance of the two best": (ARRAYS, "gap", golden("gap", 3)),
    "rounding in float32": (ARRAYS, "plain.maximum", golden("plain.maximum", 0, 20)),
    "a flipped code": (ARRAYS, "own.rms", golden("own.rms", 1, 1.02)),
    "an ulp": (ARRAYS, "plain.maximum", golden("plain.maximum", 2, 1.02)),
    "a cache in float16": (ARRAYS, "half", golden("half", 1, 1.02)),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS)
def test_each_part_that_is_not_the_sources_is_named(made, tmp_path, plant):
    path = Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))
    name, part, change = PLANTS[plant]
    change(path)
    (wrong,) = (row for row in rows(path, made / "model") if not row.ok)
    assert wrong.ok is False
    assert wrong.name.split(" equal")[0] == name
    assert part in wrong.note


def test_all_that_a_source_has_is_compared(made):
    found = rows(made / "bundle", made / "model")
    assert all(row.ok for row in found), found
    templates, licence = (next(r for r in found if r.name.startswith(n)) for n in ("chat", "licence"))
    assert (templates.of, licence.of) == (1, 3)
    stated = {field.name for field in fields(Generation)}
    settings = next(row for row in found if row.name.startswith("settings"))
    assert settings.of == len(stated) + 4  # labels, left_out, ignored_keys, code_replaced_by
    assert (next(row for row in found if row.name.startswith("golden")).budget or 0) > 0


@pytest.fixture(scope="module")
def rounded(made) -> Path:
    """A bundle of the same checkpoint in which matrices of 4 bits were rounded over a text that it drew."""
    bundle_writer.export(open_checkpoint(made / "model"), made / "int4", quant="int4", verify=False)
    return made / "int4"


def weights_row(path: Path, source: Path, leaf: Callable[[str, Blocks], Blocks], **golden: Any) -> Row:
    """The row of the weights where `leaf` changes those of the bundle, and the golden arrays are others."""
    held, model = Bundle.leaf, open_checkpoint(source)
    context = VerifyContext(open_bundle(path), model, None, float("inf"), "cpu", 1)

    def changed(bundle: Bundle, name: str) -> Array | Blocks:
        value = held(bundle, name)
        return leaf(name, value) if isinstance(value, Blocks) else value

    context.golden = replace(context.golden, **golden)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bundle, "leaf", changed)
        (row,) = compare_weights(context, "weights", model)
    return row


@pytest.mark.parametrize(("part", "place"), [("codes", 0), ("codes", 1), ("scale", 0), ("zero", 1)])
def test_one_wrong_number_of_a_matrix_that_compensates_is_seen(rounded, made, part: str, place: int):
    """A code that is one too many or too few, in the first row or the last; a scale that is 3 % too large; a
    zero point."""
    wrong = "decoder.layers.1.mlp.down"

    def leaf(name: str, blocks: Blocks) -> Blocks:
        if name != wrong or getattr(blocks, part) is None:
            return blocks
        values = getattr(blocks, part).copy()
        at = -place, 3
        values[at] = values[at] * np.float32(1.03) if part == "scale" else values[at] ^ 1
        return replace(blocks, **{part: values})

    row = weights_row(rounded, made / "model", leaf)
    symmetric = open_bundle(rounded).manifest.schemes[wrong].symmetric
    assert row.ok is (part == "zero" and symmetric)
    assert (wrong in row.note) is not row.ok


def test_the_text_that_matrices_were_rounded_over_is_the_bundles(rounded, made):
    def same(name: str, blocks: Blocks) -> Blocks:
        return blocks

    text = golden_arrays(open_bundle(rounded)).rounding
    assert text is not None
    assert weights_row(rounded, made / "model", same).ok
    for other in (None, np.roll(text, 1, axis=1)):
        row = weights_row(rounded, made / "model", same, rounding=other)
        assert row.ok is False
        assert row.of is not None
        assert row.of - int(row.figure or 0) > 8, "most matrices differ"


TOKENIZERS = ("byte_level", "sentencepiece", "unigram", "wordpiece", "roberta")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_that_is_written_otherwise_is_equal(kind):
    """In a bundle tokens have another order, and merges another form."""
    text = getattr(text_strategies, kind)().to_str()
    quick = quick_to_load(text)
    one, other = (tokenizer_parts(SimpleNamespace(tokenizer=form)) for form in (text, quick))
    assert one == other
    assert len(one) > 9


def test_what_a_reader_of_tokenizers_tells_apart_is_not_equal():
    def merges(*stated: Json) -> str:
        text = json.dumps({"model": {"merges": stated}})
        return tokenizer_parts(SimpleNamespace(tokenizer=text))["model.merges"]

    assert merges("a b") == merges(["a", "b"])
    different = (["a", "b c"], ["a b", "c"], "a b c", "#version b", ["#version", "b"], "ab")
    assert len({merges(one) for one in different}) == len(different)
    one, other = (SimpleNamespace(tokenizer=text) for text in ('{"a": 1}', '{"a": true}'))
    assert tokenizer_parts(one) != tokenizer_parts(other)
    assert tokenizer_parts(SimpleNamespace(tokenizer="{")) == {"tokenizer.json": "{"}


def test_a_licence_beside_a_file_that_has_company_is_not_judged(made):
    """It is known to be the file's only while nothing else lies there."""
    source = open_checkpoint(made / "model")
    alone = SimpleNamespace(licence=Licence(), path=made / "model.gguf")
    row = licence_row(open_bundle(made / "bundle"), alone)
    assert (row.ok, row.result) == (None, "not checked")
    assert re.search("files .*licence", row.note)
    assert licence_row(open_bundle(made / "bundle"), source).ok
