"""What the rows of the families share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

# The sizes that a config can't do without, by their usual names.
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
}

ROPES = st.one_of(
    st.builds(dict, rope_type=st.just("default"), rope_theta=st.sampled_from([100.0, 10_000.0])),
    st.builds(
        dict,
        rope_type=st.just("linear"),
        rope_theta=st.just(10_000.0),
        factor=st.sampled_from([2.0, 3.5]),
    ),
    st.builds(
        dict,
        rope_type=st.just("llama3"),
        rope_theta=st.just(500_000.0),
        factor=st.sampled_from([4.0, 8.0]),
        low_freq_factor=st.just(1.0),
        high_freq_factor=st.sampled_from([2.0, 4.0]),
        original_max_position_embeddings=st.sampled_from([16, 64]),
    ),
)


@st.composite
def sizes(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The keys that Llama-like families share; odd head counts, head sizes free of the width."""
    groups, share = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3]))
    heads = groups * share
    return {
        "vocab_size": 61,
        "hidden_size": heads * draw(st.sampled_from([4, 10])),
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": draw(st.sampled_from([2, 6, 16])),
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        "max_position_embeddings": 128,
        "rope_parameters": draw(ROPES),
        **{key: draw(strategy) for key, strategy in more.items()},
    }


@dataclass(frozen=True)
class Row:
    """A model_type: transformers' config class, its classes of models, and a strategy for the config's keys.

    The first model is the usual one; the others have other heads. `sizes` are the keys that have no
    default in tfm, under the names that the class gives them.
    """

    config: Any
    models: tuple[Any, ...]
    keys: st.SearchStrategy[dict[str, Any]]
    sizes: Mapping[str, Any] = field(default_factory=lambda: SIZES)
