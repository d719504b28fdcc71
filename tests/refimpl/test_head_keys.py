"""Labels and how their logits are read, as a config states them."""

import pytest
import transformers
from families.kit import SIZES
from tfm.refimpl.config import Classify
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.families import read_config
from tfm.refimpl.head_keys import labels
from tfm.refimpl.keys import Keys

BASE = {"model_type": "bert", **SIZES}
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
    got = labels(Keys(theirs.to_dict(), "config.json"))
    assert got == labels(Keys(keys, "config.json")) == tuple(theirs.id2label[i] for i in range(len(got)))
    assert head(**keys).labels == theirs.num_labels


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, "single"),
        ({"problem_type": None, "num_labels": 1}, "multi"),
        ({"problem_type": "single_label_classification"}, "single"),
        ({"problem_type": "multi_label_classification"}, "multi"),
        ({"problem_type": "regression", "num_labels": 1}, "regression"),
    ],
)
def test_how_logits_are_read(keys, kind):
    assert isinstance(head(**keys), Classify)
    assert head(**keys).kind == kind


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"id2label": {}}, "id2label must be names of the ids 0, 1"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must be names of the ids 0, 1"),
        ({"id2label": {"0": "a", "1": 3}}, "id2label must be names of the ids 0, 1"),
        ({"id2label": {"0": "a", "01": "b"}}, "id2label must be names of the ids 0, 1"),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, "num_labels must be the number of names in"),
        ({"num_labels": 2**40}, "num_labels must be at most"),
        ({"num_labels": 0}, "num_labels must be at least 1"),
        (
            {"problem_type": "ranking"},
            "problem_type must be one of regression, single_label_classification, ",
        ),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "one of regression, multi_label"),
        ({"architectures": ["BertForQuestionAnswering"], "num_labels": 3}, "id2label must be two labels"),
    ],
)
def test_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        read_config({**CLASSIFY, **keys})
