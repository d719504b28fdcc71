"""GTE, under transformers' name and under that of the checkpoints' own code."""

import json
import re
from pathlib import Path
from typing import Any

import transformers
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from .kit import SIZES, Row
from .nomic_bert import rotated

MODELS = (
    transformers.GteModel,
    transformers.GteForMaskedLM,
    transformers.GteForSequenceClassification,
    transformers.GteForTokenClassification,
)


@st.composite
def _scaled(draw: st.DrawFn) -> dict[str, Any]:
    """No scaling, or the older code's in transformers' terms: another theta, and all frequencies divided."""
    keys = draw(rotated(type_vocab_size=st.sampled_from([0, 1, 2])))
    factor, size = draw(st.sampled_from([None, 2.0, 8.0])), keys["hidden_size"] // keys["num_attention_heads"]
    theta = draw(st.sampled_from([20_000.0, 5e5]))
    scaled = {
        "rope_type": "linear",
        "rope_theta": theta * (factor or 1),
        "factor": (factor or 1) ** (2 / size),
    }
    keys["rope_parameters"] = scaled if factor else {"rope_type": "default", "rope_theta": theta}
    return keys


def restate(folder: Path) -> None:
    """The files as the older code writes them."""
    tensors = load_file(folder / "model.safetensors")
    renamed = {re.sub("^gte", "new", name): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors")
    stated = json.loads((folder / "config.json").read_text())
    rope, size = stated.pop("rope_parameters"), stated["hidden_size"] // stated["num_attention_heads"]
    factor = round(rope.get("factor", 1) ** (size / 2), 9)
    stated |= {
        "model_type": "new", "rope_theta": rope["rope_theta"] / factor, "layer_norm_type": "layer_norm",
        "position_embedding_type": "rope", "pack_qkv": True, "logn_attention_scale": False,
        "rope_scaling": {"type": "ntk", "factor": factor} if factor != 1 else None,
        "architectures": [name.replace("Gte", "New") for name in stated["architectures"]],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(stated))


ROWS = {
    "gte": Row(transformers.GteConfig, MODELS, rotated(type_vocab_size=st.sampled_from([0, 1, 2]))),
    "new": Row(
        transformers.GteConfig,
        MODELS,
        _scaled(),
        {**SIZES, "rope_theta": 160_000.0},
        restate=restate,
        stays=False,
    ),
}
