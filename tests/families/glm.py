"""GLM-4 9B."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, decoder, ropes, sizes


@st.composite
def rotated_in_part(
    draw: st.DrawFn, strategy: st.SearchStrategy[dict[str, Any]], default: float = 0.5
) -> dict[str, Any]:
    """The keys with a part of each head rotated, `default` of it where no key says so; 3 of 6 and 5 of 12
    too."""
    keys = draw(strategy)
    size, part = draw(st.sampled_from([(16, None), (8, None), (6, None), (8, 1.0), (12, 0.45), (20, 0.3)]))
    turned = int(size * (part or default))
    kinds = "default linear dynamic longrope llama3" + ("" if turned % 2 else " yarn")
    rope = draw(ropes(turned + turned % 2, kinds))
    outside = {} if part is None else {"partial_rotary_factor": part}
    if draw(st.booleans()):
        rope, outside = rope | outside, {}
    return keys | outside | {"head_dim": size, "rope_parameters": rope}


def glm() -> st.SearchStrategy[dict[str, Any]]:
    """The keys of GLM and GLM-4."""
    return rotated_in_part(sizes(attention_bias=st.booleans())).map(lambda keys: keys | IDS)


ROWS = {"glm": decoder(transformers.GlmConfig, transformers.GlmForCausalLM, glm())}
