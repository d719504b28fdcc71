"""Models for tests of tasks: a tiny encoder with any head, or an engine that gives random logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tfm.refimpl.checkpoint.open import Generation
from tfm.refimpl.config import Config, Head
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.tasks import Model

from helpers import text_strategies, tiny_models

WORDS = text_strategies.wordpiece()
SIZE = WORDS.get_vocab_size()
MASK = WORDS.token_to_id("[MASK]")


def config(head: Head) -> Config:
    return tiny_models.encoder(vocabulary=SIZE, head=head, layers=1)


@dataclass(frozen=True)
class ModelFiles:
    """The part of a bundle or checkpoint that tasks read."""

    tokenizer: str | None
    chat_template: str | None = None
    generation: Generation = field(default_factory=Generation)
    labels: tuple[str, ...] = ()
    tool_use_template: str | None = None


class Oracle:
    """An engine with random logits; the same row gets the same logits in any batch."""

    def __init__(self, config: Config, outputs: int, seed: int, of_tokens: bool = True) -> None:
        self.config, self.outputs, self.seed, self.of_tokens = config, outputs, seed, of_tokens

    def row(self, ids: list[int]) -> np.ndarray:
        shape = (len(ids), self.outputs) if self.of_tokens else (self.outputs,)
        return np.random.default_rng([self.seed, *ids]).normal(0, 2, shape).astype(np.float32)

    def predict(self, ids: np.ndarray, lengths: np.ndarray, types: np.ndarray | None = None) -> np.ndarray:
        shape = (*ids.shape, self.outputs) if self.of_tokens else (len(ids), self.outputs)
        logits = np.full(shape, np.nan, np.float32)  # nobody may read the logits of padding
        for i, length in enumerate(lengths):
            row = logits[i, :length] if self.of_tokens else logits[i]
            row[...] = self.row(ids[i, :length].tolist())
        return logits


def reader(
    engine: Any, labels: tuple[str, ...] = (), tokenizer: Any = WORDS, mask: int | None = MASK
) -> Model:
    """A Model on an engine."""
    return Model(engine, ModelFiles(tokenizer.to_str(), generation=Generation(mask=mask), labels=labels))


CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}<|im_start|>"


def chat_model(template: str | None = CHAT, context: int = 1024, *, ends: bool = False) -> Model:
    """A Model on the NumPy engine that chats, with random weights; `ends` gives it a token that ends an
    answer."""
    text = text_strategies.byte_level()
    eos = (text.token_to_id("<|im_end|>"),) if ends else ()
    tiny = tiny_models.llama(vocabulary=text.get_vocab_size(), context=context, layers=1)
    engine = NumpyEngine(tiny, tiny_models.weights(tiny, seed=3))
    return Model(engine, ModelFiles(text.to_str(), template, Generation(eos=eos)))


def tiny_reader(head: Head, labels: tuple[str, ...] = ()) -> Model:
    """A Model on the NumPy engine, with random weights."""
    tiny = config(head)
    return reader(NumpyEngine(tiny, tiny_models.weights(tiny, seed=5)), labels)


def pipeline(
    kind: str, oracle: Oracle, labels: tuple[str, ...] = (), tokenizer: Any = WORDS, **config: Any
) -> Any:
    """transformers' pipeline of that kind, on the oracle's logits."""
    import torch
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    base = {
        "token-classification": transformers.BertForTokenClassification,
        "text-classification": transformers.BertForSequenceClassification,
        "fill-mask": transformers.BertForMaskedLM,
    }[kind]

    class FromOracle(base):
        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            logits = np.stack([oracle.row(row) for row in input_ids.tolist()])
            return transformers.modeling_outputs.TokenClassifierOutput(logits=torch.from_numpy(logits))

    FromOracle.__name__ = base.__name__
    named = {"id2label": dict(enumerate(labels))} if labels else {}
    model = FromOracle(transformers.BertConfig(vocab_size=SIZE, **sizes, **named, **config))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "mask", "pad")}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    return transformers.pipeline(kind, model=model, tokenizer=fast, device="cpu")
