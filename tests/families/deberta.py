"""DeBERTa."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import Row


@st.composite
def deberta(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The keys that all versions share; distances beyond the span in a text of 12 tokens."""
    terms = draw(st.sampled_from([["c2p", "p2c"], "p2c|c2p", ["c2p"], ["p2c"], None]))
    return draw(bert()) | {
        "type_vocab_size": draw(st.sampled_from([0, 2])),
        "relative_attention": draw(st.sampled_from([True, True, True, False])),
        "pos_att_type": terms,
        "max_relative_positions": draw(st.sampled_from([-1, 1, 3, 16])),
        "position_biased_input": draw(st.booleans()),
        "pooler_hidden_act": draw(st.sampled_from(["gelu", "tanh"])),
        "legacy": draw(st.booleans()),
        **{key: draw(strategy) for key, strategy in more.items()},
    }


def models(name: str) -> tuple[Any, ...]:
    """A version's classes."""
    ends = "Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"
    return tuple(getattr(transformers, name + end) for end in (*ends, "ForQuestionAnswering"))


def tie_legacy(model: Any) -> None:
    """One output bias under both of its names, in the head that has two."""
    if hasattr(model, "cls"):
        tie(model)


ROWS = {"deberta": Row(transformers.DebertaConfig, models("Deberta"), deberta(), amend=tie_legacy)}
