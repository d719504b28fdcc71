"""Labels and how their logits are read, as a config states them."""

import pytest
import transformers
from families import ROWS
from families.kit import SIZES
from helpers.refused import refused
from tfm.refimpl.checkpoint.config_readers.heads import labels
from tfm.refimpl.checkpoint.config_readers.keys import Keys
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import Classify
from tfm.refimpl.errors import ConfigError

BASE = {"model_type": "bert", **SIZES}
RAW = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}
OLDER, SIGMOID = "sbert_ce_default_activation_function", "torch.nn.modules.activation.Sigmoid"
CLASSIFY = {**BASE, "architectures": ["BertForSequenceClassification"]}


def head(**more):
    return read_config({**CLASSIFY, **more})[0].head


@pytest.mark.parametrize(
    "keys",
    [{}, {"num_labels": 1}, {"num_labels": 12}, {"id2label": {"1": "b", "0": "a"}}],
    ids=["none", "one", "twelve", "named"],
)
def test_labels_are_those_of_transformers(keys):
    theirs = transformers.BertConfig(**keys)
    for stated in (keys, theirs.to_dict()):
        assert labels(Keys(stated, "config.json")) == theirs.num_labels
    assert head(**keys).labels == theirs.num_labels


@pytest.mark.parametrize(("name", "prefix"), [("bart", "Bart"), ("mt5", "MT5"), ("t5", "T5")])
def test_what_a_reading_decoder_begins_with_may_have_a_default(name, prefix):
    keys = {"model_type": name, "architectures": [f"{prefix}ForQuestionAnswering"], **ROWS[name].sizes}
    start = getattr(ROWS[name].config(), "decoder_start_token_id", None)
    if start is not None:
        assert read_config(keys)[0].decoder.start == start
    else:
        with refused(ConfigError, "decoder_start_token_id", "missing"):
            read_config(keys)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, "single"),
        ({"problem_type": None, "num_labels": 1}, "multi"),
        ({"problem_type": "single_label_classification"}, "single"),
        ({"problem_type": "multi_label_classification"}, "multi"),
        ({"problem_type": "regression", "num_labels": 1}, "regression"),
        ({"sentence_transformers": RAW, "num_labels": 1}, "regression"),
        ({"sentence_transformers": {"version": "4.1.0"}, "num_labels": 1}, "multi"),
        ({"sentence_transformers": RAW, "problem_type": "multi_label_classification"}, "multi"),
        ({OLDER: RAW["activation_fn"], "num_labels": 1}, "regression"),
        ({OLDER: SIGMOID, "num_labels": 2}, "multi"),
        ({OLDER: None, "num_labels": 1}, "multi"),
        ({OLDER: SIGMOID, "sentence_transformers": RAW, "num_labels": 1}, "regression"),
    ],
)
def test_how_logits_are_read(keys, kind):
    assert isinstance(head(**keys), Classify)
    assert head(**keys).kind == kind


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, "num_labels"),
        ({"num_labels": 2**40}, "labels 1"),
        ({"id2label": {}}, "labels 1"),
        ({"num_labels": 0}, "num_labels 1"),
        ({"problem_type": "ranking"}, "problem_type single_label_classification"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "multi_label_classification"),
        ({OLDER: "torch.nn.modules.activation.Tanh"}, "sbert_ce_default_activation_function"),
        ({"is_decoder": True}, "is_decoder false"),
        ({"architectures": ["BertForQuestionAnswering"], "num_labels": 3}, "id2label"),
    ],
)
def test_refused(keys, words):
    with refused(ConfigError, *words.split()):
        read_config({**CLASSIFY, **keys})
