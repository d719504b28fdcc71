"""GLM-5."""

import json
from pathlib import Path
from typing import Any

import transformers
from hypothesis import strategies as st

from .deepseek_v32 import indexed
from .glm4_moe import choice_biases
from .kit import SIZES, Row

# What says which layers share an indexer; without any of it, none.
SHARING = (
    {"index_topk_freq": 2, "index_skip_topk_offset": 1},
    {"index_topk_freq": 3},
    {"index_topk_pattern": "FFSSFS"},
    {"indexer_types": ["full", "shared", "full", "shared"]},
)


@st.composite
def shared(draw: st.DrawFn) -> dict[str, Any]:
    """Up to four layers, of which some share the indexer of one before."""
    drawn = draw(indexed())
    if not draw(st.integers(0, 3)):
        return drawn
    return drawn | {"num_hidden_layers": draw(st.sampled_from([4, 3])), **draw(st.sampled_from(SHARING))}


def as_stated(folder: Path) -> None:
    """config.json with the pattern that a publisher states, without the list made of it."""
    path = folder / "config.json"
    keys = json.loads(path.read_text())
    if "index_topk_pattern" in keys or "index_topk_freq" in keys:
        del keys["indexer_types"]
    path.write_text(json.dumps(keys))


ROWS = {
    "glm_moe_dsa": Row(
        transformers.GlmMoeDsaConfig,
        (transformers.GlmMoeDsaForCausalLM,),
        shared(),
        {**SIZES, "num_attention_heads": 64},
        amend=choice_biases,
        restate=as_stated,
    )
}
