"""InternLM 2: transformers' Llama, with the keys and the weights of the public checkpoints.

transformers has no class for it. Both compute the same; the code beside the checkpoints has names of its own,
and fuses queries, keys and values, group by group, into `wqkv`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from hypothesis import strategies as st
from safetensors.torch import save_file

from .kit import SIZES, Row, labelled, ropes, sizes

NAMES = {
    "embed_tokens": "tok_embeddings", "lm_head": "output", "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
}  # fmt: skip


class InternLM2Config(transformers.LlamaConfig):
    """Llama's, with the biases under their name there, and without what InternLM 2 hasn't."""

    model_type = "internlm2"
    attribute_map: ClassVar = {"bias": "attention_bias"}
    attention_bias: bool = True

    def to_dict(self) -> dict[str, Any]:
        keys = super().to_dict()
        keys["bias"] = keys.pop("attention_bias")
        return {key: value for key, value in keys.items() if key not in ("mlp_bias", "head_dim")}


def fused(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Llama's tensors as InternLM 2 stores them: queries of a group, then its key and its value."""
    stored: dict[str, torch.Tensor] = {}
    groups = config.num_key_value_heads
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.*)self_attn\.q_proj\.(weight|bias)", name):
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            rows = torch.cat([part.unflatten(0, (groups, -1)) for part in parts], 1)
            stored[f"{match[1]}attention.wqkv.{match[2]}"] = rows.flatten(0, 1)
        elif "k_proj" not in name and "v_proj" not in name:
            for old, new in NAMES.items():
                name = name.replace(old, new)
            stored[name] = tensor
    return {name: tensor.contiguous().clone() for name, tensor in stored.items()}


def _save_pretrained(model: Any, folder: str | Path) -> None:
    """Write the model's files as they are public."""
    tensors = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_file(fused(tensors, model.config), Path(folder) / "model.safetensors")


ENDS = ("ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
MODELS = tuple(
    type(
        f"InternLM2{end}",
        (getattr(transformers, f"Llama{end}"),),
        {"config_class": InternLM2Config, "save_pretrained": _save_pretrained},
    )
    for end in ENDS
)
transformers.AutoModel.register(InternLM2Config, MODELS[1])  # which the classes with other heads ask


@st.composite
def _internlm2(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(sizes(bias=st.booleans()))
    del keys["head_dim"]
    size = keys["hidden_size"] // keys["num_attention_heads"]
    return keys | {"rope_parameters": draw(ropes(size, "default linear dynamic"))} | draw(labelled())


ROWS = {"internlm2": Row(InternLM2Config, MODELS, _internlm2(), SIZES)}
