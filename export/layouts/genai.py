"""Files for onnxruntime-genai, https://github.com/microsoft/onnxruntime-genai.

    genai_config.json       sizes, names of inputs and outputs, special tokens, how tokens are chosen
    model.onnx              the graph of `decoder_graph`, logits at each row's last token
    model.onnx.data         the bundle's weights, and the rotary tables
    tokenizer.json          with tokenizer_config.json, where the bundle has them

The model's `type` is "llama" for every family: there it only says that the graph is a decoder over keys and
values, what the family computes is in the graph. Options of sampling that genai doesn't have are left out.

genai fills up the prompts of a batch on the right, and sees that in their last tokens: where one of several
ends in real tokens that are `pad_token_id`, it leaves these out, and padding on the left it takes for tokens.
Where no token ends a text, it takes `pad_token_id` for one that does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...refimpl.config import Config, EncoderDecoder
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.targets import Target
from . import decoder_graph
from .hub_files import pad_id, tokenizer_config, write_json
from .layout import BundleLayout

# Options of a Sampler that genai has too.
SEARCH = ("temperature", "top_k", "top_p", "repetition_penalty")


def refusal(config: Config, target: Target) -> str | None:
    """The reason why a model can't have the layout; None where it can."""
    if isinstance(config, EncoderDecoder):
        return "of models with an encoder it takes only Whisper, and Marian with a recurrent decoder"
    return decoder_graph.refusal(config, target)


def write(bundle: Bundle, folder: Path) -> None:
    decoder_graph.write(bundle, folder / "model.onnx", data="model.onnx.data", every_position=False)
    write_json(folder / "genai_config.json", genai_config(bundle))
    if (tokenizer := tokenizer_config(bundle)) is not None:
        write_json(folder / "tokenizer_config.json", tokenizer)


def genai_config(bundle: Bundle) -> dict[str, Any]:
    """What genai_config.json says of a bundle."""
    config, generation = bundle.config, bundle.generation
    attention = decoder_graph.attention(config)
    decoder = {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "head_size": attention.head_size,
        "hidden_size": config.embedding.width,
        "num_attention_heads": attention.heads,
        "num_hidden_layers": len(config.layers),
        "num_key_value_heads": attention.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": decoder_graph.KEY,
            "past_value_names": decoder_graph.VALUE,
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": decoder_graph.NEW_KEY,
            "present_value_names": decoder_graph.NEW_VALUE,
        },
    }
    model = {
        "type": "llama",
        "context_length": config.context,
        "vocab_size": config.embedding.vocabulary,
        **({} if generation.bos is None else {"bos_token_id": generation.bos}),
        "eos_token_id": list(generation.eos),
        "pad_token_id": pad_id(bundle),
        "decoder": decoder,
    }
    stated = generation.defaults
    search = {name: stated[name] for name in SEARCH if stated.get(name) is not None}
    search |= {"do_sample": stated.get("temperature") is not None, "max_length": config.context}
    return {"model": model, "search": search | {"past_present_share_buffer": False}}


LAYOUT = BundleLayout("genai", refusal, write, frozenset(SEARCH), must_end=True)
