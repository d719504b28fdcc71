"""Add a model family in ten lines (families/my_llama.py), and open a checkpoint of it.

    python tests/examples/add_a_family.py OUT

In the repository a family is a file in refimpl/checkpoint/families, found by being there. Here the folder
beside this file joins the package instead. The checkpoint has random weights under the names that
transformers would use.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tfm.refimpl.checkpoint import families
from tfm.refimpl.checkpoint.formats.safetensors import save
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine

KEYS = {
    "model_type": "my_llama", "architectures": ["MyLlamaForCausalLM"], "vocab_size": 50, "hidden_size": 32,
    "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 64, "hidden_act": "silu",
}  # fmt: skip
SHAPES = {
    "embed_tokens.weight": (50, 32), "norm.weight": (32,), "layers.0.input_layernorm.weight": (32,),
    "layers.0.post_attention_layernorm.weight": (32,),
    **{f"layers.0.self_attn.{part}_proj.weight": (32, 32) for part in "qkvo"},
    **{f"layers.0.self_attn.{part}_proj.bias": (32,) for part in "qkvo"},
    "layers.0.mlp.gate_proj.weight": (64, 32), "layers.0.mlp.gate_proj.bias": (64,),
    "layers.0.mlp.up_proj.weight": (64, 32), "layers.0.mlp.up_proj.bias": (64,),
    "layers.0.mlp.down_proj.weight": (32, 64), "layers.0.mlp.down_proj.bias": (32,),
}  # fmt: skip


def main(out: Path) -> None:
    families.__path__.append(str(Path(__file__).parent / "families"))
    families.families.cache_clear()

    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(KEYS))
    numbers = np.random.default_rng(0)
    tensors = {f"model.{name}": numbers.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    tensors["lm_head.weight"] = numbers.standard_normal((50, 32), np.float32)
    save(out / "model.safetensors", tensors)

    checkpoint = open_checkpoint(out)
    print(checkpoint.config)
    engine = NumpyEngine(checkpoint.config, checkpoint.params)
    logits, _ = engine.step(np.array([[1, 2, 3]]), engine.start(1))
    print("the likeliest next token:", logits[0, -1].argmax())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, metavar="OUT")
    main(parser.parse_args().out)
