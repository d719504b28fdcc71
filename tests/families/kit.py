"""What the rows of the families share."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.config_readers import keys

# As transformers imports a class it writes its docstring, which is a quarter of the time of the import.
transformers.utils.auto_docstring = lambda written=None, **_: written or (lambda later: later)

ACTIVATIONS = st.sampled_from(sorted(keys.ACTIVATIONS))
# The sizes that a config can't do without, by their usual names.
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
}

CONTEXT = 128
# For classes whose own ids lie outside of so small a vocabulary.
IDS: dict[str, Any] = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}


@st.composite
def ropes(
    draw: st.DrawFn, head_size: int, kinds: str = "default linear dynamic yarn longrope llama3"
) -> dict[str, Any]:
    """rope_parameters of any of the kinds, for heads of which head_size elements are turned."""
    kind = draw(st.sampled_from(kinds.split()))
    config_keys: dict[str, Any] = {
        "rope_type": kind,
        "rope_theta": draw(st.sampled_from([100.0, 10_000.0, 5e5])),
    }
    if kind in ("yarn", "longrope", "llama3"):  # as long as the prompt of the tests, or longer
        config_keys["original_max_position_embeddings"] = draw(st.sampled_from([12, 16, 64]))
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        config_keys["factor"] = draw(st.sampled_from([2.0, 3.5, 8.0]))
    if kind == "llama3":
        config_keys |= {"low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
    if kind == "longrope":
        divisors = st.lists(
            st.sampled_from([1.0, 1.25, 7.5]), min_size=head_size // 2, max_size=head_size // 2
        )
        config_keys |= {"short_factor": draw(divisors), "long_factor": draw(divisors)}
        config_keys |= draw(st.sampled_from([{}, {"factor": 4.0}, {"attention_factor": 1.25}]))
    if kind == "yarn":
        more = {
            "beta_fast": st.sampled_from([None, 4.0]),
            "beta_slow": st.sampled_from([None, 2.0]),
            "truncate": st.booleans(),
        }
        config_keys |= draw(st.fixed_dictionaries({}, optional=more))
        scales = {"mscale": 0.707, "mscale_all_dim": 1.5}
        config_keys |= draw(st.sampled_from([{}, {"attention_factor": 1.5}, scales, {"mscale": 0.707}]))
        config_keys["factor"] = draw(st.sampled_from([None, config_keys["factor"]]))
    return config_keys


def per_layer(layers: int, *values: Any) -> st.SearchStrategy[list[Any]]:
    """One of the values for each layer."""
    return st.lists(st.sampled_from(values), min_size=layers, max_size=layers)


@st.composite
def sizes(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The keys that Llama-like families share; odd head counts, head sizes free of the width."""
    groups, share = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3]))
    heads, size = groups * share, draw(st.sampled_from([4, 6, 16]))
    return {
        "vocab_size": 61,
        "hidden_size": heads * draw(st.sampled_from([4, 10])),
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": size,
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
        "tie_word_embeddings": draw(st.booleans()),
        "max_position_embeddings": CONTEXT,
        "rope_parameters": draw(ropes(size)),
        **{key: draw(strategy) for key, strategy in more.items()},
    }


@st.composite
def of_whole_heads(
    draw: st.DrawFn,
    width: str,
    heads: str,
    counts: Sequence[int] = (1, 3, 5),
    sizes: Sequence[int] = (4, 8, 20),
    **more: Any,
) -> dict[str, Any]:
    """Keys with a width of so many heads of a size. Others are drawn from a strategy or a list, or stay."""
    count = draw(st.sampled_from(counts))
    drawn = {width: count * draw(st.sampled_from(sizes)), heads: count, "vocab_size": 61}
    for key, given in more.items():
        strategy = st.sampled_from(given) if isinstance(given, list) else given
        drawn[key] = draw(strategy) if isinstance(strategy, st.SearchStrategy) else given
    return drawn


def decoder(
    config: Any,
    model: Any,
    keys: st.SearchStrategy[dict[str, Any]],
    sizes: Mapping[str, Any] = SIZES,
    reads: str = "",
    **more: Any,
) -> Row:
    """A decoder's row: the class that writes, and as far as transformers has them those that read whole
    texts, whose names begin with `reads`."""
    name = reads or re.sub("ForCausalLM|LMHeadModel", "", model.__name__)
    ends = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    classes = [getattr(transformers, name + end, None) for end in ends]
    both = st.builds(operator.or_, keys, labelled())
    return Row(config, (model, *filter(None, classes)), both, sizes, **more)


@st.composite
def wrapped(
    draw: st.DrawFn, text: st.SearchStrategy[dict[str, Any]], vision: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Keys of a model that reads images too: its text model's, and those of a small tower."""
    return {
        **more,
        "text_config": draw(text),
        "vision_config": {**vision},
        "tie_word_embeddings": draw(st.booleans()),
    }


@st.composite
def labelled(draw: st.DrawFn) -> dict[str, Any]:
    """Labels, and how their logits are read; transformers has no single label of a single one."""
    count = draw(st.sampled_from([1, 2, 5]))
    kinds = ["regression", "multi_label_classification", "single_label_classification"]
    return {
        "num_labels": count,
        "problem_type": draw(st.sampled_from([None, *kinds[: 3 if count > 1 else 2]])),
    }


@dataclass(frozen=True)
class Row:
    """A model_type: transformers' config class, its classes of models, and a strategy for the config's keys.

    The first model is the usual one; the others have other heads. `sizes` are the keys that have no
    default in tfm, under the names that the class gives them; `reads` are keys that mean nothing to
    other families. With `alone` transformers computes each row without a batch, which changes rows there.
    `amend` sets what isn't random, in float32 or float64. `restate` rewrites a saved directory in the
    spelling of another library. `stays` says that a key means the same when transformers has written the
    config anew.
    """

    config: Any
    models: tuple[Any, ...]
    keys: st.SearchStrategy[dict[str, Any]]
    sizes: Mapping[str, Any] = field(default_factory=lambda: SIZES)
    attention: str = "eager"
    reads: frozenset[str] = frozenset()
    alone: bool = False
    amend: Callable[[Any], None] = lambda _: None
    restate: Callable[[Path], None] = lambda _: None
    stays: bool = True
