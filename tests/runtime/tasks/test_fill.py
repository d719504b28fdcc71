"""What stands for a mask: as transformers' pipeline fills it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import task_models, text_strategies, tiny_models
from helpers.refused import refused
from tfm.refimpl.config import MaskedLM
from tfm.refimpl.errors import CheckpointError, LimitError

CONFIG = task_models.config(MaskedLM(tied=True))


@pytest.mark.parametrize("text", ["the [MASK] is", "[MASK]", "the[MASK] [MASK], cat"])
def test_fillings_are_those_of_the_pipeline(text: str) -> None:
    oracle = task_models.Oracle(CONFIG, task_models.SIZE, 3)
    wanted = task_models.pipeline("fill-mask", oracle)(text, top_k=4)
    masks = wanted if isinstance(wanted[0], list) else [wanted]
    [got] = task_models.reader(oracle).fill(text, count=4)
    assert len(got) == text.count("[MASK]")
    for mine, theirs in zip(got, masks, strict=True):
        assert [f.token for f in mine] == [w["token"] for w in theirs]
        # Special tokens say nothing as text.
        assert all(f.text in ("", w["token_str"]) for f, w in zip(mine, theirs, strict=True))
        np.testing.assert_allclose([f.score for f in mine], [w["score"] for w in theirs], rtol=1e-5)


def test_fillings_are_text_and_no_names_of_tokens() -> None:
    """A byte-level tokenizer writes a space as Ġ in a token's name; a special token has only its name."""
    tokenizer = text_strategies.roberta()
    config = tiny_models.encoder(vocabulary=tokenizer.get_vocab_size(), head=CONFIG.head)
    oracle = task_models.Oracle(config, tokenizer.get_vocab_size(), 3)
    model = task_models.reader(oracle, tokenizer=tokenizer, mask=tokenizer.token_to_id("<mask>"))
    [[fillings]] = model.fill("the <mask>", count=tokenizer.get_vocab_size())
    texts = {filling.token: filling.text for filling in fillings}
    assert texts[tokenizer.token_to_id("Ġthe")] == " the"
    assert texts[tokenizer.token_to_id("<s>")] == "<s>"


def test_only_the_mask_is_read_in_a_text() -> None:
    model = task_models.tiny_reader(MaskedLM(tied=True))
    spelled, control = "cat [SEP] [MASK]", [2, 4]
    row = model.text.encode_with_offsets(spelled, control_token="[MASK]")
    assert [row.ids[0], row.ids[-2]] == control
    assert row.ids[1:-2].count(3) == 0
    many = model.fill(["the [MASK]", spelled, "[MASK] [MASK] is"], count=2, batch=2)
    assert [len(masks) for masks in many] == [1, 1, 2]
    alone = model.fill(spelled, count=2)[0][0]
    assert [f.token for f in many[1][0]] == [f.token for f in alone]
    assert [f.score for f in many[1][0]] == pytest.approx([f.score for f in alone], rel=1e-5)
    assert len(model.fill("[MASK]", count=10_000)[0][0]) == task_models.SIZE


def test_what_is_refused() -> None:
    model = task_models.tiny_reader(MaskedLM(tied=True))
    with refused(LimitError, "text", "2", "mask", "[MASK]"):
        model.fill(["[MASK]", "the <mask>"])
    with refused(LimitError, "text", "2", "single"):
        model.fill(["[MASK]", ("[MASK]", "cat")])
    assert len(model.fill(("[MASK]", "the [MASK]"))) == 2
    with refused(LimitError, "count", "1", "0"):
        model.fill("[MASK]", count=0)
    with refused(CheckpointError, "mask", "token"):
        task_models.reader(model.engine, mask=None).fill("[MASK]")
