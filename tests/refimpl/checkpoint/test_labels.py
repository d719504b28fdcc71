"""What labels and masks are called, and what may not be called so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.refimpl.checkpoint.labels import mask_id, read_labels
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Classify, Config, MaskedLM, Tag
from tfm.refimpl.errors import CheckpointError

TAGS = tiny_models.encoder(head=Tag(3))
WORDS = tiny_models.encoder(head=MaskedLM(tied=True))


def tokenizer(number: object = 4) -> str:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    added = [{"content": "[CLS]", "id": 2}, {"content": "[MASK]", "id": number}]
    return json.dumps({"added_tokens": added, "model": {"type": "WordPiece", "vocab": vocabulary}})


def test_labels_and_mask_are_saved_and_opened(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tags", TAGS, tiny_models.weights(TAGS), labels=("O", "B-PER", "I-PER"))
    assert open_checkpoint(tmp_path / "tags").labels == ("O", "B-PER", "I-PER")
    save_checkpoint(tmp_path / "words", WORDS, tiny_models.weights(WORDS), tokenizer(), mask="[MASK]")
    opened = open_checkpoint(tmp_path / "words")
    assert (opened.labels, opened.generation.mask) == ((), 4)


@pytest.mark.parametrize(
    ("config", "named", "want"),
    [
        (TAGS, {"0": "O", "2": "Y", "1": "X"}, ("O", "X", "Y")),
        (TAGS, None, ("LABEL_0", "LABEL_1", "LABEL_2")),
        (tiny_models.encoder(head=Classify(1)), {"0": "toxic"}, ("toxic",)),
        (WORDS, {"0": "LABEL_0", "1": "LABEL_1"}, ()),  # transformers writes them for every model
    ],
)
def test_labels(config: Config, named: object, want: tuple[str, ...]) -> None:
    assert read_labels({"id2label": named}, config, "config.json") == want


@pytest.mark.parametrize(
    ("named", "match"),
    [
        (["O", "X", "Y"], "labels 0 2"),
        ({"0": "O", "1": "X"}, "labels 0 2"),
        ({"0": "O", "1": "X", "2": "Y", "3": "Z"}, "labels 0 2"),
        ({"0": "O", "1": "X", "2": 5}, "name"),
        ({"0": "O", "1": "X", "2": "X"}, "name"),
    ],
)
def test_bad_labels(named: object, match: str) -> None:
    with refused(CheckpointError, *match.split()):
        read_labels({"id2label": named}, TAGS, "config.json")


@pytest.mark.parametrize(
    ("named", "number", "want"),
    [("[MASK]", 4, 4), ({"content": "[MASK]", "lstrip": True}, 4, 4), (None, 4, None)],
)
def test_mask(named: object, number: object, want: int | None) -> None:
    assert mask_id({"mask_token": named}, {}, tokenizer(number), WORDS, "x") == want
    assert mask_id({"mask_token": named}, {}, None, WORDS, "x") is None
    assert mask_id({"mask_token": named}, {}, tokenizer(number), TAGS, "x") is None


@pytest.mark.parametrize(("token", "want"), [("[MASK]", 4), ("<mask>", None)])
def test_mask_of_the_class(token: str, want: int | None) -> None:
    """A class names its mask itself; a vocabulary without it has none."""
    assert mask_id({}, {"mask_token": token}, tokenizer(4), WORDS, "x") == want


@pytest.mark.parametrize(("named", "number"), [("<mask>", 4), ("[MASK]", 97), ("[MASK]", "4"), (7, 4)])
def test_bad_mask(named: object, number: object) -> None:
    with refused(CheckpointError, "mask_token"):
        mask_id({"mask_token": named}, {}, tokenizer(number), WORDS, "tokenizer_config.json")
